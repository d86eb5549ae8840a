"""The key/value cache: blocks of 64 positions in a pool, and which of them the sequences of a batch have."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmcore import _core, ops
from llmcore._arrays import to_dtype
from llmcore._core import DType
from llmcore._tensor import Tensor
from llmcore.runtime import default_dtype

BLOCK = 64  # positions
DTYPES = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer: (blocks, 64, kv_heads, head_size); for int8 as uint8 with a scale for each head of a
    position, (blocks, 64, kv_heads) float32."""

    keys: _core.Array
    values: _core.Array
    key_scale: _core.Array | None
    value_scale: _core.Array | None

    def arrays(self) -> list[_core.Array]:
        return [a for a in (self.keys, self.values, self.key_scale, self.value_scale) if a is not None]


class NoBlocks(MemoryError):
    """The pool has no block left."""


class BlockPool:
    """Blocks for all layers of a model. Address space is reserved at once; memory stands behind a block from its first use
    on, so a pool grows without copying. Who takes a block has one reference to it; sequences with a common beginning
    share its blocks."""

    def __init__(self, blocks: int, layers: int, kv_heads: int, head_size: int, dtype: str, device: str = "cpu"):
        """dtype: of keys and values, "float32", "bfloat16" or "int8" (8 bits and a scale a head)."""
        if dtype not in DTYPES:
            raise ValueError(f"[cache] expected a dtype of {', '.join(DTYPES)}, got {dtype!r}")
        self.dtype, self.blocks = dtype, blocks
        shape = [blocks, BLOCK, kv_heads, head_size]
        stored = DType.uint8 if dtype == "int8" else to_dtype(dtype)

        def layer() -> LayerCache:
            keys, values = _core.empty(shape, stored, device), _core.empty(shape, stored, device)
            if dtype != "int8":
                return LayerCache(keys, values, None, None)
            scales = [_core.empty(shape[:3], DType.float32, device) for _ in range(2)]
            return LayerCache(keys, values, *scales)

        self.layers = [layer() for _ in range(layers)]
        # What attention multiplies in.
        self.compute = to_dtype(default_dtype() if dtype == "int8" else dtype)
        self._references = np.zeros(blocks, np.int64)
        self._free = list(range(blocks - 1, -1, -1))  # the last first

    @property
    def free(self) -> int:
        """How many blocks nobody has."""
        return len(self._free)

    @property
    def bytes_a_block(self) -> int:
        return sum(a.nbytes for layer in self.layers for a in layer.arrays()) // max(self.blocks, 1)

    def take(self) -> int:
        """A block that nobody has, with one reference. NoBlocks where there is none."""
        if not self._free:
            raise NoBlocks(f"[cache] expected a free block, got none of {self.blocks}")
        block = self._free.pop()
        self._references[block] = 1
        return block

    def share(self, block: int) -> int:
        """One reference more."""
        self._references[block] += 1
        return block

    def give_back(self, block: int) -> None:
        """One reference less; without any the block is free."""
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)
        assert self._references[block] >= 0

    def references(self, block: int) -> int:
        return int(self._references[block])

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Positions start..stop of a block to those of another, in all layers."""
        for layer in self.layers:
            for a in layer.arrays():
                part = a.narrow(0, target, 1).narrow(1, start, stop - start)
                part.copy_from(a.narrow(0, source, 1).narrow(1, start, stop - start))


class KVCache:
    """Keys and values of B sequences of up to `capacity` positions each. `lengths` (B) int32 counts the positions that are
    filled; rows move on independently of each other. `tables` (B, n) int32: row b has position p in block
    tables[b, p // 64] of the pool. Both may be changed in place."""

    def __init__(self, pool: BlockPool, tables: np.ndarray, lengths: np.ndarray, capacity: int):
        self.pool, self.tables, self.lengths, self.capacity = pool, tables, lengths, capacity
        table = _core.from_numpy(tables)
        self._blocks = [_core.CacheBlocks(table, layer.key_scale, layer.value_scale) for layer in pool.layers]

    @classmethod
    def of_its_own(cls, pool: BlockPool, batch: int, capacity: int) -> KVCache:
        """Empty sequences that share out a pool."""
        tables = np.array([pool.take() for _ in range(pool.blocks)], np.int32).reshape(batch, -1)
        return cls(pool, tables, np.zeros(batch, np.int32), capacity)

    def row(self, b: int) -> KVCache:
        """Sequence b alone, in the same memory."""
        return KVCache(self.pool, self.tables[b : b + 1], self.lengths[b : b + 1], self.capacity)

    def advance(self, count: int) -> np.ndarray:
        """Make room for `count` more positions in every row; returns the positions (B, count) int32 they take."""
        if self.lengths.max(initial=0) + count > self.capacity:
            raise ValueError(f"[cache] expected at most {self.capacity} positions, got {self.lengths.max() + count}")
        positions = self.lengths[:, None] + np.arange(count, dtype=np.int32)
        self.lengths += np.int32(count)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        """Store the keys and values of the positions that `advance` made room for, and attend to all up to them."""
        to, lengths = self.pool.layers[layer], self.lengths
        ops.cache_append(to.keys, k, lengths, self.tables, to.key_scale)
        ops.cache_append(to.values, v, lengths, self.tables, to.value_scale)
        return self._attended(layer, ops.cast(q, self.pool.compute), q.array.dtype, **options)

    def attend_packed(
        self, layer: int, qkv: Tensor, tables: tuple[_core.Array, _core.Array], positions: np.ndarray, **options
    ) -> Tensor:
        """The same of queries, keys and values in one tensor (B, T, H + 2 Hkv, D), the first two not turned yet."""
        to, blocks = self.pool.layers[layer], self._blocks[layer]
        cos, sin = tables
        q = ops.rope_append(qkv, cos, sin, positions, to.keys, to.values, self.lengths, blocks, self.pool.compute)
        return self._attended(layer, q, qkv.array.dtype, **options)

    def _attended(self, layer: int, q: Tensor, dtype, **options) -> Tensor:
        to = self.pool.layers[layer]
        y = ops.attention(q, to.keys, to.values, lengths=self.lengths, cache=self._blocks[layer], **options)
        return ops.cast(y, dtype)


def blocks_for(positions: int) -> int:
    """How many blocks so many positions take."""
    return -(-positions // BLOCK)
