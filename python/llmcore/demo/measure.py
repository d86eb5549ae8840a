"""Measures what the stages change, on questions that none of them was trained on."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import autograd
from llmcore.data.examples import ExampleBatches, is_held_out
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.data.rows import Row
from llmcore.train.config import SFTConfig
from llmcore.train.stages import finetune, rewards
from llmcore.train.stages.dpo import logps
from llmcore.train.stages.learning import Learning
from llmcore.train.stages.pairs import pair_of
from llmcore.train.stages.sft import examples_of, token_figures

if TYPE_CHECKING:
    from llmcore.generate import LanguageModel

HELD_OUT = 0.05  # of the modules
WORDS = 3
ASK = f"{{}} Answer in {['zero', 'one', 'two', 'three', 'four', 'five'][WORDS]} words."
CONTEXT, MOST = 192, 40  # tokens of a question with its answer, and of an answer

COLUMNS = {
    "loss": "answer loss",
    "f1": "word F1",
    "ends": "ends",
    "prefers": "prefers",
    "short": f"{WORDS} words",
}


@dataclass
class Questions:
    """The held-out questions and pairs, at most `count` of each."""

    count: int = 100
    rows: list[dict[str, str]] = field(default_factory=list)
    pairs: list[dict[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rows = _evenly([r for r in python_qa() if is_held_out(r["group"], HELD_OUT)], self.count)
        self.pairs = _evenly([p for p in python_qa_pairs() if is_held_out(p["group"], HELD_OUT)], self.count)


def measure(lm: LanguageModel, questions: Questions) -> dict[str, Any]:
    """Return the figures of `COLUMNS`, and `answers`, (question, answer) pairs. loss: nats per token of the right answer.
    f1: of the words of the model's own answer against those of the right one. ends: the fraction of answers that the model
    ends itself. short: the reward for answers of three words. margins: log-probability of the better answer minus that of
    the worse, for each pair."""
    finetune.prepare(lm)
    learning = Learning(lm, SFTConfig(context=CONTEXT))
    examples = [e for r in questions.rows for e in examples_of(learning, Row(r, "held out"))]
    nats = count = 0.0
    for batch in ExampleBatches(examples, 16, CONTEXT, False, 0).in_order(16):
        n, _, c = token_figures(lm, batch)
        nats, count = nats + n, count + c
    sums: list[float] = []
    pairs = [pair_of(learning, Row(p, "held out")) for p in questions.pairs]
    both = ExampleBatches([e for p in pairs for e in p[:2]], 16, CONTEXT, False, 0)
    with autograd.no_grad():
        for batch in both.in_order(16):
            sums += logps(lm, batch).numpy().tolist()
    prompts = [r["prompt"] for r in questions.rows]
    answers = _answers(lm, prompts)
    short = [str(a) for a in _answers(lm, [ASK.format(p) for p in prompts])]
    return {
        "loss": nats / count,
        "f1": float(np.mean([f1(str(a), r["completion"]) for a, r in zip(answers, questions.rows, strict=True)])),
        "ends": float(np.mean([a.finish_reason == "stop" for a in answers])),
        "margins": np.array(sums[::2]) - np.array(sums[1::2]),
        "short": float(np.mean(rewards.length(prompts, short, words=[WORDS] * len(short)))),
        "answers": [(p, str(a)) for p, a in zip(prompts, answers, strict=True)],
        "short_answers": [(p, a) for p, a in zip(prompts, short, strict=True)],
    }


def prefers(margins: np.ndarray, before: np.ndarray) -> float:
    """Return the fraction of pairs whose better answer gained on the worse one; ties count half."""
    return float(np.mean((margins > before) + 0.5 * (margins == before)))


def f1(answer: str, wanted: str) -> float:
    """Return 2PR / (P + R) of the words of two texts, counted with repetition (Rajpurkar et al. 2016)."""
    a, b = (Counter(re.findall(r"\w+", t.lower())) for t in (answer, wanted))
    shared = sum((a & b).values())
    return 2 * shared / (sum(a.values()) + sum(b.values())) if shared else 0.0


def _answers(lm: LanguageModel, prompts: list[str]) -> list:
    ids = [lm.chat_prompt([{"role": "user", "content": p}]) for p in prompts]
    return lm.generate(ids, MOST, temperature=0)


def _evenly(rows: list, count: int) -> list:
    """Return at most `count` rows at even distances."""
    return [rows[i * len(rows) // count] for i in range(min(count, len(rows)))] if len(rows) > count else rows
