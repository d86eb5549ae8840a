"""Sliding windows and packed documents: attention that does not see all keys before it."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from llmcore._arrays import array_to_numpy, to_array
from reference import attention as reference
from support.arrays import assert_repeats
from support.gradcheck import NUMPY
from support.threads import assert_same_bits
from support.tolerances import GRADCHECK, assert_close

DTYPES = ["float32", "bfloat16"]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(NUMPY[dtype])


def qkv(B, T, S, H, Hkv, D, dtype):
    return [random((B, n, h, D), dtype, i) for i, (n, h) in enumerate([(T, H), (S, Hkv), (S, Hkv)])]


def document_starts(B, T, S, seed=0, documents=4):
    """For each query the start of its document; the documents of every batch row are cut elsewhere."""
    rng = np.random.default_rng(seed)
    starts = np.zeros((B, S), np.int32)
    for row in starts:
        for cut in sorted(rng.integers(1, S, documents)):
            row[cut:] = cut
    return starts[:, S - T :]


def run(q, k, v, window=None, starts=None):
    """out, lse, and the gradients of a random direction as numpy arrays; that direction."""
    scale, dout = q.shape[-1] ** -0.5, random(q.shape, q.dtype.name, seed=9)
    q, k, v, starts = (None if x is None else to_array(x) for x in (q, k, v, starts))
    out, lse = _core.attention(q, k, v, scale, True, None, window, starts)
    grads = _core.attention_backward(to_array(dout), q, k, v, out, lse, scale, True, window, starts)
    return [array_to_numpy(x) for x in (out, lse, *grads)], dout


def check(q, k, v, window=None, starts=None):
    dtype, scale = q.dtype.name, q.shape[-1] ** -0.5
    (out, lse, *grads), dout = run(q, k, v, window, starts)
    expected, expected_lse = reference.attention(q, k, v, scale, window=window, starts=starts)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")
    expected = reference.attention_backward(dout, q, k, v, scale, window=window, starts=starts)
    assert_close(
        np.concatenate([np.float64(g).ravel() for g in grads]), np.concatenate([g.ravel() for g in expected]), dtype
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [1, 2, 31, 64, 65, 100, 1000])
@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 130), (65, 65), (200, 200), (70, 300), (600, 600)])
def test_window(T, S, window, dtype):
    check(*qkv(2, T, S, 4, 2, 24, dtype), window=window)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("documents", [1, 5, 60])
@pytest.mark.parametrize(("T", "S"), [(1, 40), (65, 65), (200, 200), (70, 300), (600, 600)])
def test_documents(T, S, documents, dtype):
    check(*qkv(2, T, S, 4, 2, 24, dtype), starts=document_starts(2, T, S, documents=documents))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("D", [32, 64, 128, 256])
def test_window_in_documents(D, dtype):
    check(*qkv(2, 150, 150, 3, 1, D, dtype), window=20, starts=document_starts(2, 150, 150))


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_in_any_order(dtype):
    """Nothing asks that starts rise: any first key up to the query's own."""
    T = 300
    starts = (np.random.default_rng(0).random((2, T)) * (np.arange(T) + 1)).astype(np.int32)
    check(*qkv(2, T, T, 2, 2, 16, dtype), starts=starts)


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_of_zero_and_wide_windows_hide_nothing(dtype):
    inputs = qkv(2, 150, 150, 4, 2, 16, dtype)
    plain, _ = run(*inputs)
    for limits in ({"starts": np.zeros((2, 150), np.int64)}, {"window": 150}, {"window": 2**62}):
        for a, b in zip(run(*inputs, **limits)[0], plain, strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limits", [{"window": 1}, {"starts": np.tile(np.arange(100, dtype=np.int32), (2, 1))}])
def test_a_query_that_sees_itself_only_returns_its_value(limits, dtype):
    q, k, v = qkv(2, 100, 100, 4, 2, 16, dtype)
    (out, _, dq, dk, dv), dout = run(q, k, v, **limits)
    assert_close(out, np.repeat(v, 2, axis=2), dtype)
    assert_close(dv, np.float64(dout).reshape(2, 100, 2, 2, 16).sum(axis=3), dtype)
    assert_close(joined := np.concatenate([dq.ravel(), dk.ravel()]) + np.float64(1), np.ones_like(joined), dtype, 4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradcheck(dtype):
    """The derivative in a random direction against a central difference of the twin."""
    q, k, v = qkv(1, 90, 110, 4, 2, 16, dtype)
    limits = {"window": 40, "starts": document_starts(1, 90, 110)}
    (_, _, *grads), dout = run(q, k, v, **limits)
    rng = np.random.default_rng(8)
    directions = [rng.standard_normal(x.shape) for x in (q, k, v)]

    def loss(step):
        moved = [np.float64(x) + step * d for x, d in zip((q, k, v), directions, strict=True)]
        return (reference.attention(*moved, 0.25, **limits)[0] * np.float64(dout)).sum()

    expected = (loss(1e-5) - loss(-1e-5)) / 2e-5
    products = [np.float64(g) * d for g, d in zip(grads, directions, strict=True)]
    # A sum of random terms: its error is that of the terms, not relative to what they cancel to.
    spread = np.sqrt(sum((p**2).sum() for p in products))
    assert abs(sum(p.sum() for p in products) - expected) <= GRADCHECK[dtype] * spread


def test_tape():
    limits = {"window": 7, "starts": document_starts(2, 20, 20)}
    q, k, v = (llmcore.tensor(x, requires_grad=True) for x in qkv(2, 20, 20, 4, 2, 8, "float32"))
    dout = random(q.shape, "float32", seed=9)
    out = ops.attention(q, k, v, **limits)
    out.backward(dout)
    inputs = [x.numpy() for x in (q, k, v)]
    assert_close(out.numpy(), reference.attention(*inputs, 8**-0.5, **limits)[0], "float32")
    for x, expected in zip((q, k, v), reference.attention_backward(dout, *inputs, 8**-0.5, **limits), strict=True):
        assert_close(array_to_numpy(x.grad), expected, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_cache_repeats_the_bits_of_the_whole_prompt(chunk, dtype):
    B, T = 2, 203
    q, k, v = qkv(B, T, T, 4, 2, 24, dtype)
    starts = document_starts(B, T, T)
    whole = ops.attention(q, k, v, window=50, starts=starts).numpy()
    for begin in range(0, T, chunk):
        part = slice(begin, begin + chunk)
        lengths = np.full(B, min(begin + chunk, T), np.int32)
        out = ops.attention(q[:, part], k, v, lengths=lengths, window=50, starts=starts[:, part])
        assert_repeats(out.numpy(), whole[:, part], dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_neither_threads_nor_neighbours_change_bits(dtype):
    inputs, starts = qkv(3, 330, 330, 6, 2, 40, dtype), document_starts(3, 330, 330)
    assert_same_bits(lambda: run(*inputs, window=100, starts=starts)[0])
    together = run(*inputs, window=100, starts=starts)[0]
    alone = run(*(x[1:2] for x in inputs), window=100, starts=starts[1:2])[0]
    for a, b in zip(alone[:2], together[:2], strict=True):
        np.testing.assert_array_equal(a, b[1:2])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("limits", [{"window": 40}, {"starts": np.full((1, 200), 160, np.int32)}])
def test_hidden_keys_are_not_read(limits, dtype):
    """NaN in tiles that no query sees reaches nothing; their own gradients are zero."""
    q, k, v = (x[:, -40:] if i == 0 else x for i, x in enumerate(qkv(1, 200, 200, 2, 1, 16, dtype)))
    limits = {name: x[:, -40:] if name == "starts" else x for name, x in limits.items()}
    clean, _ = run(q, k, v, **limits)
    for x in (k, v):
        x[:, :64] = np.nan
    got, _ = run(q, k, v, **limits)
    for a, b in zip(got, clean, strict=True):
        np.testing.assert_array_equal(a, b)
    assert not got[3][:, :64].any()
    assert not got[4][:, :64].any()


X = np.zeros((2, 4, 2, 8), np.float32)


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"window": 0}, ValueError, r"\[attention\] expected a window of at least 1, got 0"),
        ({"window": -3}, ValueError, r"\[attention\] expected a window of at least 1, got -3"),
        ({"window": 2, "causal": False}, ValueError, r"\[attention\] expected causal attention with window or starts"),
        ({"starts": np.zeros((2, 5), np.int32)}, ValueError, r"\[attention\] expected starts"),
        ({"starts": np.zeros((2, 4), np.float32)}, TypeError, r"\[attention\] expected starts int32"),
        ({"starts": np.full((2, 4), -1)}, ValueError, r"\[attention\] expected starts in \[0, 4\), got -1"),
        ({"starts": np.full((2, 4), 4)}, ValueError, r"\[attention\] expected starts in \[0, 4\), got 4"),
        (
            {"starts": np.full((2, 4), 1)},
            ValueError,
            r"\[attention\] expected starts at most the query's position 0, got 1",
        ),
    ],
)
def test_bad_input(arguments, kind, message):
    with pytest.raises(kind, match=message) as error:
        ops.attention(X, X, X, **arguments)
    assert "\n" not in str(error.value)
