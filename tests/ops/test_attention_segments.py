"""Caches longer than a segment (512 keys): a few queries are cut along the keys, and keep the bits of the whole prompt."""

import numpy as np
import pytest

from llmcore import _core, ops
from llmcore._arrays import array_to_numpy, to_array
from reference import attention as reference
from support.arrays import assert_repeats
from support.gradcheck import NUMPY
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
SEGMENT = 512
B, S, H, HKV = 3, 2 * SEGMENT + 150, 6, 2
LIMITS = {"all keys": {}, "window": {"window": SEGMENT + 70}, "documents": {"starts": True}}


def qkv(dtype, D=24, keys=S):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((B, keys, h, D)).astype(NUMPY[dtype]) for h in (H, HKV, HKV)]


def limits_of(name):
    """Starts near, on and far from the ends of segments."""
    limits = dict(LIMITS[name])
    if "starts" in limits:
        limits["starts"] = np.zeros((B, S), np.int32)
        for b, cuts in enumerate([(10, 520), (SEGMENT, 2 * SEGMENT), (700, 1100)]):
            for cut in cuts:
                limits["starts"][b, cut:] = cut
    return limits


def attention(q, k, v, lengths, **limits):
    """out and lse of queries at the end of `lengths` keys."""
    lengths = np.asarray(lengths, np.int32)
    starts = limits.get("starts")
    if starts is not None:
        starts = to_array(np.stack([s[n - q.shape[1] : n] for s, n in zip(starts, lengths, strict=True)]))
    arrays = [to_array(x) for x in (q, k, v)]
    results = _core.attention(*arrays, q.shape[-1] ** -0.5, True, to_array(lengths), limits.get("window"), starts)
    return [array_to_numpy(x) for x in results]


def last_queries(x, lengths, T):
    return np.stack([row[n - T : n] for row, n in zip(x, lengths, strict=True)])


@pytest.fixture(scope="module", params=[(d, n) for d in DTYPES for n in LIMITS], ids=lambda p: f"{p[0]} {p[1]}")
def prompt(request):
    """q, k, v, what hides keys, and out and lse of the whole prompt at once."""
    dtype, name = request.param
    arrays, limits = qkv(dtype), limits_of(name)
    return *arrays, limits, *attention(*arrays, [S] * B, **limits)


@pytest.mark.parametrize("T", [1, 2, 30, 31, 200])
@pytest.mark.parametrize(
    "lengths",
    [
        (200, SEGMENT, SEGMENT + 1),
        (SEGMENT + 15, 2 * SEGMENT, S),
        (S, SEGMENT - 1, 2 * SEGMENT + 1),
        (2 * SEGMENT + 64, 2 * SEGMENT + 65, 800),
    ],
)
def test_queries_repeat_the_bits_of_the_whole_prompt(prompt, lengths, T):
    q, k, v, limits, whole, whole_lse = prompt
    k, v = k.copy(), v.copy()
    for b, n in enumerate(lengths):
        k[b, n:] = v[b, n:] = np.nan  # what is not written yet
    out, lse = attention(last_queries(q, lengths, T), k, v, lengths, **limits)
    assert_repeats(out, last_queries(whole, lengths, T), str(q.dtype))
    assert_repeats(lse.swapaxes(1, 2), last_queries(whole_lse.swapaxes(1, 2), lengths, T), "float32")


@pytest.mark.parametrize("T", [1, 9])
def test_neither_threads_nor_neighbours_change_bits(prompt, T):
    q, k, v, limits, *_ = prompt
    lengths = (S, 700, SEGMENT + 9)
    queries = last_queries(q, lengths, T)
    assert_same_bits(lambda: attention(queries, k, v, lengths, **limits))
    together = attention(queries, k, v, lengths, **limits)
    for b in range(B):
        row = slice(b, b + 1)
        mine = {n: x[row] if n == "starts" else x for n, x in limits.items()}
        for a, c in zip(attention(queries[row], k[row], v[row], lengths[row], **mine), together, strict=True):
            np.testing.assert_array_equal(a, c[row])


@pytest.mark.parametrize("T", [1, 9, 100])
def test_matches_twin(prompt, T):
    q, k, v, limits, *_ = prompt
    queries = q[:, S - T :]
    out, lse = attention(queries, k, v, [S] * B, **limits)
    if "starts" in limits:
        limits = {"starts": limits["starts"][:, S - T :]}
    expected, expected_lse = reference.attention(queries, k, v, q.shape[-1] ** -0.5, **limits)
    assert_close(out, expected, q.dtype.name)
    assert_close(lse, expected_lse, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 40])
