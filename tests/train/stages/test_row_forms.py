"""The same conversation in every form is learned as the same tokens, in every stage and from every kind of file."""

import csv
import json

import numpy as np
import pytest

from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.generate.chat.template import ChatTemplate
from llmcore.train import DPOConfig, GRPOConfig, KTOConfig, Report, SFTConfig
from llmcore.train.stages.dpo import DPOStage
from llmcore.train.stages.grpo import GRPOStage
from llmcore.train.stages.kto import KTOStage
from llmcore.train.stages.sft import SFTStage

ASKED, TOLD, OTHER = ({"role": r, "content": c} for r, c in (("user", "A?"), ("assistant", "B."), ("assistant", "C.")))
SAID = "<|im_start|>user\nA?<|im_end|>\n<|im_start|>assistant\n"
STAGES = {"sft": (SFTStage, SFTConfig), "dpo": (DPOStage, DPOConfig), "kto": (KTOStage, KTOConfig)}

SFT = {
    "messages": {"messages": [ASKED, TOLD]},
    "nulls": {"messages": [{**ASKED, "tool_calls": None}, {**TOLD, "name": None}], "tools": None, "group": None},
    "parts": {"messages": [ASKED, {"role": "assistant", "content": [{"type": "text", "text": "B."}]}]},
    "JSON": {"messages": json.dumps([ASKED, TOLD])},
    "ShareGPT": {"conversations": [{"from": "human", "value": "A?"}, {"from": "gpt", "value": "B."}]},
    "prompt": {"prompt": "A?", "completion": "B."},
    "lists": {"prompt": [ASKED], "completion": [TOLD]},
    "Alpaca": {"instruction": "A?", "input": "", "output": "B."},
    "question": {"question": "A?", "answer": "B."},
    "weights": {"messages": [{**ASKED, "weight": 0}, {**TOLD, "weight": 1}]},
}
PAIRS = {
    "texts": {"prompt": "A?", "chosen": "B.", "rejected": "C."},
    "UltraFeedback": {"prompt": "A?", "chosen": [ASKED, TOLD], "rejected": [ASKED, OTHER], "messages": [ASKED, TOLD]},
    "whole": {"chosen": [ASKED, TOLD], "rejected": [ASKED, OTHER]},
    "transcripts": {"chosen": "\n\nHuman: A?\n\nAssistant: B.", "rejected": "\n\nHuman: A?\n\nAssistant: C."},
    "OpenAI": {"input": {"messages": [ASKED]}, "preferred_output": [TOLD], "non_preferred_output": [OTHER]},
    "question": {"question": "A?", "chosen": "B.", "rejected": "C."},
}


@pytest.fixture
def lm(base):
    return load(base, "float32")


def examples(lm, stage, rows, tmp_path, **settings):
    """What a stage learns from rows: texts with the learned tokens between brackets."""
    path = rows
    if isinstance(rows, list):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    kind, config = STAGES[stage]
    report = settings.pop("report", Report())
    settings = {"validation_fraction": 0.0, "context": 90, "batch_size": 1, **settings}
    made = kind(config(model="x", data=str(path), **settings), lm, report)
    found = made.train.examples if stage != "dpo" else made.train.examples.examples
    return [spelled(lm, e) for e in found]


def spelled(lm, example):
    text, inside = "", False
    for i, learned in zip(example.ids.tolist(), example.mask.tolist(), strict=True):
        text += "[" * (learned and not inside) + "]" * (inside and not learned) + lm.token_text(i)
        inside = learned
    return text + "]" * inside


@pytest.mark.parametrize("name", SFT)
def test_conversations(lm, tmp_path, name):
    assert examples(lm, "sft", [SFT[name]], tmp_path) == [f"{SAID}[B.<|im_end|>]\n"]
    assert examples(lm, "kto", [{**SFT[name], "label": True}], tmp_path) == [f"{SAID}[B.<|im_end|>]\n"]


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("stage", ["dpo", "kto"])
def test_pairs(lm, tmp_path, name, stage):
    assert examples(lm, stage, [PAIRS[name]], tmp_path) == [f"{SAID}[{a}.<|im_end|>]\n" for a in "BC"]


def test_files_of_every_kind(lm, tmp_path):
    row = {"prompt": "A?", "completion": "B."}
    (tmp_path / "a.json").write_text(json.dumps([row]))
    with open(tmp_path / "a.csv", "w", newline="") as file:
        csv.writer(file).writerows([row.keys(), row.values()])
    with open(tmp_path / "a.tsv", "w", newline="") as file:
        csv.writer(file, delimiter="\t").writerows([["Question", "Answer"], row.values()])
    for name in ("a.json", "a.csv", "a.tsv"):
        assert examples(lm, "sft", tmp_path / name, tmp_path) == [f"{SAID}[B.<|im_end|>]\n"]


