"""The key/value cache: a pool of blocks of 64 positions, and tables of the blocks that the sequences of a batch use."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from llmcore import _core, ops
from llmcore._arrays import to_dtype
from llmcore._core import DType
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.runtime import default_dtype

BLOCK = 64  # positions
DTYPES = ("float32", "bfloat16", "int8")


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one layer: (blocks, 64, kv_heads, head_size); for int8 as uint8 with one scale per head and
    position, (blocks, 64, kv_heads) float32."""

    keys: _core.Array
    values: _core.Array
    key_scale: _core.Array | None
    value_scale: _core.Array | None

    def arrays(self) -> list[_core.Array]:
        """Return the arrays that are in use."""
        return [a for a in (self.keys, self.values, self.key_scale, self.value_scale) if a is not None]


class NoBlocks(MemoryError):
    """The pool has no block left."""


class BlockPool:
    """Reference-counted blocks for all layers of a model. The address space is reserved at once, but a block takes memory
    only from its first use on, so a pool grows without copying. Sequences with a common prefix share its blocks."""

    def __init__(self, blocks: int, layers: int, kv_heads: int, head_size: int, dtype: str, device: str = "cpu"):
        """dtype: of keys and values, "float32", "bfloat16" or "int8" (8 bits, and one scale per head)."""
        if dtype not in DTYPES:
            raise Error("cache", expected=f"a dtype of {', '.join(DTYPES)}", got=repr(dtype))
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
        # The dtype that attention multiplies in.
        self.compute = to_dtype(default_dtype() if dtype == "int8" else dtype)
        self._references = np.zeros(blocks, np.int64)
        self._free = list(range(blocks - 1, -1, -1))  # a stack: block 0 is allocated first

    @property
    def free(self) -> int:
        """How many blocks are free."""
        return len(self._free)

    @property
    def bytes_per_block(self) -> int:
        """Bytes of one block, over all layers."""
        return sum(a.nbytes for layer in self.layers for a in layer.arrays()) // max(self.blocks, 1)

    def allocate(self) -> int:
        """Return a free block, with one reference. NoBlocks if none is free."""
        if not self._free:
            raise NoBlocks(f"[cache] expected a free block, got none of {self.blocks}")
        block = self._free.pop()
        self._references[block] = 1
        return block

    def retain(self, block: int) -> int:
        """Add a reference; returns the block."""
        self._references[block] += 1
        return block

    def release(self, block: int) -> None:
        """Drop a reference. A block without references is free."""
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free.append(block)
        assert self._references[block] >= 0

    def recount(self, held: Iterable[int]) -> None:
        """Count the references anew: one for each time that a block is among `held`."""
        self._references = np.bincount(list(held), minlength=self.blocks)
        self._free = np.flatnonzero(self._references == 0)[::-1].tolist()

    def references(self, block: int) -> int:
        """Return how many references a block has."""
        return int(self._references[block])

    def copy(self, source: int, target: int, stop: int, start: int = 0) -> None:
        """Copy positions start..stop of one block to another, in all layers."""
        for layer in self.layers:
            for a in layer.arrays():
                part = a.narrow(0, target, 1).narrow(1, start, stop - start)
                part.copy_from(a.narrow(0, source, 1).narrow(1, start, stop - start))


class KVCache:
    """Keys and values of B sequences of up to `capacity` positions each. `lengths` (B) int32 counts the filled positions;
    rows advance independently of each other. `tables` (B, n) int32: row b has position p in block tables[b, p // 64] of
    the pool. `shift` (B) int32: see `CausalLM.shift`. All three may be changed in place."""

    def __init__(
        self, pool: BlockPool, tables: np.ndarray, lengths: np.ndarray, capacity: int, shift: np.ndarray | int = 0
    ):
        self.pool, self.tables, self.lengths, self.capacity = pool, tables, lengths, capacity
        self.shift = np.full(len(lengths), shift, np.int32) if isinstance(shift, int) else shift
        table = _core.from_numpy(tables)
        self._blocks = [_core.CacheBlocks(table, layer.key_scale, layer.value_scale) for layer in pool.layers]

    @classmethod
    def allocate_for(cls, pool: BlockPool, batch: int, capacity: int, shift: int = 0) -> KVCache:
        """Return empty sequences that divide all blocks of an unused pool among them."""
        tables = np.array([pool.allocate() for _ in range(pool.blocks)], np.int32).reshape(batch, -1)
        return cls(pool, tables, np.zeros(batch, np.int32), capacity, shift)

    def row(self, b: int) -> KVCache:
        """Return sequence b alone, in the same memory."""
        return KVCache(self.pool, self.tables[b : b + 1], self.lengths[b : b + 1], self.capacity, self.shift[b : b + 1])

    def advance(self, count: int) -> np.ndarray:
        """Make room for `count` more positions in every row; returns the new positions (B, count) int32, shifted."""
        if self.lengths.max(initial=0) + count > self.capacity:
            raise Error("cache", expected=f"at most {self.capacity} positions", got=self.lengths.max() + count)
        positions = (self.lengths + self.shift)[:, None] + np.arange(count, dtype=np.int32)
        self.lengths += np.int32(count)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        """Store the keys and values of the positions that `advance` made room for, and attend to these and all before."""
        to, lengths = self.pool.layers[layer], self.lengths
        ops.cache_append(to.keys, k, lengths, self.tables, to.key_scale)
        ops.cache_append(to.values, v, lengths, self.tables, to.value_scale)
        return self._attended(layer, ops.cast(q, self.pool.compute), q.array.dtype, **options)

    def attend_packed(
        self, layer: int, qkv: Tensor, tables: tuple[_core.Array, _core.Array], positions: np.ndarray, **options
    ) -> Tensor:
        """Do the same for queries, keys and values in one tensor (B, T, H + 2 Hkv, D), the first two not rotated yet."""
        to, blocks = self.pool.layers[layer], self._blocks[layer]
        cos, sin = tables
        q = ops.rope_append(qkv, cos, sin, positions, to.keys, to.values, self.lengths, blocks, self.pool.compute)
        return self._attended(layer, q, qkv.array.dtype, **options)

    def _attended(self, layer: int, q: Tensor, dtype, **options) -> Tensor:
        to = self.pool.layers[layer]
        y = ops.attention(q, to.keys, to.values, lengths=self.lengths, cache=self._blocks[layer], **options)
        return ops.cast(y, dtype)


def blocks_for(positions: int) -> int:
    """Return how many blocks hold so many positions."""
    return -(-positions // BLOCK)
