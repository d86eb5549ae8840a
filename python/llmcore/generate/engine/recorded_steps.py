"""Decoding steps of a few rows or tokens, recorded for a few sizes; a smaller batch is padded to the next size."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcore import _core
from llmcore.models import CausalLM, DecodeStep, KVCache
from llmcore.models.kv_cache import BlockPool, blocks_for

_SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
LARGEST = _SIZES[-1]
_CAPACITY = 1024  # positions that the first steps have room for; doubled when more are needed


class RecordedSteps:
    """Padding never changes the other results: rows are computed independently, and a token sees none after it."""

    def __init__(self, model: CausalLM, pool: BlockPool):
        """Allocates one block of the pool, which takes the keys and values of padding rows."""
        self._model, self._pool = model, pool
        self.scratch = pool.allocate()
        self._capacity = _CAPACITY
        self._steps: dict[tuple[int, int, bool], tuple[DecodeStep, KVCache]] = {}

    def clear(self) -> None:
        """Forget all recordings, because the weights have changed."""
        self._steps.clear()

    def run(
        self, rows: Sequence[tuple[Sequence[int], int, int]], ids: np.ndarray, last_only: bool = False
    ) -> _core.Array:
        """Compute the next tokens (B, count) of sequences, given as (blocks, positions computed so far, shift), whose blocks
        have room for them -> logits (B, count, V), or (B, 1, V) of each row's last token, in memory that the next call
        overwrites."""
        (n, count), context = ids.shape, self._model.config.context
        most = _size(count)
        if max(computed for _, computed, _ in rows) + most > context:
            most = count
        self._make_room(max(computed for _, computed, _ in rows) + most)
        step, cache = self._step(_size(n), most, last_only and most > 1)
        tokens = np.zeros((len(cache.lengths), most), np.int32)
        tokens[:n, :count] = ids
        for i, (blocks, computed, shift) in enumerate(rows):
            cache.tables[i, : len(blocks)] = blocks
            # Padding tokens go after the real ones, where later tokens overwrite them, or into the scratch block.
            cache.tables[i, len(blocks) : blocks_for(computed + most)] = self.scratch
            cache.lengths[i], cache.shift[i] = computed, shift
        cache.tables[n:, 0] = self.scratch
        cache.lengths[n:] = cache.shift[n:] = 0
        step.last[:] = count - 1
        logits = step(tokens)
        if len(cache.lengths) > n:
            logits = logits.narrow(0, 0, n)
        return logits if most == count or last_only else logits.narrow(1, 0, count).contiguous()

    def _make_room(self, positions: int) -> None:
        if positions > self._capacity:
            while positions > self._capacity:
                self._capacity *= 2
            self._steps.clear()

    def _step(self, rows: int, count: int, last_only: bool) -> tuple[DecodeStep, KVCache]:
        key = rows, count, last_only
        if key not in self._steps:
            table = np.full((rows, blocks_for(self._capacity)), self.scratch, np.int32)
            cache = KVCache(self._pool, table, np.zeros(rows, np.int32), self._capacity)
            self._steps[key] = DecodeStep(self._model, cache, count, last_only), cache
        return self._steps[key]


def _size(n: int) -> int:
    """Return the smallest recorded size of at least n rows or tokens."""
    return next(size for size in _SIZES if size >= n)
