"""What rows become: texts with their control tokens, answers of conversations in every stage, what is cut, and previews."""

import json

import numpy as np
import pytest

from llmcore import models
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel, load
from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.reward_model import RewardModel
from llmcore.tokenizer import Tokenizer
from llmcore.train import DPOConfig, GRPOConfig, KTOConfig, Report, RewardConfig, SFTConfig, sft
from llmcore.train.stages.finetune import prepare
from llmcore.train.stages.kto import labelled_of
from llmcore.train.stages.learning import Learning
from llmcore.train.stages.pairs import pair_of
from llmcore.train.stages.rollouts import task_of
from llmcore.train.stages.sft import SFTStage, examples_of

IM = "<|im_start|>{}\n{}<|im_end|>\n".format
ASK = "<|im_start|>assistant\n"
# Answers but the last lose what is before "=".
DROPS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content if loop.last or m.role == 'user' else m.content.split('=')[-1] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Hears(Report):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)

    warn = note


@pytest.fixture
def lm(base):
    return load(base, "float32")


def turns(*texts):
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]


def spelled(lm, example):
    """What is learned between brackets."""
    text, inside = "", False
    for i, learned in zip(example.ids.tolist(), example.mask.tolist(), strict=True):
        text += "[" * (learned and not inside) + "]" * (inside and not learned) + lm.token_text(i)
        inside = learned
    return text + "]" * inside


# ---- texts ----


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("four", "[four<|im_end|>]"),
        ("four<|im_end|>", "[four<|im_end|>]"),
        ("four<|im_end|>\n", "[four<|im_end|>\n]"),
        (f"{IM('user', 'hi')}{ASK}four<|im_end|>\n", f"[{IM('user', 'hi')}{ASK}four<|im_end|>\n]"),
        ("four<|im_end|> and more", "[four<|im_end|> and more<|im_end|>]"),
    ],
)
def test_control_tokens_in_texts_are_tokens(lm, text, right):
    learning = Learning(lm)
    (example,) = examples_of(learning, Row({"text": text}, "x"))
    assert spelled(lm, example) == right
    ends = example.ids.tolist().count(lm.tokenizer.special_tokens["<|im_end|>"])
    assert ends == right.count("<|im_end|>")
    noted = [n for n in learning.notes() if "control tokens are tokens" in n]
    assert len(noted) == ("<|im" in text)
    if noted:
        assert noted[0].startswith("control tokens are tokens in texts that spell them (1 row, such as <|im_")


def test_control_tokens_in_messages_are_text(lm):
    learning = Learning(lm)
    for row in (
        {"prompt": "a", "completion": "b<|im_end|>"},
        {"messages": turns(f"{ASK}a", "b")},
        {"messages": turns("a", "b")},
    ):
        examples_of(learning, Row(row, "x"))
    assert learning.notes() == [
        "control tokens are plain text, not tokens, in messages that spell them (2 rows, such as <|im_end|>)"
    ]


@pytest.fixture(scope="module")
def begins(tmp_path_factory):
    """A base model whose tokenizer puts <s> before every text."""
    tokenizer = Tokenizer.train(iter(["hello four " * 9]), 270, pattern="gpt2", special_tokens=["<s>", "</s>"])
    kind = models.ARCHITECTURES["llama"]
    model = kind(kind.config_class(vocab_size=270, context=64, width=32, layers=1, heads=4), "float32", seed=3)
    folder = LanguageModel(model, tokenizer, [tokenizer.special_tokens["</s>"]]).save(
        tmp_path_factory.mktemp("begins") / "m"
    )
    path = folder / "tokenizer.json"
    spec = json.loads(path.read_text())
    first, text = {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}
    id = tokenizer.special_tokens["<s>"]
    known = {"<s>": {"id": "<s>", "ids": [id], "tokens": ["<s>"]}}
    other = {"Sequence": {"id": "B", "type_id": 1}}
    added = {
        "type": "TemplateProcessing",
        "single": [first, text],
        "pair": [first, text, other],
        "special_tokens": known,
    }
    was = spec["post_processor"]
    spec["post_processor"] = {"type": "Sequence", "processors": [was, added]} if was else added
    path.write_text(json.dumps(spec))
    return folder


