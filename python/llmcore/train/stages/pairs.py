"""Pairs of answers, of which one is preferred: from rows to batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from llmcore._sequences import common_prefix
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel
from llmcore.generate.chat.prompt import supervised_chat
from llmcore.train.config import FinetuneConfig


class Pair(NamedTuple):
    """Two answers to a prompt, each with it. margin: by how much the chosen one is better, where a row says so."""

    chosen: Example
    rejected: Example
    margin: float = 0.0


def pair_of(lm: LanguageModel, row: Row, context: int) -> Pair:
    """A row's answers in at most so many tokens. ValueError for a row that cannot be used."""
    prompt, answers = _messages_of(row.fields)
    assert lm.chat_template is not None
    both = []
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        ids, mask = supervised_chat(lm.chat_template, lm.tokenizer, prompt + answer, lm.end_ids, len(prompt))
        whole = Example(np.array(ids, np.int32), np.array(mask, bool))
        short = whole.cut(context + 1)
        if not whole.mask[1:].any():
            raise ValueError(f"expected an answer of the assistant in {name}, got none")
        if not short.mask[1:].any():
            raise ValueError(f"expected {name} to begin in the first {context} tokens, got it behind them")
        both.append(short)
    if both[0].ids.tolist() == both[1].ids.tolist():
        raise ValueError("expected chosen and rejected to differ, got the same")
    margin = row.fields.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not np.isfinite(margin):
        raise ValueError(f"expected margin a number, got {margin!r:.50}")
    return Pair(both[0], both[1], float(margin))


def _messages_of(fields: Mapping[str, Any]) -> tuple[list, list[list]]:
    """The messages before the answers, and those of the chosen and the rejected one."""
    if "chosen" not in fields or "rejected" not in fields:
        names = ", ".join(list(map(str, fields))[:6]) or "none"
        raise ValueError(f"expected prompt, chosen and rejected; the fields are: {names}"[:200])
    answers = [fields["chosen"], fields["rejected"]]
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if all(isinstance(a, str) for a in answers):
        answers = [[{"role": "assistant", "content": a}] for a in answers]
    if not all(isinstance(a, list) for a in answers) or not isinstance(prompt, (list, type(None))):
        raise ValueError("expected prompt, chosen and rejected as texts, or as lists of messages")
    if prompt is None:  # two conversations that begin alike
        same = common_prefix(*answers)
        prompt, answers = answers[0][:same], [a[same:] for a in answers]
    if not prompt:
        raise ValueError("expected a prompt, got none")
    return prompt, answers


class PairBatches:
    """Pairs in batches, each a function of its number. The examples are numbered chosen, rejected, chosen, rejected, ..."""

    def __init__(self, pairs: Sequence[Pair], config: FinetuneConfig):
        self.pairs, self._together = pairs, config.batch_size * config.accumulation
        self._accumulation = config.accumulation
        self.examples = ExampleBatches([e for p in pairs for e in p[:2]], 1, config.context, False, config.seed)
        self._order = ExampleBatches([p.chosen for p in pairs], self._together, config.context, False, config.seed)

    @property
    def steps_per_epoch(self) -> float:
        return self._order.steps_per_epoch

    def numbers(self, step: int) -> list[list[int]]:
        """Of the pairs in each micro-batch of that update."""
        numbers = [row[0] for row in self._order.numbers(step)]
        n = len(numbers) // self._accumulation
        return [numbers[i : i + n] for i in range(0, len(numbers), n)]

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Of the examples of these pairs: the chosen ones, then the rejected ones."""
        return [2 * i for i in numbers] + [2 * i + 1 for i in numbers]

    def of(self, numbers: Sequence[int]) -> ExampleBatch:
        """These pairs: 2B rows, the chosen ones first."""
        return self.examples.of([[i] for i in self.rows(numbers)])

    def in_order(self, size: int) -> list[list[int]]:
        """The numbers of all pairs, so many at a time."""
        return [list(range(i, min(i + size, len(self.pairs)))) for i in range(0, len(self.pairs), size)]
