"""Attention to a cache in blocks: the bits of keys that lie side by side, and 8-bit numbers as they are documented."""

import numpy as np
import pytest

from llmcore import _core, autograd, ops
from llmcore._arrays import array_to_numpy
from reference import attention as reference
from support.arrays import array, assert_repeats, put
from support.gradcheck import NUMPY
from support.threads import assert_same_bits
from support.tolerances import assert_close

BLOCK = 64


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(NUMPY[dtype])


def scattered(B, capacity, heads, D, dtype, seed=0):
    """Empty pools for keys and values full of NaN, and tables that take their blocks in a random order."""
    n = -(-capacity // BLOCK)
    tables = np.random.default_rng(seed).permutation(B * n + 3)[: B * n].astype(np.int32).reshape(B, n)
    shape = (B * n + 3, BLOCK, heads, D)
    if dtype == "int8":
        pools = [put(np.full(shape, 255, np.uint8)) for _ in "kv"]
        scales = [put(np.full(shape[:3], np.nan, np.float32)) for _ in "kv"]
        return pools, scales, tables
    return [put(np.full(shape, np.nan, NUMPY[dtype])) for _ in "kv"], [None, None], tables


def attend(q, k, v, pools, scales, tables, lengths, chunk, **options):
    """Everything through the blocks, chunk by chunk: the outputs of all queries."""
    T, out = q.shape[1], []
    cache = _core.CacheBlocks(_core.from_numpy(tables), *scales)
    with autograd.no_grad():
        for start in range(0, T, chunk):
            end = min(start + chunk, T)
            now = (lengths + end).astype(np.int32)
            for pool, scale, x in zip(pools, scales, (k, v), strict=True):
                ops.cache_append(pool, x[:, start:end], now, tables, scale)
            out.append(ops.attention(q[:, start:end], *pools, lengths=now, cache=cache, **options).numpy())
    return np.concatenate(out, 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("chunk", "window"), [(1, None), (7, None), (64, None), (203, None), (50, 70)])
def test_blocks_give_the_bits_of_neighbours(chunk, window, dtype):
    B, T, H, Hkv, D = 2, 203, 4, 2, 40
    q, k, v = random((B, T, H, D), dtype), random((B, T, Hkv, D), dtype, seed=1), random((B, T, Hkv, D), dtype, seed=2)
    whole = ops.attention(q, k, v, window=window).numpy()
    got = attend(q, k, v, *scattered(B, 256, Hkv, D, dtype), np.zeros(B, np.int32), chunk, window=window)
    assert_repeats(got, whole, dtype)


def test_rows_of_unequal_lengths_and_float32_into_bfloat16():
    """What is appended is rounded as a cast rounds it."""
    B, H, D = 3, 2, 16
    pools, _, tables = scattered(B, 130, H, D, "bfloat16")
    lengths = np.array([1, 64, 130], np.int32)
    for pool in pools:
        x = random((B, 1, H, D), "float32", seed=4)
        ops.cache_append(pool, x, lengths, tables)
        pool = array_to_numpy(pool)
        for b, n in enumerate(lengths):
            at = pool[tables[b, (n - 1) // BLOCK], (n - 1) % BLOCK]
            np.testing.assert_array_equal(at, ops.cast(x[b, 0], "bfloat16").numpy())
            assert np.isnan(pool.astype(np.float32)).sum() == pool.size - B * H * D


def quantized_twin(x):
    """float64: 8 bits for each head of a position, a scale of its largest magnitude / 127."""
    scale = np.abs(x).max(-1, keepdims=True).astype(np.float32) / np.float32(127)
    return np.rint(x / np.where(scale == 0, 1, scale)) * scale.astype(np.float64)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("D", [8, 40, 64, 80])
def test_eight_bits(D, dtype):
    B, T, H, Hkv = 2, 150, 4, 2
    q, k, v = random((B, T, H, D), dtype), random((B, T, Hkv, D), dtype, seed=1), random((B, T, Hkv, D), dtype, seed=2)
    k[:, 3] = 0
    got = attend(q, k, v, *scattered(B, 150, Hkv, D, "int8"), np.zeros(B, np.int32), 150)
    wide = [np.asarray(x, np.float64) for x in (q, k, v)]
    exact, _ = reference.attention(*wide, D**-0.5, True)
    twin, _ = reference.attention(wide[0], quantized_twin(wide[1]), quantized_twin(wide[2]), D**-0.5, True)
    # A number halfway between two 8-bit ones may fall to either side: a step of the scale in few of many.
    assert np.abs(np.asarray(got, np.float64) - twin).mean() < 0.3 * np.abs(twin - exact).mean() + (
        0.003 if dtype == "bfloat16" else 0
    )
    for chunk in (1, 64, 149):
        again = attend(q, k, v, *scattered(B, 150, Hkv, D, "int8", seed=5), np.zeros(B, np.int32), chunk)
        assert_repeats(again, got, dtype)


def test_eight_bits_of_numbers_that_are_none():
    pools, scales, tables = scattered(1, 64, 2, 8, "int8")
    x = np.ones((1, 2, 2, 8), np.float32)
    x[0, 1, 0, 3], x[0, 1, 1, 0] = np.nan, np.inf
    ops.cache_append(pools[0], x, np.array([2], np.int32), tables, scales[0])
    block = tables[0, 0]
    scale = scales[0].numpy()
    assert np.isnan(scale[block, 1]).all()
    np.testing.assert_allclose(scale[block, 0], 1 / 127)
    assert (pools[0].numpy()[block, 0] == 255).all()


def test_threads_do_not_change_bits():
    q, k, v = random((3, 130, 4, 32), "float32"), random((3, 130, 2, 32), "float32"), random((3, 130, 2, 32), "float32")
    assert_same_bits(lambda: [attend(q, k, v, *scattered(3, 130, 2, 32, "int8"), np.zeros(3, np.int32), 33)])


def test_tolerance_of_the_plain_cache():
    q, k, v = (random((1, 70, 2, 24), "bfloat16", seed=s) for s in range(3))
    got = attend(q, k, v, *scattered(1, 70, 2, 24, "bfloat16"), np.zeros(1, np.int32), 70)
    assert_close(
        got, reference.attention(*(np.asarray(x, np.float64) for x in (q, k, v)), 24**-0.5, True)[0], "bfloat16"
    )


@pytest.mark.host  # arrays of numpy are checked before they go anywhere
def test_bad_blocks():
    pool, x, lengths = array(np.zeros((2, 64, 1, 4))), array(np.zeros((1, 1, 1, 4))), np.array([1], np.int32)
    for blocks, kind, message in (
        (np.array([[2]], np.int32), ValueError, r"\[cache_append\] expected blocks in \[0, 2\), got 2"),
        (np.array([[-1]], np.int32), ValueError, r"\[cache_append\] expected blocks in \[0, 2\), got -1"),
        (np.array([0], np.int32), ValueError, r"\[cache_append\] expected blocks \(B, n\)"),
        (np.array([[0]], np.int64), TypeError, r"\[cache_append\] expected blocks int32"),
    ):
        with pytest.raises(kind, match=message):
            ops.cache_append(pool, x, lengths, blocks)
    table = np.array([[0]], np.int32)
    with pytest.raises(ValueError, match=r"\[cache_append\] expected cache \(2, 64, 1, 4\), got"):
        ops.cache_append(np.zeros((2, 32, 1, 4), np.float32), x, lengths, table)
    with pytest.raises(TypeError, match=r"\[cache_append\] expected cache uint8"):
        ops.cache_append(pool, x, lengths, table, np.zeros((2, 64, 1), np.float32))
    with pytest.raises(ValueError, match=r"\[attention\] expected lengths with a cache"):
        ops.attention(x, pool, pool, cache=_core.CacheBlocks(_core.from_numpy(table)))
    one_scale = _core.CacheBlocks(_core.from_numpy(table), put(np.zeros((2, 64, 1), np.float32)))
    numbers = np.zeros((2, 64, 1, 4), np.uint8)
    with pytest.raises(ValueError, match=r"\[attention\] expected both scales or none"):
        ops.attention(x, numbers, numbers, lengths=lengths, cache=one_scale)


@pytest.mark.parametrize("kept", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("D", "R"), [(40, 40), (64, 64), (80, 48), (8, 2)])
def test_turned_and_appended_in_one_pass(D, R, dtype, kept):
    """The bits of rope and cache_append one after the other, and nothing else of the pools is touched."""
    B, T, H, Hkv, P = 3, 9, 4, 2, 200
    qkv, angles = random((B, T, H + 2 * Hkv, D), dtype), random((P, R // 2), "float32", 1)
    cos, sin = np.cos(angles), np.sin(angles)
    lengths = np.array([9, 70, 130], np.int32)
    positions = (lengths[:, None] - T + np.arange(T)).astype(np.int32)
    apart, together = scattered(B, 130, Hkv, D, kept), scattered(B, 130, Hkv, D, kept)
    turned = ops.rope(qkv, cos, sin, positions, heads=H + Hkv)
    q, k, v = ops.split(turned, [H, Hkv, Hkv], dim=2)
    pools, scales, tables = apart
    for pool, scale, x in zip(pools, scales, (k, v), strict=True):
        ops.cache_append(pool, x, lengths, tables, scale)
    pools, scales, tables = together
    cache = _core.CacheBlocks(_core.from_numpy(tables), *scales)
    assert_same_bits(
        lambda: [
            ops.rope_append(qkv, cos, sin, positions, *pools, lengths, cache, dtype).numpy(),
            *map(array_to_numpy, pools),
        ]
    )
    got = ops.rope_append(qkv, cos, sin, positions, *pools, lengths, cache, dtype)
    np.testing.assert_array_equal(got.numpy(), q.numpy())
    for one, other in zip([*apart[0], *apart[1]], [*together[0], *together[1]], strict=True):
        if one is not None:
            assert array_to_numpy(one).tobytes() == array_to_numpy(other).tobytes()


def test_bad_input_of_the_one_pass_is_named():
    pools, _, tables = scattered(1, 64, 2, 8, "float32")
    cache = _core.CacheBlocks(_core.from_numpy(tables))
    table, lengths, at = np.ones((4, 4), np.float32), np.array([1], np.int32), np.zeros((1, 1), np.int32)

    def append(heads=6, positions=at, cos=table, count=lengths, dtype="float32"):
        qkv = np.zeros((1, 1, heads, 8), np.float32)
        ops.rope_append(qkv, cos, table, positions, *pools, count, cache, dtype)

    for change, message in (
        ({"heads": 4}, r"expected qkv \(B, T, H \+ 2 Hkv, D\)"),
        ({"positions": at + 4}, r"expected positions in \[0, 4\), got 4"),
        ({"cos": np.ones((4, 5), np.float32)}, r"expected sin"),
        ({"count": np.array([65], np.int32)}, r"expected lengths in \[1, 65\), got 65"),
    ):
        with pytest.raises(ValueError, match=rf"\[rope_append\] {message}"):
            append(**change)
    with pytest.raises(TypeError, match=r"\[rope_append\] expected dtype float32 or bfloat16"):
        append(dtype="int32")