@pytest.mark.parametrize(
    "columns", [{"prompt": "q", "completion": "a"}, "prompt=q, completion=a", '{"prompt":"q","completion":"a"}']
)
def test_columns_of_ones_own(lm, tmp_path, columns):
    row = {"q": "A?", "a": "B.", "answer": "no", "text": "no"}
    assert examples(lm, "sft", [row], tmp_path, columns=columns) == [f"{SAID}[B.<|im_end|>]\n"]
    with pytest.raises(
        CorpusError, match=r"rows.jsonl:1: expected messages, .* the columns are: q, a \(--columns prompt=NAME"
    ):
        examples(lm, "sft", [{"q": "A?", "a": "B."}], tmp_path)
    with pytest.raises(
        CorpusError, match=r"rows.jsonl:1: expected a column 'question', as --columns says; the columns are: q, a"
    ):
        examples(lm, "sft", [{"q": "A?", "a": "B."}], tmp_path, columns={"prompt": "question"})


@pytest.mark.parametrize("columns", ["prompt", "prompt=", "=q", "prompt=q,prompt=r", "{", 3, {"prompt": 3}])
def test_columns_that_say_nothing(columns):
    with pytest.raises(ValueError, match=r"\[config\] .*columns"):
        SFTConfig(columns=columns)


def test_answers_of_weight_0_are_not_learned(lm, tmp_path):
    """OpenAI's fine-tuning guide: an assistant's message of weight 0 is read and not learned. No template sees the weight."""
    lm.chat_template = ChatTemplate(
        "{% for m in messages %}{% if 'weight' in m %}W{% endif %}{{ m.content }}<|im_end|>{% endfor %}"
    )
    said = [ASKED, {**OTHER, "weight": 0}, ASKED, {**TOLD, "weight": 1}]
    learned = "A?<|im_end|>C.<|im_end|>A?<|im_end|>[B.<|im_end|>]"
    assert examples(lm, "sft", [{"messages": said}], tmp_path) == [learned]
    with pytest.raises(CorpusError, match="expected something to learn"):
        examples(lm, "sft", [{"messages": said[:2]}], tmp_path)
    with pytest.raises(CorpusError, match=r"messages\[1\]: expected weight 0 or 1, got 2"):
        examples(lm, "sft", [{"messages": [ASKED, {**TOLD, "weight": 2}]}], tmp_path)


def test_rows_that_are_skipped_are_named(lm, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "A?", "completion": "B."}\n{"prompt": "A\n{"prompt": "A?"}\n{"text": "\xe9"}\n')

    class Hears(Report):
        def warn(self, text):
            warned.append(text)

    warned = []
    assert len(examples(lm, "sft", path, tmp_path, bad_rows="skip", report=Hears())) == 1
    first, *places = next(w for w in warned if "skipped" in w).split("\n")
    assert first == "3 of 4 rows skipped:"
    assert sorted(p.split(" ")[2] for p in places) == [f"{path}:{n}:" for n in (2, 3, 4)]


def test_columns_that_are_left_out_are_told(lm, tmp_path):
    class Hears(Report):
        def note(self, text):
            said.append(text)

    said = []
    row = {"instruction": "A?", "input": "", "output": "B.", "text": "say: A? B.", "tools": []}
    examples(lm, "sft", [row], tmp_path, report=Hears())
    examples(lm, "dpo", [{**PAIRS["UltraFeedback"], "score": 1}], tmp_path, report=Hears())
    examples(lm, "sft", [SFT["prompt"]], tmp_path, report=Hears())
    assert [s for s in said if "left out" in s] == [
        "read of each row: instruction, output; left out: text",
        "read of each row: chosen, rejected; left out: prompt, messages, score",
    ]


def test_rewards_get_none_for_what_a_row_does_not_have(lm, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "A?", "answer": "4"}\n{"question": "B?", "answer": null}\n{"question": "C?"}\n')
    config = GRPOConfig(model="x", data=str(path), validation_fraction=0.0, context=90, max_tokens=5, batch_size=8)
    stage = GRPOStage(config, lm, None, Report(), {"r": lambda prompts, completions, answer: np.zeros(len(prompts))})
    assert [(t.prompt, t.fields) for t in stage.train.tasks] == [
        (f"{q}?", {"question": f"{q}?", "answer": a}) for q, a in (("A", "4"), ("B", None), ("C", None))
    ]
