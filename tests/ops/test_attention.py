"""Attention against the float64 twin, and the promises that the kernels make."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from llmcore._arrays import array_to_numpy, to_array
from reference import attention as reference
from support.arrays import assert_repeats, put
from support.gradcheck import NUMPY
from support.tolerances import GRADCHECK, assert_close

DTYPES = ["float32", "bfloat16"]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(NUMPY[dtype])


def qkv(B, T, S, H, Hkv, D, dtype, seed=0):
    return [random((B, n, h, D), dtype, seed + i) for i, (n, h) in enumerate([(T, H), (S, Hkv), (S, Hkv)])]


def forward(q, k, v, causal=True, scale=None, lengths=None):
    """out and lse as numpy arrays."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    lengths = None if lengths is None else to_array(lengths)
    return [array_to_numpy(x) for x in _core.attention(to_array(q), to_array(k), to_array(v), scale, causal, lengths)]


def gradients(dout, q, k, v, causal=True, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    q, k, v, dout = (to_array(x) for x in (q, k, v, dout))
    out, lse = _core.attention(q, k, v, scale, causal, None)
    return [array_to_numpy(g) for g in _core.attention_backward(dout, q, k, v, out, lse, scale, causal)]


def joined(grads):
    """dq, dk and dv as one vector: with few keys dq and dk cancel to nothing and have no scale."""
    return np.concatenate([np.asarray(g, np.float64).ravel() for g in grads])


def check(dtype, q, k, v, causal, scale=None):
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    dout = random(q.shape, dtype, seed=9)
    out, lse = forward(q, k, v, causal, scale)
    expected, expected_lse = reference.attention(q, k, v, scale, causal)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")
    expected = reference.attention_backward(dout, q, k, v, scale, causal)
    assert_close(joined(gradients(dout, q, k, v, causal, scale)), joined(expected), dtype)


@pytest.fixture
def threads():
    before = llmcore.num_threads()
    yield llmcore.set_num_threads
    llmcore.set_num_threads(before)


# ---- against the twin ---------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("D", [8, 40, 64, 80, 128])
@pytest.mark.parametrize("T", [1, 2, 63, 64, 65, 130])
def test_matches_twin(T, D, causal, dtype):
    check(dtype, *qkv(2, T, T, 2, 2, D, dtype), causal)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(2, 7, 7, 6, 2, 32), (1, 66, 66, 9, 3, 64), (2, 1, 1, 8, 1, 16), (1, 1, 1, 70, 1, 8)]
)
def test_grouped_query_heads(shape, dtype):
    check(dtype, *qkv(*shape, dtype), causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("T", "S"), [(1, 200), (5, 64), (33, 100), (64, 130), (70, 128)])
def test_more_keys_than_queries(T, S, causal, dtype):
    check(dtype, *qkv(2, T, S, 4, 2, 24, dtype), causal)


@pytest.mark.parametrize("dtype", DTYPES)
def test_more_queries_than_keys(dtype):
    check(dtype, *qkv(1, 130, 70, 2, 2, 32, dtype), causal=False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [1, 3, 200, 257])
