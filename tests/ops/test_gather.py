"""Rows taken by number, and added up by weight."""

import numpy as np
import pytest

from llmcore import ops
from support.gradcheck import gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "C", "N"), [(1, 1, 1), (5, 17, 9), (40, 64, 300), (3, 0, 2), (4, 5, 0)])
def test_take(M, C, N, dtype):
    x, dout = random((M, C), dtype), random((N, C), dtype, 1)
    ids = np.random.default_rng(2).integers(0, M, N)
    out, (dx,) = gradients(lambda t: ops.take(t, ids), [x], [dtype], dout)
    np.testing.assert_array_equal(out, x[ids])
    expected = np.zeros((M, C))
    np.add.at(expected, ids, dout)
    assert_close(dx, expected, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("M", "k", "C"), [(1, 1, 1), (7, 3, 33), (90, 8, 64)])
def test_weighted_sum(M, k, C, dtype):
    y, w, dout = random((M, k, C), dtype), random((M, k), seed=1), random((M, C), dtype, 2)
    out, (dy, dw) = gradients(ops.weighted_sum, [y, w], [dtype, "float32"], dout)
    assert_close(out, np.einsum("mkc,mk->mc", y, w), dtype)
    assert_close(dy, w[..., None] * dout[:, None], dtype)
    assert_close(dw, np.einsum("mc,mkc->mk", dout, y), dtype)
    gradcheck(ops.weighted_sum, lambda a, b: np.einsum("mkc,mk->mc", a, b), [y, w], [dtype, "float32"])


def test_threads_do_not_change_bits():
    x, w = random((200, 4, 48)).astype(np.float32), random((200, 4), seed=1).astype(np.float32)
    ids = np.random.default_rng(0).integers(0, 50, 400)

    def run():
        _, (dx,) = gradients(lambda t: ops.take(t, ids), [x[:50, 0]], ["float32"], x[:, :2].reshape(400, 48))
        out, grads = gradients(ops.weighted_sum, [x, w], ["float32"] * 2, x[:, 0])
        return [dx, out, *grads]

    assert_same_bits(run)


def test_bad_input():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"\[take\] expected ids in \[0, 4\), got 4 at 1"):
        ops.take(x, np.array([0, 4]))
    with pytest.raises(ValueError, match=r"\[take\] expected x \(M, C\), got \(4,\)"):
        ops.take(x[:, 0], np.array([0]))
    with pytest.raises(ValueError, match=r"\[take\] expected ids \(N\)"):
        ops.take(x, np.array([[0]]))
    with pytest.raises(ValueError, match=r"\[weighted_sum\] expected weight \(4, 3\), got \(4, 2\)"):
        ops.weighted_sum(x[..., None], x[:, :2])
