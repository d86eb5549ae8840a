"""What rows hold beside their messages reaches the chat template, in every stage; so do the settings of a run."""

import json

import numpy as np
import pytest

from llmcore.data.rows import Row
from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.reward_model import RewardModel
from llmcore.train import DPOConfig, GRPOConfig, Report, SFTConfig, sft
from llmcore.train.stages.finetune import prepare
from llmcore.train.stages.kto import labelled_of
from llmcore.train.stages.learning import Learning
from llmcore.train.stages.pairs import pair_of
from llmcore.train.stages.rollouts import task_of
from llmcore.train.stages.sft import examples_of

TEMPLATE = (
    "{% for t in tools or [] %}T{{ t.function.name }} {% endfor %}{% for d in documents or [] %}D{{ d.text }} {% endfor %}"
    "{% if style %}S{{ style }} {% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]
BESIDE = {"tools": TOOLS, "documents": [{"text": "doc"}], "chat_template_kwargs": {"style": "plain"}}
BEFORE = "Tadd Ddoc Splain "
SAID = "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def lm(base):
    lm = load(base, "float32")
    lm.chat_template = ChatTemplate(
        {"default": TEMPLATE, "short": "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}"}
    )
    return lm


def example_of(lm, row, config=None):
    (example,) = examples_of(Learning(lm), row, config)
    return example


def text(lm, ids):
    return lm.tokenizer.decode([int(i) for i in ids])


@pytest.mark.parametrize("as_json", [False, True])
def test_columns_reach_the_template(lm, as_json):
    beside = {name: json.dumps(value) for name, value in BESIDE.items()} if as_json else BESIDE
    row = Row({"prompt": "A?", "completion": "B.", **beside}, "here")
    assert text(lm, example_of(lm, row).ids) == f"{BEFORE}{SAID}B.<|im_end|>\n"
    said = [{"role": "user", "content": "A?"}, {"role": "assistant", "content": "B."}]
    assert text(lm, example_of(lm, Row({"messages": said, **beside}, "here")).ids) == f"{BEFORE}{SAID}B.<|im_end|>\n"
    pair = pair_of(Learning(lm), Row({"prompt": "A?", "chosen": "B.", "rejected": "C.", **beside}, "here"))
    assert [text(lm, e.ids) for e in pair[:2]] == [f"{BEFORE}{SAID}{answer}.<|im_end|>\n" for answer in "BC"]
    task = task_of(lm, Row({"prompt": "A?", **beside}, "here"), GRPOConfig(context=100, max_tokens=5))
    assert text(lm, task.ids) == f"{BEFORE}{SAID}"
    (found,) = labelled_of(Learning(lm), Row({"prompt": "A?", "completion": "B.", "label": True, **beside}, "here"))
    assert text(lm, found.example.ids) == f"{BEFORE}{SAID}B.<|im_end|>\n"


def test_reward_models_heed_columns(lm):
    model = RewardModel(lm, np.ones((1, lm.config.width)))
    columns = {name: [value, None] for name, value in BESIDE.items()}
    with_them, without = model(["A?", "A?"], ["B.", "B."], **columns, other=[1, 2])
    assert with_them != without
    assert without == pytest.approx(model.score("A?", "B."), rel=1e-5)


def test_settings_of_a_run(lm):
    row = {"prompt": "A?", "completion": "B."}
    settings = SFTConfig(chat_template_kwargs='{"style": "run"}')
    assert settings.chat_template_kwargs == {"style": "run"}
    assert text(lm, example_of(lm, Row(row, "x"), settings).ids).startswith("Srun <|im_start|>")
    own = row | {"chat_template_kwargs": {"style": "row"}}
    assert text(lm, example_of(lm, Row(own, "x"), settings).ids).startswith("Srow <|im_start|>")
    own = row | {"chat_template_kwargs": {"style": None}, "tools": None, "documents": None}  # null is absent
    assert text(lm, example_of(lm, Row(own, "x"), settings).ids).startswith("Srun <|im_start|>")
    short = DPOConfig(chat_template="short")
    assert text(lm, example_of(lm, Row(row, "x"), short).ids) == "A?<|im_end|>B.<|im_end|>"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1]", "expected chat_template_kwargs as an object, got list"),
        ("{", "chat_template_kwargs: expected JSON"),
        (3, "expected chat_template_kwargs of type object, got 3"),
    ],
)
def test_wrong_settings(value, message):
    with pytest.raises(ValueError, match=rf"\[config\] {message}"):
        SFTConfig(chat_template_kwargs=value)


def test_a_template_from_a_file_stays_with_the_model(base, tmp_path):
    file, data = tmp_path / "own.jinja", tmp_path / "rows.jsonl"
    file.write_text("{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}"
                    "{% if add_generation_prompt %}[assistant]{% endif %}")  # fmt: skip
    data.write_text("".join(json.dumps({"prompt": f"{i}?", "completion": "B."}) + "\n" for i in range(8)))
    config = SFTConfig(model=str(base), data=str(data), out=str(tmp_path / "run"), steps=1, context=64, batch_size=2,
                       chat_template=str(file), dtype="float32", sample_every=0, eval_every=0)  # fmt: skip
    sft(config, report=Report())
    again = load(tmp_path / "run")
    assert again.chat_template.source == file.read_text()
    assert text(again, again.chat_prompt([{"role": "user", "content": "A"}])) == "[user]A<|im_end|>[assistant]"


def test_templates_that_are_not_there(lm, tmp_path):
    with pytest.raises(ValueError, match="expected chat_template one of default, short, got 'rag'"):
        prepare(lm, "rag")
    with pytest.raises(ValueError, match=r"none\.jinja: expected a chat template, got No such file"):
        prepare(lm, str(tmp_path / "none.jinja"))


def test_columns_that_the_template_never_reads(base, tmp_path):
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"prompt": "A?", "completion": "B.", "tools": TOOLS}) + "\n")
    config = SFTConfig(model=str(base), data=str(data), out=str(tmp_path / "run"), steps=1, context=64, dtype="float32")
    with pytest.raises(
        CorpusError, match=r"rows\.jsonl:1: \[chat\] .*: expected no tools: the template does not use them"
    ):
        sft(config, report=Report())