def test_odd_head_sizes(D, dtype):
    check(dtype, *qkv(1, 67, 67, 2, 1, D, dtype), causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_long_sequence(dtype):
    """Longer than a span of queries in the forward (256) and in the backward (512)."""
    check(dtype, *qkv(1, 600, 600, 2, 1, 16, dtype), causal=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [0.0, 1.0, -0.5])
def test_scale(scale, dtype):
    check(dtype, *qkv(1, 70, 70, 2, 2, 16, dtype), True, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_rising_scores_are_rescaled(dtype):
    """Keys beat earlier ones by more than a float's exponent could bear without a new maximum."""
    q, k, v = qkv(1, 300, 300, 1, 1, 16, dtype)
    q[...], k = 1, k.round()  # whole numbers: the scores are exact
    k[..., 0] = (np.arange(300) // 10 * 40)[None, :, None]
    out, lse = forward(q, k, v, causal=True, scale=1.0)
    expected, expected_lse = reference.attention(q, k, v, 1.0)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
def test_gradcheck(causal, dtype):
    """The derivative in a random direction against a central difference of the twin."""
    q, k, v = qkv(1, 70, 90, 4, 2, 16, dtype)
    dout = random(q.shape, dtype, seed=7)
    rng = np.random.default_rng(8)
    directions = [rng.standard_normal(x.shape) for x in (q, k, v)]
    grads = gradients(dout, q, k, v, causal, 0.25)

    def loss(step):
        moved = [x.astype(np.float64) + step * d for x, d in zip((q, k, v), directions, strict=True)]
        return (reference.attention(*moved, 0.25, causal)[0] * dout.astype(np.float64)).sum()

    step = 1e-5
    expected = (loss(step) - loss(-step)) / (2 * step)
    products = [g.astype(np.float64) * d for g, d in zip(grads, directions, strict=True)]
    got = sum(p.sum() for p in products)
    # A sum of random terms: its error is that of the terms, not relative to what they cancel to.
    spread = np.sqrt(sum((p**2).sum() for p in products))
    assert abs(got - expected) <= GRADCHECK[dtype] * spread


@pytest.mark.parametrize("dtype", DTYPES)
def test_tape(dtype):
    q, k, v = (llmcore.tensor(x, requires_grad=True) for x in qkv(2, 20, 20, 4, 2, 8, dtype))
    dout = random(q.shape, dtype, seed=9)
    out = ops.attention(q, k, v)
    out.backward(dout)
    assert_close(out.numpy(), reference.attention(q, k, v, 8**-0.5)[0], dtype)
    expected = reference.attention_backward(dout, q, k, v, 8**-0.5)
    assert_close(joined([array_to_numpy(x.grad) for x in (q, k, v)]), joined(expected), dtype)


# ---- layouts ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_views_of_one_projection(dtype):
    """q, k, v as neighbouring views of one tensor: the same bits as from copies, in the gradients too."""
    H, Hkv, D = 4, 2, 24
    fused = random((2, 70, H + 2 * Hkv, D), dtype)
    parts = [slice(0, H), slice(H, H + Hkv), slice(H + Hkv, None)]
    views, copies = [fused[:, :, s] for s in parts], [fused[:, :, s].copy() for s in parts]
    dout = random((2, 70, H, D), dtype, seed=3)
    for a, b in zip(forward(*views), forward(*copies), strict=True):
        np.testing.assert_array_equal(a, b)
    array = to_array(fused)
    q, k, v = (
        array.narrow(2, 0, H),
        array.narrow(2, H, Hkv),
        array.narrow(2, H + Hkv, Hkv),
    )
    out, lse = _core.attention(q, k, v, D**-0.5, True, None)
    grads = _core.attention_backward(to_array(dout), q, k, v, out, lse, D**-0.5, True)
    for a, b in zip(grads, gradients(dout, *copies), strict=True):
        np.testing.assert_array_equal(array_to_numpy(a), b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 70])
def test_any_strides(T, dtype):
    """(B,H,T,D) storage, reversed time, and heads whose elements are not contiguous."""
    q, k, v = qkv(2, T, 70, 4, 2, 16, dtype)
    views = [
        np.ascontiguousarray(q.swapaxes(1, 2)).swapaxes(1, 2),
        np.ascontiguousarray(k[:, ::-1])[:, ::-1],
        np.ascontiguousarray(v.swapaxes(2, 3)).swapaxes(2, 3),
    ]
    assert not any(x.flags.c_contiguous for x in views) or T == 1
    dout = random(q.shape, dtype, seed=3)
    for a, b in zip(
        [*forward(*views), *gradients(dout, *views)],
        [*forward(q, k, v), *gradients(dout, q, k, v)],
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)


# ---- what a row may depend on -------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(3, 65, 65, 6, 2, 40), (1, 530, 530, 3, 3, 32), (20, 64, 64, 2, 1, 64), (2, 1, 700, 8, 4, 64)]
)
def test_threads_do_not_change_bits(shape, dtype, threads):
    q, k, v = qkv(*shape, dtype)
    dout = random(q.shape, dtype, seed=5)
    results = []
    for n in (1, 2, 3, 8):
        threads(n)
        results.append([*forward(q, k, v), *gradients(dout, q, k, v)])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_batch_neighbours_do_not_change_bits(dtype):
    q, k, v = qkv(18, 70, 70, 4, 2, 16, dtype)
    dout = random(q.shape, dtype, seed=5)
    together = [*forward(q, k, v), *gradients(dout, q, k, v)]
    one = [x[4:5] for x in (q, k, v)]
    alone = [*forward(*one), *gradients(dout[4:5], *one)]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_array_equal(a[4:5], b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [8, 64, 80])
@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_cache_repeats_the_bits_of_the_whole_prompt(chunk, D, dtype):
    """Prefill in chunks, or token by token, through a cache that is full of NaN where nothing was written."""
    B, T, H, Hkv = 2, 203, 4, 2
    q, k, v = qkv(B, T, T, H, Hkv, D, dtype)
    whole, whole_lse = forward(q, k, v)
    caches = [put(np.full((B, T + 30, Hkv, D), np.nan, NUMPY[dtype])) for _ in "kv"]
    for start in range(0, T, chunk):
        end = min(start + chunk, T)
        lengths = np.full(B, end, np.int32)
        for cache, x in zip(caches, (k, v), strict=True):
            ops.cache_append(cache, x[:, start:end], lengths)
        out, lse = forward(q[:, start:end], *caches, lengths=lengths)
        assert_repeats(out, whole[:, start:end], dtype)
        assert_repeats(lse, whole_lse[:, :, start:end], "float32")
    for cache, x in zip(caches, (k, v), strict=True):
        np.testing.assert_array_equal(array_to_numpy(cache)[:, :T], x)


# ---- lengths and the cache ----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("T", [1, 3, 66])
def test_lengths(T, causal, dtype):
    lengths = np.array([66, 67, 130, 200], np.int32)
    q, k, v = qkv(4, T, 200, 4, 2, 32, dtype)
    out, lse = forward(q, k, v, causal, lengths=lengths)
    expected, expected_lse = reference.attention(q, k, v, 32**-0.5, causal, lengths)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")
    np.testing.assert_array_equal(ops.attention(q, k, v, causal, lengths=lengths).numpy(), out)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_key_gives_zero(dtype):
    q, k, v = qkv(3, 5, 70, 2, 1, 8, dtype)
    out, lse = forward(q, k, v, causal=False, lengths=np.array([0, 70, 0], np.int32))
    assert not out[[0, 2]].any()
    assert (lse[[0, 2]] == -np.inf).all()
    assert_close(out[1], reference.attention(q, k, v, 8**-0.5, False)[0][1], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 3, 2, 2, 8), (2, 0, 0, 2, 1, 8), (2, 0, 5, 2, 1, 8), (2, 3, 0, 2, 1, 8)])
