"""The key/value cache."""

from __future__ import annotations

import numpy as np

from llmcore import _core, ops
from llmcore._tensor import Tensor, to_dtype


class KVCache:
    """Keys and values of B sequences, up to `capacity` positions each: one (B, capacity, kv_heads, head_size) pair a
    layer. `lengths` (B) int32 counts the positions that are filled; rows move on independently of each other."""

    def __init__(self, batch: int, capacity: int, layers: int, kv_heads: int, head_size: int, dtype: str):
        shape = [batch, capacity, kv_heads, head_size]
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.int32)
        self._layers = [
            (_core.zeros(shape, to_dtype(dtype)), _core.zeros(shape, to_dtype(dtype))) for _ in range(layers)
        ]

    def row(self, b: int) -> KVCache:
        """Sequence b alone, in the same memory."""
        view = object.__new__(KVCache)
        view.capacity = self.capacity
        view.lengths = self.lengths[b : b + 1]
        view._layers = [(k.narrow(0, b, 1), v.narrow(0, b, 1)) for k, v in self._layers]
        return view

    def advance(self, count: int) -> np.ndarray:
        """Make room for `count` more positions in every row; returns the positions (B, count) int32 they take."""
        if self.lengths.max(initial=0) + count > self.capacity:
            raise ValueError(f"[cache] expected at most {self.capacity} positions, got {self.lengths.max() + count}")
        positions = self.lengths[:, None] + np.arange(count, dtype=np.int32)
        self.lengths += np.int32(count)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        """Store the keys and values of the positions that `advance` made room for, and attend to all up to them."""
        keys, values = self._layers[layer]
        ops.cache_append(keys, k, self.lengths)
        ops.cache_append(values, v, self.lengths)
        return ops.attention(q, keys, values, causal=True, lengths=self.lengths, **options)
