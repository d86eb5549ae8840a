"""Tensors put together."""

import numpy as np
import pytest

from llmcore import ops
from support.gradcheck import gradients, random


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dim", [0, 1, -1])
def test_concat(dim, dtype):
    sizes = [3, 1, 4]
    arrays = []
    for i, n in enumerate(sizes):
        shape = [2, 5, 6]
        shape[dim] = n
        arrays.append(random(shape, dtype, i))
    whole = np.concatenate(arrays, axis=dim)
    dout = random(whole.shape, dtype, 9)
    out, grads = gradients(lambda *t: ops.concat(t, dim), arrays, [dtype] * 3, dout)
    np.testing.assert_array_equal(out, whole)
    for got, want in zip(grads, np.split(dout, np.cumsum(sizes)[:-1], axis=dim), strict=True):
        np.testing.assert_array_equal(got, want)


def test_bad_input():
    x = np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"\[concat\] expected parts that differ in one dimension only"):
        ops.concat([x, x[:, :2]], 0)
    with pytest.raises(ValueError, match=r"\[concat\] expected at least one tensor, got none"):
        ops.concat([])