def test_empty(shape, dtype):
    """No rows, no queries, no keys: zeros of the right shape."""
    q, k, v = qkv(*shape, dtype)
    out, _ = forward(q, k, v, causal=False)
    assert out.shape == q.shape
    assert not out.any()
    for grad, x in zip(gradients(q, q, k, v, causal=False), (q, k, v), strict=True):
        assert grad.shape == x.shape
        assert not grad.any()


# ---- numbers that are not ordinary --------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_bad_query_spoils_its_own_row_only(bad, dtype):
    q, k, v = qkv(1, 70, 70, 2, 2, 16, dtype)
    clean, _ = forward(q, k, v)
    q[0, 40, 1, 3] = bad
    out, _ = forward(q, k, v)
    assert np.isnan(out[0, 40, 1]).all()
    out = np.array(out)
    out[0, 40, 1] = clean[0, 40, 1]
    np.testing.assert_array_equal(out, clean)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("where", ["k", "v"])
def test_nan_key_reaches_every_query_that_sees_it(where, dtype):
    """And no other; but one in v may reach queries of the same tile before it, as 0 · NaN (at most 63)."""
    q, k, v = qkv(1, 200, 200, 1, 1, 16, dtype)
    clean, _ = forward(q, k, v)
    (k if where == "k" else v)[0, 150, 0, 0] = np.nan
    out, _ = forward(q, k, v)
    assert np.isnan(out[0, 150:, 0, 0]).all()
    untouched = 150 if where == "k" else 150 - 63
    np.testing.assert_array_equal(out[0, :untouched], clean[0, :untouched])


