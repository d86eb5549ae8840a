"""layer_norm and rms_norm."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from reference import norm as reference
from support.gradcheck import gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
SHAPES = [(1, 1), (3, 2), (2, 3, 7), (5, 16), (4, 33), (130, 64), (9, 768), (2, 1030), (600, 96)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_layer_norm(shape, dtype):
    x, dout = random(shape, dtype, 0), random(shape, dtype, 1)
    weight, bias = random(shape[-1:], seed=2), random(shape[-1:], seed=3)
    out, grads = gradients(ops.layer_norm, [x, weight, bias], [dtype, "float32", "float32"], dout)
    assert_close(out, reference.layer_norm(x, weight, bias), dtype)
    dx, dweight, dbias = reference.layer_norm_backward(dout, x, weight)
    if shape[-1] > 2:  # of two numbers the difference is all there is: dx is ~eps
        assert_close(grads[0], dx, dtype)
    assert_close(grads[1], dweight, "float32")
    assert_close(grads[2], dbias, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_rms_norm(shape, dtype):
    x, dout, weight = random(shape, dtype, 0), random(shape, dtype, 1), random(shape[-1:], seed=2)
    out, grads = gradients(ops.rms_norm, [x, weight], [dtype, "float32"], dout)
    assert_close(out, reference.rms_norm(x, weight), dtype)
    dx, dweight = reference.rms_norm_backward(dout, x, weight)
    if shape[-1] > 1:
        assert_close(grads[0], dx, dtype)
    assert_close(grads[1], dweight, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("eps", [1e-5, 0.3])
def test_gradients(dtype, eps):
    arrays = [random((7, 21), dtype, 0), random(21, seed=1), random(21, seed=2)]
    dtypes = [dtype, "float32", "float32"]
    gradcheck(lambda *t: ops.layer_norm(*t, eps=eps), lambda *a: reference.layer_norm(*a, eps), arrays, dtypes)
    gradcheck(lambda *t: ops.rms_norm(*t, eps=eps), lambda *a: reference.rms_norm(*a, eps), arrays[:2], dtypes[:2])


def test_layer_norm_without_bias():
    x, weight = random((3, 5)), random(5, seed=1)
    out, grads = gradients(ops.layer_norm, [x, weight], ["float32"] * 2, np.ones_like(x))
    assert_close(out, reference.layer_norm(x, weight), "float32")
    assert len(grads) == 2


def test_a_large_mean_does_not_cancel():
    x = random((4, 256)) + 1000
    x = x.astype(np.float32).astype(np.float64)
    got = ops.layer_norm(x.astype(np.float32), np.ones(256, np.float32)).numpy()
    # The mean itself has a relative rounding error of 2^-24 or so of 1000.
    np.testing.assert_allclose(got, reference.layer_norm(x, 1.0), atol=2e-4)


def test_gradients_of_parameters_add_up():
    x, weight = random((3, 5)), llmcore.tensor(np.ones(5), "float32", requires_grad=True)
    for _ in range(2):
        ops.rms_norm(x.astype(np.float32), weight).backward(np.ones((3, 5), np.float32))
    once = reference.rms_norm_backward(np.ones((3, 5)), x, np.ones(5))[1]
    assert_close(weight.grad.numpy(), 2 * once, "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 2), (2, 5, 33), (130, 64)])
def test_around_a_residual_connection(shape, dtype):
    """x + norm(x) of a computed x: both gradients meet in the backward of the norm, which only reads the first."""
    a, dout, weight = random(shape, dtype, 0), random(shape, dtype, 1), random(shape[-1:], seed=2)
    for op, backward in (
        (ops.layer_norm, reference.layer_norm_backward),
        (ops.rms_norm, reference.rms_norm_backward),
    ):
        x, w = llmcore.tensor(a, dtype, requires_grad=True), llmcore.tensor(weight, "float32", requires_grad=True)
        d = llmcore.tensor(dout, dtype)
        y = x * 0.5
        (y + op(y, w)).backward(d)
        dy, dweight, *_ = backward(dout, 0.5 * a, weight)
        if shape[-1] > 2:
            assert_close(llmcore.Tensor(x.grad).numpy(), 0.5 * (dout + dy), dtype)
        assert_close(w.grad.numpy(), dweight, "float32")
        np.testing.assert_array_equal(d.numpy().astype(np.float64), dout)


def test_every_gradient_of_a_shared_input_counts():
    """Three norms of one tensor, a use before and a use after them, and the tensor as its own weight."""
    a, weight = random(9), random(9, seed=1)
    x = llmcore.tensor(a, "float32", requires_grad=True)
    y, w, ones = x * 1.0, weight.astype(np.float32), np.ones(9)
    total = y * 3.0
    for t in (ops.rms_norm(y, w), ops.layer_norm(y, w), ops.rms_norm(y, y), y):
        total = total + t
    total.backward(ones.astype(np.float32))
    own = reference.rms_norm_backward(ones, a, a)
    want = 4 + own[0] + own[1]
    want = want + reference.rms_norm_backward(ones, a, weight)[0] + reference.layer_norm_backward(ones, a, weight)[0]
    assert_close(x.grad.numpy(), want, "float32")


@pytest.mark.parametrize("op", [ops.layer_norm, ops.rms_norm])
def test_special_rows(op):
    x = np.zeros((4, 8), np.float32)
    x[1, 3], x[2, 3], x[3] = np.nan, np.inf, np.arange(8)
    got = op(x, np.ones(8, np.float32)).numpy()
    assert (got[0] == 0).all()
    assert np.isnan(got[1]).all()
    assert np.isnan(got[2]).any()
    np.testing.assert_array_equal(got[3:], op(x[3:], np.ones(8, np.float32)).numpy())


def test_no_rows():
    for op in (ops.layer_norm, ops.rms_norm):
        assert op(np.zeros((0, 4), np.float32), np.ones(4, np.float32)).shape == (0, 4)


def test_strided_input():
    x = random((8, 5)).astype(np.float32)
    weight = np.ones(8, np.float32)
    np.testing.assert_array_equal(
        ops.layer_norm(x.T, weight).numpy(), ops.layer_norm(np.ascontiguousarray(x.T), weight).numpy()
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 5), (257, 96), (700, 131)])
def test_threads_do_not_change_bits(shape, dtype):
    x, dout = random(shape, dtype), random(shape, dtype, 1)
    weight, bias = random(shape[1], seed=2), random(shape[1], seed=3)

    def compute():
        out, grads = gradients(ops.layer_norm, [x, weight, bias], [dtype, "float32", "float32"], dout)
        out2, grads2 = gradients(ops.rms_norm, [x, weight], [dtype, "float32"], dout)
        return [out, *grads, out2, *grads2]

    assert_same_bits(compute)


def test_a_row_does_not_depend_on_its_neighbours():
    x, weight = random((300, 70)).astype(np.float32), random(70, seed=1).astype(np.float32)
    for op in (ops.layer_norm, ops.rms_norm):
        np.testing.assert_array_equal(op(x, weight).numpy()[137:138], op(x[137:138], weight).numpy())


def test_bad_input():
    x, weight = np.zeros((2, 4), np.float32), np.ones(4, np.float32)
    for op, name in ((ops.layer_norm, "layer_norm"), (ops.rms_norm, "rms_norm")):
        with pytest.raises(ValueError, match=rf"\[{name}\] expected weight \(4,\), got \(3,\)"):
            op(x, weight[:3])
        with pytest.raises(TypeError, match=rf"\[{name}\] expected x float32 or bfloat16, got int32"):
            op(x.astype(np.int32), weight)
        with pytest.raises(TypeError, match=rf"\[{name}\] expected weight float32, got int32"):
            op(x, weight.astype(np.int32))
        with pytest.raises(ValueError, match=rf"\[{name}\] expected eps >= 0, got"):
            op(x, weight, eps=-1.0)
        with pytest.raises(ValueError, match=rf"\[{name}\] expected x of at least 1 dim"):
            op(np.float32(1).reshape(()), weight)
    core = [llmcore.tensor(a).array for a in (x, x, weight, np.ones(2, np.float32), weight)]
    with pytest.raises(ValueError, match=r"\[rms_norm_backward\] expected residual \(2, 4\), got \(4,\)"):
        _core.norm_backward(*core[:3], None, *core[3:], None, residual=core[2])
    with pytest.raises(ValueError, match=r"\[layer_norm\] expected bias \(4,\), got \(5,\)"):
        ops.layer_norm(x, weight, np.ones(5, np.float32))
