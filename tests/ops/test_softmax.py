"""softmax over the last dimension."""

import numpy as np
import pytest

from llmcore import ops
from reference import softmax as reference
from support.gradcheck import gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
SHAPES = [(1,), (3, 2), (2, 3, 17), (5, 64), (4, 1000), (2, 4096), (2, 4097), (3, 9001), (300, 100)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_softmax(shape, dtype):
    x, dout = random(shape, dtype, scale=3), random(shape, dtype, 1)
    out, (dx,) = gradients(ops.softmax, [x], [dtype], dout)
    assert_close(out, reference.softmax(x), dtype)
    # The op differentiates at its own rounded output.
    assert_close(dx, reference.softmax_backward(dout, out), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype):
    gradcheck(ops.softmax, reference.softmax, [random((6, 19), dtype)], [dtype])


@pytest.mark.parametrize("n", [8, 5000])
def test_special_rows(n):
    x = np.zeros((6, n), np.float32)
    x[0, : n // 2] = -np.inf  # the first block of a long row is -inf alone
    x[1] = -np.inf
    x[2, 3] = np.nan
    x[3, 3] = np.inf
    x[4] = 3e38
    x[4, 0] = -3e38
    x[5] = 1e-45
    np.testing.assert_allclose(ops.softmax(x).numpy(), reference.softmax(x.astype(np.float64)), rtol=1e-5)


def test_shift_invariance():
    x = random((3, 50)).astype(np.float32)
    np.testing.assert_allclose(ops.softmax(x + 512).numpy(), reference.softmax((x + 512).astype(np.float64)), rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (301, 200), (7, 5000)])
def test_threads_do_not_change_bits(shape, dtype):
    x, dout = random(shape, dtype), random(shape, dtype, 1)

    def compute():
        out, grads = gradients(ops.softmax, [x], [dtype], dout)
        return [out, *grads]

    assert_same_bits(compute)


def test_a_row_does_not_depend_on_its_neighbours():
    x = random((300, 70)).astype(np.float32)
    np.testing.assert_array_equal(ops.softmax(x).numpy()[137], ops.softmax(x[137]).numpy())


def test_bad_input():
    assert ops.softmax(np.zeros((0, 3), np.float32)).shape == (0, 3)
    with pytest.raises(TypeError, match=r"\[softmax\] expected x float32 or bfloat16, got int64"):
        ops.softmax(np.zeros(3, np.int64))
    with pytest.raises(ValueError, match=r"\[softmax\] expected x of at least 1 dim"):
        ops.softmax(np.zeros((), np.float32))