@pytest.mark.parametrize("dtype", DTYPES)
def test_scores_of_minus_infinity_are_hidden_keys(dtype):
    q, k, v = qkv(1, 1, 130, 1, 1, 8, dtype)
    q[...] = 1
    k[0, :100, 0, 0] = -np.inf
    out, lse = forward(q, k, v)
    expected, expected_lse = reference.attention(q, k[:, 100:], v[:, 100:], 8**-0.5)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_visible_key_returns_its_value(dtype):
    q, k, v = qkv(2, 3, 3, 2, 1, 16, dtype)
    np.testing.assert_array_equal(forward(q, k, v)[0][:, 0], np.repeat(v, 2, axis=2)[:, 0])


# ---- errors -------------------------------------------------------------------------------------

F32 = np.float32


def z(*shape, dtype=F32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("args", "kind", "message"),
    [
        ((z(2, 3, 8), z(2, 3, 8), z(2, 3, 8)), ValueError, r"\[attention\] expected q \(B, T, H, D\)"),
        (
            (z(1, 3, 2, 8), z(1, 3, 2, 8, dtype=NUMPY["bfloat16"]), z(1, 3, 2, 8)),
            TypeError,
            r"\[attention\] .*k",
        ),
        ((z(1, 3, 2, 8, dtype=np.int32),) * 3, TypeError, r"\[attention\] expected q"),
        ((z(1, 3, 2, 8), z(2, 3, 2, 8), z(2, 3, 2, 8)), ValueError, r"\[attention\] expected k"),
        ((z(1, 3, 2, 8), z(1, 3, 2, 8), z(1, 4, 2, 8)), ValueError, r"\[attention\] expected v"),
        ((z(1, 3, 2, 8), z(1, 3, 2, 9), z(1, 3, 2, 9)), ValueError, r"\[attention\] expected k"),
        ((z(1, 3, 3, 8), z(1, 3, 2, 8), z(1, 3, 2, 8)), ValueError, r"multiple of key heads, got 3 and 2"),
        ((z(1, 3, 2, 8), z(1, 3, 0, 8), z(1, 3, 0, 8)), ValueError, r"multiple of key heads"),
        ((z(1, 3, 2, 0), z(1, 3, 2, 0), z(1, 3, 2, 0)), ValueError, r"head size of at least 1, got 0"),
        (
            (z(1, 4, 2, 8), z(1, 3, 2, 8), z(1, 3, 2, 8)),
            ValueError,
            r"no more queries than keys.* got 4 and 3",
        ),
    ],
)
def test_bad_input(args, kind, message):
    with pytest.raises(kind, match=message):
        ops.attention(*args)


@pytest.mark.parametrize(
    ("lengths", "kind", "message"),
    [
        (np.array([3, 3, 3], np.int32), ValueError, r"\[attention\] expected lengths"),
        (np.array([3, 9], np.int32), ValueError, r"\[attention\] expected lengths in \[2, 9\), got 9"),
        (np.array([1, 3], np.int32), ValueError, r"\[attention\] expected lengths in \[2, 9\), got 1"),
        (np.array([3.0, 3.0], F32), TypeError, r"\[attention\] expected lengths"),
    ],
)
def test_bad_lengths(lengths, kind, message):
    with pytest.raises(kind, match=message):
        ops.attention(z(2, 2, 2, 8), z(2, 8, 2, 8), z(2, 8, 2, 8), lengths=lengths)


def test_lengths_and_gradients():
    q = llmcore.tensor(z(1, 2, 2, 8), requires_grad=True)
    with pytest.raises(ValueError, match=r"\[attention\] expected lengths=None where gradients are needed"):
        ops.attention(q, z(1, 8, 2, 8), z(1, 8, 2, 8), lengths=np.array([2], np.int32))