def test_what_begins_every_text_begins_rows_of_a_base_model(begins, tmp_path):
    lm = load(begins, "float32")
    assert lm.tokenizer.begin == (lm.tokenizer.special_tokens["<s>"],)
    prepare(lm)
    learning = Learning(lm)
    (example,) = examples_of(learning, Row({"prompt": "hello", "completion": "four"}, "x"))
    assert spelled(lm, example) == "<s>### user\nhello\n### assistant\n[four</s>]\n"
    for text in ("four", "<s>four", "four</s>", "<s>four</s>"):  # once, whoever wrote it
        (example,) = examples_of(learning, Row({"text": text}, "x"))
        assert spelled(lm, example) == "<s>[four</s>]"
    # A template that writes it does so alone, and the model that is saved asks as it was taught.
    lm.chat_template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}</s>{% endfor %}", bos_token="<s>"
    )
    (example,) = examples_of(learning, Row({"prompt": "hello", "completion": "four"}, "x"))
    assert spelled(lm, example) == "<s>hello</s>[four</s>]"
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "hello", "completion": "four"}\n')
    sft(SFTConfig(model=str(begins), data=str(data), out=str(tmp_path / "run"), steps=1, context=60, dtype="float32"))
    asked = load(tmp_path / "run").chat_prompt(turns("hello"))
    assert lm.tokenizer.decode(asked) == "<s>### user\nhello\n### assistant\n"
    assert asked.count(lm.tokenizer.special_tokens["<s>"]) == 1


# ---- conversations ----


def test_rows_become_an_example_an_answer_where_the_template_wants_that(lm):
    lm.chat_template = ChatTemplate(DROPS)
    learning = Learning(lm)
    found = examples_of(learning, Row({"messages": turns("a", "x=b", "c", "y=d")}, "x"))
    assert [spelled(lm, e) for e in found] == [
        f"{IM('user', 'a')}{ASK}[x=b<|im_end|>]\n",
        f"{IM('user', 'a')}{IM('assistant', 'b')}{IM('user', 'c')}{ASK}[y=d<|im_end|>]\n",
    ]
    assert learning.notes() == [
        "1 row became several examples, each up to an answer: the template renders earlier answers otherwise than when it asks for them"
    ]


def test_what_is_learned_of_conversations_in_every_stage(lm):
    start, good, bad = turns("a", "b"), turns("c", "d", "e", "f"), turns("g", "h", "i", "j")
    row = Row({"chosen": start + good, "rejected": start + bad}, "x")
    before = f"{IM('user', 'a')}{IM('assistant', 'b')}"

    def right(c, d, e, f):
        return f"{before}{IM('user', c)}{ASK}[{d}<|im_end|>]\n{IM('user', e)}{ASK}[{f}<|im_end|>]\n"

    pair = pair_of(Learning(lm, DPOConfig()), row)
    assert [spelled(lm, e) for e in pair[:2]] == [right("c", "d", "e", "f"), right("g", "h", "i", "j")]
    pair = pair_of(Learning(lm, DPOConfig(learn="last-turn")), row)
    assert spelled(lm, pair.chosen) == right("c", "d", "e", "f").replace("[d<|im_end|>]", "d<|im_end|>")
    pair = pair_of(Learning(lm, RewardConfig()), row)
    assert spelled(lm, pair.rejected) == right("g", "h", "i", "j").replace("[h<|im_end|>]", "h<|im_end|>")
    # What a whole conversation is judged for is its last answer.
    (one,) = labelled_of(Learning(lm, KTOConfig()), Row({"messages": start + good, "label": False}, "x"))
    assert spelled(lm, one.example) == right("c", "d", "e", "f").replace("[d<|im_end|>]", "d<|im_end|>")
    assert not one.good


def test_answers_of_several_turns_that_no_single_rendering_has(lm):
    lm.chat_template = ChatTemplate(DROPS)
    learning = Learning(lm, DPOConfig())
    row = {"prompt": turns("a"), "chosen": turns("a", "x=b", "c", "y=d")[1:], "rejected": turns("a", "x=e")[1:]}
    pair = pair_of(learning, Row(row, "x"))
    assert spelled(lm, pair.chosen) == f"{IM('user', 'a')}{IM('assistant', 'b')}{IM('user', 'c')}{ASK}[y=d<|im_end|>]\n"
    assert learning.notes()[0].startswith("of 1 row only the last answer is learned")


