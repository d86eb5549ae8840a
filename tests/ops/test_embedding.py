"""Rows of a table, and the sums that come back."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from support.arrays import array
from support.gradcheck import NUMPY, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("ids_dtype", [np.int32, np.int64, np.uint32])
@pytest.mark.parametrize(("V", "C", "shape"), [(1, 1, (1,)), (7, 5, (2, 3)), (50, 64, (700,)), (9, 300, (4, 65))])
def test_embedding(V, C, shape, ids_dtype, dtype):
    table = random((V, C)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, V, shape).astype(ids_dtype)
    parameter = llmcore.tensor(table, requires_grad=True)
    out = ops.embedding(ids, parameter, dtype)
    np.testing.assert_array_equal(out.numpy(), table[ids].astype(NUMPY[dtype]))
    dout = random((*shape, C), dtype, 2)
    out.backward(llmcore.tensor(dout, dtype))
    want = np.zeros((V, C))
    np.add.at(want, ids, dout)
    assert_close(parameter.grad.numpy(), want, "float32")


def test_gradient_in_a_random_direction():
    """The op is linear in the table: <dtable, direction> = <dout, op(direction)>."""
    ids, direction = np.array([[0, 2, 2], [1, 0, 2]]), random((3, 4))
    parameter = llmcore.tensor(random((3, 4), seed=1), "float32", requires_grad=True)
    dout = random((2, 3, 4), seed=2)
    ops.embedding(ids, parameter).backward(llmcore.tensor(dout, "float32"))
    assert abs(np.sum(parameter.grad.numpy() * direction) - np.sum(dout * direction[ids])) < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("C", [3, 200])
def test_threads_do_not_change_bits(C, dtype):
    table, ids = random((11, C)), np.random.default_rng(0).integers(0, 11, 900)
    dout = random((900, C), dtype, 1)

    def compute():
        parameter = llmcore.tensor(table, "float32", requires_grad=True)
        out = ops.embedding(ids, parameter, dtype)
        out.backward(llmcore.tensor(dout, dtype))
        return [out.numpy(), parameter.grad.numpy()]

    assert_same_bits(compute)


def test_bad_input():
    table = np.zeros((3, 4), np.float32)
    with pytest.raises(ValueError, match=r"\[embedding\] expected ids in \[0, 3\), got 3 at 1"):
        ops.embedding(np.array([0, 3]), table)
    with pytest.raises(ValueError, match=r"\[embedding\] expected ids in \[0, 3\), got -1 at 0"):
        ops.embedding(np.array([-1]), table)
    with pytest.raises(TypeError, match=r"\[embedding\] expected ids int32, int64 or uint32, got float32"):
        ops.embedding(np.array([0.0], np.float32), table)
    with pytest.raises(ValueError, match=r"\[embedding\] expected table \(V, C\), got \(4,\)"):
        ops.embedding(np.array([0]), table[0])
    with pytest.raises(TypeError, match=r"\[embedding\] expected dtype float32 or bfloat16, got int32"):
        ops.embedding(np.array([0]), table, "int32")
    dtable, ids = array(np.zeros((3, 4))), _core.from_numpy(np.array([0, 1]))
    with pytest.raises(ValueError, match=r"\[embedding_backward\] expected dout \(2, 4\), got \(3, 4\)"):
        _core.embedding_backward(dtable, ids, dtable)
    assert ops.embedding(np.zeros((0,), np.int32), table).shape == (0, 4)
