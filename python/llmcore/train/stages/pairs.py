"""Pairs of answers of which one is preferred: from rows to batches, and what the stages share that learn from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import autograd
from llmcore._tensor import Tensor
from llmcore.data import conversations
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, parts_of
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel
from llmcore.train.config import FinetuneConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.learning import Learning


class Pair(NamedTuple):
    """Two answers to a prompt, each with the prompt. margin: by how much the chosen one is better, if the row says so."""

    chosen: Example
    rejected: Example
    margin: float = 0.0


def pair_of(learning: Learning, row: Row, config: FinetuneConfig | None = None) -> Pair:
    """Return the two answers of a row. Raises ValueError for a malformed row."""
    prompt, *answers = conversations.answers(row.fields)
    options = finetune.chat_options(learning.lm, row.fields, config)
    both = []
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        try:
            both.append(learning.answer(prompt + answer, len(prompt), options))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if both[0].ids.tolist() == both[1].ids.tolist():
        raise ValueError("expected chosen and rejected to differ, got the same")
    margin = row.fields.get("margin", 0.0)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)) or not np.isfinite(margin):
        raise ValueError(f"expected margin a number, got {margin!r:.50}")
    return Pair(both[0], both[1], float(margin))


class PairBatches:
    """Batches of pairs, each a function of its number. The examples are numbered chosen, rejected, chosen, rejected, ..."""

    def __init__(self, pairs: Sequence[Pair], config: FinetuneConfig):
        self.pairs, self._together = pairs, config.batch_size * config.accumulation
        self._accumulation = config.accumulation
        self.examples = ExampleBatches([e for p in pairs for e in p[:2]], 1, config.context, False, config.seed)
        self._order = ExampleBatches([p.chosen for p in pairs], self._together, config.context, False, config.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self._order.steps_per_epoch

    def numbers(self, step: int) -> list[list[int]]:
        """Return the numbers of the pairs in each micro-batch of an update."""
        numbers = [row[0] for row in self._order.numbers(step)]
        return [numbers[part] for part in parts_of(len(numbers), self._accumulation)]

    def rows(self, numbers: Sequence[int]) -> list[int]:
        """Return the numbers of the examples of these pairs: the chosen ones, then the rejected ones."""
        return [2 * i for i in numbers] + [2 * i + 1 for i in numbers]

    def of(self, numbers: Sequence[int]) -> ExampleBatch:
        """Return these pairs: 2B rows, the chosen ones first."""
        return self.examples.of([[i] for i in self.rows(numbers)])

    def in_order(self, size: int) -> list[list[int]]:
        """Return the numbers of all pairs, `size` at a time."""
        return [list(range(i, min(i + size, len(self.pairs)))) for i in range(0, len(self.pairs), size)]


Figures = dict[str, np.ndarray]  # by name: a number per pair


class PairStage(finetune.FinetuneStage):
    """A stage that learns from pairs of answers."""

    def __init__(self, config: FinetuneConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm)
        learning = Learning(lm, config)
        rows = finetune.read(config, self.name, lambda row: pair_of(learning, row, config), report)
        finetune.say(report, learning.notes())
        self.batch_size = config.batch_size
        self.digest = rows.digest
        self.train, self.held_out = PairBatches(rows.train, config), PairBatches(rows.held_out, config)
        self._seen: list[Figures] = []

    def held_out_losses(self, numbers: Sequence[int]) -> tuple[Tensor, Figures]:
        """Return the losses and figures of these held-out pairs."""
        raise NotImplementedError

    def figures(self) -> Mapping[str, float]:
        seen, self._seen = self._seen, []
        return _means(seen)

    def evaluate(self) -> Mapping[str, float]:
        seen, values = [], []
        with autograd.no_grad():
            for numbers in self.held_out.in_order(self.batch_size):
                losses, figures = self.held_out_losses(numbers)
                seen.append(figures)
                values.append(losses.numpy())
        if not values:
            return {}
        return {"val/loss": float(np.concatenate(values).mean())} | {f"val/{k}": v for k, v in _means(seen).items()}


def _means(seen: Sequence[Figures]) -> dict[str, float]:
    return {k: float(np.concatenate([s[k] for s in seen]).mean()) for k in seen[0]} if seen else {}