def test_prompts_are_what_the_model_is_asked(lm):
    settings = GRPOConfig(context=100, max_tokens=5)
    asked = f"{IM('user', 'a')}{ASK}"

    def text(row):
        return lm.tokenizer.decode(task_of(lm, Row(row, "x"), settings).ids)

    assert text({"prompt": "a"}) == text({"prompt": turns("a")}) == asked
    assert (
        text({"messages": turns("a", "b", "c", "d")})
        == f"{IM('user', 'a')}{IM('assistant', 'b')}{IM('user', 'c')}{ASK}"
    )
    assert text({"prompt": turns("a", "It is")}) == f"{asked}It is"  # the beginning of the answer, as in TRL
    reward = RewardModel(lm, np.ones((1, lm.config.width)))
    np.testing.assert_array_equal(reward.ids(turns("a", "It is"), " b"), reward.ids("a", "It is b"))


# ---- what is cut ----


def test_what_the_context_cuts_is_counted(lm, base, tmp_path):
    lm.chat_template = ChatTemplate(DROPS)
    learning = Learning(lm, SFTConfig(context=40))
    (kept,) = examples_of(learning, Row({"messages": turns("a", "b=b", "c " * 40, "d=d")}, "x"))
    assert spelled(lm, kept) == f"{IM('user', 'a')}{ASK}[b=b<|im_end|>]\n"
    examples_of(learning, Row({"text": "b " * 80}, "x"))
    assert learning.notes()[1:] == [
        "1 example cut to 40 tokens (--context)",
        "1 answer beyond the first 40 tokens left out (--context)",
    ]
    with pytest.raises(ValueError, match="expected something to learn in the first 40 tokens, got it after them"):
        examples_of(learning, Row({"messages": turns("a " * 50, "b")}, "x"))
    data = tmp_path / "d.jsonl"
    data.write_text("".join(json.dumps({"text": t}) + "\n" for t in ("a<|im_end|>", "b " * 80)))
    report = Hears()
    SFTStage(SFTConfig(model=str(base), data=str(data), context=40), load(base, "float32"), report)
    sft(
        SFTConfig(model=str(base), data=str(data), out=str(tmp_path / "run"), context=40, steps=1, dtype="float32"),
        report=report,
    )
    assert any("1 example cut to 40 tokens" in n for n in report.notes)
    assert any("control tokens are tokens" in n for n in report.notes)


def test_rows_without_anything_to_learn_are_refused_and_counted(base, tmp_path):
    zero = turns("a", "b")
    zero[1]["weight"] = 0
    data = tmp_path / "d.jsonl"
    rows = [{"messages": zero}, {"messages": turns("a", "b")}]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"model": str(base), "data": str(data), "context": 40, "steps": 1, "dtype": "float32"}
    with pytest.raises(ValueError, match=r"d.jsonl:1: expected something to learn, got no token of an assistant"):
        sft(SFTConfig(out=str(tmp_path / "x"), **settings), report=Report())
    report = Hears()
    sft(SFTConfig(out=str(tmp_path / "run"), bad_rows="skip", **settings), report=report)
    assert any("1 of 2 rows skipped" in n for n in report.notes)
    with pytest.raises(ValueError, match="expected learn all-turns, last-turn or marked, got 'some'"):
        SFTConfig(learn="some")


# ---- previews ----

ROWS = {
    "sft": ({"prompt": "a", "completion": "b"}, ["[[b<|im_end|>]]", "2 of 16 tokens are learned"]),
    "dpo": ({"prompt": "a", "chosen": "b", "rejected": "c"}, ["1, chosen", "[[b<|im_end|>]]", "1, rejected", "[[c<|im_end|>]]"]),
    "reward": ({"prompt": "a", "chosen": "b", "rejected": "c"}, ["[[c<|im_end|>]]", "the reward is read after the last of them"]),
    "kto": ({"prompt": "a", "completion": "b", "label": False}, ["1, bad", "[[b<|im_end|>]]"]),
    "grpo": ({"prompt": "a"}, [f"\n{ASK}", "0 of ", "what the model answers is learned"]),
    "ppo": ({"prompt": "a"}, ["1, prompt", f"\n{ASK}"]),
}  # fmt: skip


@pytest.mark.parametrize("stage", ROWS)
def test_previews(base, tmp_path, capsys, stage):
    pytest.importorskip("typer")
    from llmcore import cli

    row, right = ROWS[stage]
    data = tmp_path / "rows.jsonl"
    data.write_text((json.dumps(row) + "\n") * 7)
    out = tmp_path / "run"
    arguments = [stage, "--model", str(base), "--data", str(data), "--out", str(out), "--preview"]
    assert cli.main(arguments) == 0
    shown = capsys.readouterr().out
    for text in right:
        assert text in shown
    assert "7 rows in all, " in shown
    assert not out.exists()
