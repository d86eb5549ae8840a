"""Examples to learn from: tokens, their loss masks, and how several examples fill the rows of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from llmcore.data.batches import mix, permute
from llmcore.data.evaluation import IGNORED


@dataclass(frozen=True)
class Example:
    """Token ids (N) int32 and the loss mask (N) bool: whether each is a target. The first never is: nothing precedes it."""

    ids: np.ndarray
    mask: np.ndarray

    @property
    def targets(self) -> np.ndarray:
        """The targets (N−1) int32: the next token of each but the last, −1 where the mask leaves it out."""
        return np.where(self.mask[1:], self.ids[1:], IGNORED).astype(np.int32)

    @property
    def prompt(self) -> list[int]:
        """The tokens before the first target."""
        return self.ids[: int(np.flatnonzero(self.mask)[0])].tolist()

    def cut(self, length: int) -> Example:
        """Its first tokens."""
        return self if len(self.ids) <= length else Example(self.ids[:length], self.mask[:length])


class ExampleBatch(NamedTuple):
    """Rows of examples, padded: int32 (B, T) each. starts: where in its row the example of each token begins."""

    inputs: np.ndarray
    targets: np.ndarray
    starts: np.ndarray

    @property
    def target_count(self) -> int:
        return int(np.count_nonzero(self.targets != IGNORED))


def is_held_out(key: str, fraction: float) -> bool:
    """Whether what this names belongs to the held-out part: by a hash, so that it stays there whatever is added."""
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


class ExampleBatches:
    """Batches of examples, each a function of its number alone. Every epoch has all of them once, in an order of its own, in
    batches of `rows` rows or, for they are of equal size to one row, of fewer: no row stands twice in a batch.

    With packing, examples share rows of `context` tokens (each best-fit, the longest first) and do not see each other.
    """

    def __init__(self, examples: Sequence[Example], rows: int, context: int, packing: bool, seed: int):
        self.examples, self.rows, self.context, self.seed = examples, rows, context, seed
        lengths = [len(e.ids) - 1 for e in examples]
        self.bins = _best_fit(lengths, context) if packing else [[i] for i in range(len(examples))]

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.bins) // self.rows)

    def batch(self, step: int) -> ExampleBatch:
        """Of step 0, 1, 2, ..."""
        return self.of(self.numbers(step))

    def numbers(self, step: int) -> list[list[int]]:
        """Of the examples in each row of that batch."""
        epoch, number = divmod(step, self.steps_per_epoch)
        start, end = ((number + i) * len(self.bins) // self.steps_per_epoch for i in (0, 1))
        key = mix(mix(mix(0, self.seed), epoch), 3)
        at = permute(np.arange(start, end, dtype=np.uint64), len(self.bins), key)
        return [self.bins[i] for i in at.tolist()]

    def of(self, chosen: Sequence[Sequence[int]]) -> ExampleBatch:
        """Rows of the examples with these numbers."""
        shape = len(chosen), max(sum(len(self.examples[i].ids) - 1 for i in row) for row in chosen)
        inputs, targets, starts = (
            np.zeros(shape, np.int32),
            np.full(shape, IGNORED, np.int32),
            np.zeros(shape, np.int32),
        )
        for r, row in enumerate(chosen):
            at = 0
            for i in row:
                e = self.examples[i]
                end = at + len(e.ids) - 1
                inputs[r, at:end], targets[r, at:end], starts[r, at:end] = e.ids[:-1], e.targets, at
                at = end
            starts[r, at:] = at  # what fills the row up sees itself only, and nobody sees it
        return ExampleBatch(inputs, targets, starts)

    def in_order(self, rows: int) -> list[ExampleBatch]:
        """All examples once, as they come."""
        return [self.of(self.bins[i : i + rows]) for i in range(0, len(self.bins), rows)]


def parts_of(rows: int, parts: int) -> list[slice]:
    """How so many rows are cut into parts of equal size to one row, in order; fewer parts if there are fewer rows."""
    parts = min(parts, rows)
    return [slice(i * rows // parts, (i + 1) * rows // parts) for i in range(parts)]


def _best_fit(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Numbers of examples in bins of `room` tokens: the longest first, each where it leaves the least over."""
    bins: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(room + 1)]  # bins by what is left in them
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        need = min(lengths[i], room)
        left = next((n for n in range(need, room + 1) if with_room[n]), None)
        if left is None:
            bins.append([])
            number, left = len(bins) - 1, room
        else:
            number = with_room[left].pop()
        bins[number].append(i)
        with_room[left - need].append(number)
    return bins
