"""The cache of keys and values."""

from __future__ import annotations

from llmcore import _core
from llmcore._arrays import to_array, to_dtype
from llmcore._tensor import Tensor, as_tensor


def cache_append(cache, x, lengths, blocks=None, scale=None) -> None:
    """Write x (B, T, H, D) into cache (B, S, H, D) in place: cache[b, lengths[b] − T + t] = x[b, t], rounded to its dtype.

    lengths (B) int32 counts the new entries; each lies in [T, S]. With blocks (B, n) int32, cache is a pool (N, 64, H, D)
    of which row b has these; with a scale (N, 64, H) float32 too, it is uint8 (see `attention`): each head of a position
    becomes 8-bit numbers of its own scale, its largest magnitude / 127.
    """
    _core.cache_append(
        to_array(cache),
        to_array(x),
        to_array(lengths),
        None if blocks is None else to_array(blocks),
        None if scale is None else to_array(scale),
    )


def rope_append(qkv, cos, sin, positions, keys, values, lengths, cache: _core.CacheBlocks, dtype) -> Tensor:
    """What attention with a cache wants of qkv (B, T, H + 2 Hkv, D), in one pass: queries and keys are turned as by `rope`,
    keys and values written as by `cache_append` to the pools keys and values (N, 64, Hkv, D) that `cache` tells about.
    Returns the queries (B, T, H, D) in dtype. Nothing is recorded for gradients."""
    packed = as_tensor(qkv)
    tables = to_array(cos), to_array(sin), to_array(positions)
    pools = to_array(keys), to_array(values), to_array(lengths)
    return Tensor(_core.rope_append(packed.array, *tables, *pools, cache, to_dtype(dtype)))