@pytest.mark.parametrize("order", [1, -1])
def test_scores_that_rise_or_fall_from_segment_to_segment(order, T, dtype):
    """By far more than what is summed against one base, so that the fold must rescale."""
    q, k, v = qkv(dtype, keys=S)
    q, k = np.abs(q[:, :T]), np.abs(k)
    steps = np.float32([1, 12, 30])[np.minimum(np.arange(S) // SEGMENT, 2)][::order]
    k = (k.astype(np.float32) * steps[None, :, None, None]).astype(k.dtype)
    out = ops.attention(q, k, v, causal=False).numpy()
    assert_close(out, reference.attention(q, k, v, q.shape[-1] ** -0.5, False)[0], dtype, factor=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("T", [1, 40])
@pytest.mark.parametrize("hidden", [(0, SEGMENT), (SEGMENT, 2 * SEGMENT), (0, 2 * SEGMENT)])
def test_a_segment_of_minus_infinity_changes_nothing(hidden, T, dtype):
    q, k, v = qkv(dtype)
    q = np.abs(q[:, :T]) + q.dtype.type(0.1)
    seen = np.ones(S, bool)
    seen[slice(*hidden)] = False
    k[:, ~seen, :, 0] = -np.inf
    out, lse = attention(q, k, v, [S] * B)
    expected, expected_lse = reference.attention(q, k[:, seen], v[:, seen], q.shape[-1] ** -0.5)
    assert_close(out, expected, dtype)
    assert_close(lse, expected_lse, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_in_a_segment_that_no_query_sees_reaches_nothing(dtype):
    q, k, v = qkv(dtype)
    clean = attention(q[:, -3:], k, v, [S] * B, window=100)
    k[:, :SEGMENT] = v[:, :SEGMENT] = np.nan
    for a, b in zip(attention(q[:, -3:], k, v, [S] * B, window=100), clean, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("heads", "D"), [((1, 1), 256), ((33, 1), 40), ((40, 40), 64), ((16, 8), 128)])
def test_any_number_of_heads(heads, D, dtype):
    """More than fit into one piece, and more than one block of queries to a key head."""
    rng = np.random.default_rng(1)
    q, k, v = [
        rng.standard_normal((1, n, h, D)).astype(NUMPY[dtype])
        for n, h in [(1, heads[0]), (SEGMENT + 90, heads[1]), (SEGMENT + 90, heads[1])]
    ]
    out = ops.attention(q, k, v).numpy()
    assert_close(out, reference.attention(q, k, v, D**-0.5)[0], dtype)
    assert_same_bits(lambda: [ops.attention(q, k, v).numpy()])


@pytest.mark.host  # the CPU cuts at these boundaries
def test_rows_with_too_many_partial_results_are_not_split():
    """64 heads of 30 queries and 64 segments are over the limit, and one of the queries alone is not: the same bits."""
    rng = np.random.default_rng(2)
    q, k, v = [
        rng.standard_normal(shape).astype(np.float32) for shape in [(2, 30, 64, 8), *2 * [(2, 64 * SEGMENT, 1, 8)]]
    ]
    whole = ops.attention(q, k, v).numpy()
    for t in (0, 17, 29):
        lengths = np.full(2, 64 * SEGMENT - 29 + t, np.int32)
        np.testing.assert_array_equal(
            ops.attention(q[:, t : t + 1], k, v, lengths=lengths).numpy(), whole[:, t : t + 1]
        )
    lengths = np.int32([1100, 600])  # few enough, in the memory that was reckoned for all
    short = ops.attention(q, k, v, lengths=lengths).numpy()
    np.testing.assert_array_equal(ops.attention(q, k[:, :1100], v[:, :1100], lengths=lengths).numpy(), short)


@pytest.mark.host  # nobody has this memory on a GPU
def test_more_keys_than_numbers_for_them():
    key = np.broadcast_to(np.zeros((1, 1, 1, 1), np.float32), (1, 2**31, 1, 1))
    with pytest.raises(ValueError, match=r"^\[attention\] expected fewer than 2\^31 keys, got 2147483648$"):
        ops.attention(np.zeros((1, 1, 1, 1), np.float32), key, key, window=3)
