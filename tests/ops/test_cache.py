"""Keys and values written to the cache."""

import numpy as np
import pytest

import llmcore
from llmcore import ops
from llmcore._arrays import array_to_numpy
from support.arrays import put
from support.gradcheck import NUMPY

DTYPES = ["float32", "bfloat16"]


def random(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(NUMPY[dtype])


def z(*shape):
    return np.zeros(shape, np.float32)


@pytest.fixture
def threads():
    before = llmcore.num_threads()
    yield llmcore.set_num_threads
    llmcore.set_num_threads(before)


@pytest.mark.parametrize("dtype", [*DTYPES])
@pytest.mark.parametrize("threads_used", [1, 3])
def test_cache_append(dtype, threads_used, threads):
    threads(threads_used)
    x = random((3, 70, 4, 5), dtype)[:, :, ::2]  # strided heads
    given = random((3, 200, 2, 5), dtype, seed=1)
    cache = put(given)
    lengths = np.array([70, 100, 200], np.int32)
    expected = given.copy()
    for b, n in enumerate(lengths):
        expected[b, n - 70 : n] = x[b]
    ops.cache_append(cache, x, lengths)
    np.testing.assert_array_equal(array_to_numpy(cache), expected)


@pytest.mark.host  # arrays of numpy are checked before they go anywhere
@pytest.mark.parametrize(
    ("cache", "x", "lengths", "kind", "message"),
    [
        (
            z(1, 8, 2, 4),
            z(1, 2, 2, 4),
            [1],
            ValueError,
            r"\[cache_append\] expected lengths in \[2, 9\), got 1",
        ),
        (
            z(1, 8, 2, 4),
            z(1, 2, 2, 4),
            [9],
            ValueError,
            r"\[cache_append\] expected lengths in \[2, 9\), got 9",
        ),
        (z(1, 8, 2, 4), z(1, 2, 2, 5), [2], ValueError, r"\[cache_append\] expected x"),
        (z(8, 2, 4), z(2, 2, 4), [2], ValueError, r"\[cache_append\] expected cache \(B, S, H, D\)"),
        (
            z(1, 8, 2, 4),
            np.zeros((1, 2, 2, 4), np.int32),
            [2],
            TypeError,
            r"\[cache_append\] expected x",
        ),
        (z(1, 8, 4, 4)[:, :, ::2], z(1, 2, 2, 4), [2], ValueError, r"\[cache_append\] expected cache"),
    ],
)
def test_bad_cache_append(cache, x, lengths, kind, message):
    with pytest.raises(kind, match=message):
        ops.cache_append(cache, x, np.array(lengths, np.int32))
