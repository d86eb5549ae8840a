"""gelu, silu, swiglu, add, mul, cast, and sums over rows."""

from functools import partial

import numpy as np
import pytest

import llmcore
from llmcore import _core, ops
from reference import elementwise as reference
from support.arrays import array
from support.gradcheck import NUMPY, gradcheck, gradients, random, representable
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
SHAPES = [(), (1,), (15,), (3, 17), (2, 3, 64), (70000,)]
ACTIVATIONS = [
    (ops.gelu, reference.gelu, reference.gelu_derivative),
    (ops.silu, reference.silu, reference.silu_derivative),
    (partial(ops.gelu, exact=True), reference.gelu_exact, reference.gelu_exact_derivative),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("op", "twin", "derivative"), ACTIVATIONS)
def test_activations(op, twin, derivative, shape, dtype):
    x, dout = random(shape, dtype, scale=3), random(shape, dtype, 1)
    out, (dx,) = gradients(op, [x], [dtype], dout)
    assert_close(out, twin(x), dtype)
    assert_close(dx, dout * derivative(x), dtype)


@pytest.mark.parametrize(("op", "twin", "derivative"), ACTIVATIONS)
def test_activations_far_out(op, twin, derivative):
    """No overflow in between: large arguments give 0 or themselves, slopes 0 or 1."""
    x = np.array([-1e30, -1e4, -200.0, -90.0, -20.0, -1e-30, 0.0, 1e-42, 20.0, 90.0, 200.0, 1e4, 1e30])
    x = representable(x, "float32")
    out, (dx,) = gradients(op, [x], ["float32"], np.ones_like(x))
    np.testing.assert_allclose(out, twin(x), rtol=1e-5, atol=1e-35)
    slope = derivative(np.clip(x, -1e4, 1e4))
    np.testing.assert_allclose(dx, slope, rtol=1e-5, atol=1e-30)
    assert np.isnan(op(np.array([np.nan], np.float32)).numpy()).all()
    assert op(np.array([np.inf], np.float32)).numpy() == np.inf


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2,), (3, 34), (2, 5, 128), (1, 40002), (300, 130)])
@pytest.mark.parametrize("kind", ["swiglu", "geglu"])
def test_gated(shape, dtype, kind):
    x = random(shape, dtype, scale=2)
    dout = random((*shape[:-1], shape[-1] // 2), dtype, 1)
    out, (dx,) = gradients(getattr(ops, kind), [x], [dtype], dout)
    assert_close(out, getattr(reference, kind)(x), dtype)
    assert_close(dx, getattr(reference, f"{kind}_backward")(dout, x), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cap", [0.5, 30.0])
def test_softcap(shape, dtype, cap):
    x, dout = random(shape, dtype, scale=cap), random(shape, dtype, 1)
    out, (dx,) = gradients(lambda t: ops.softcap(t, cap), [x], [dtype], dout)
    assert_close(out, reference.softcap(x, cap), dtype)
    assert_close(dx, dout * reference.softcap_derivative(x, cap), dtype)


def test_softcap_of_small_and_large_numbers():
    """As precise near 0 as anywhere, ±cap far out, nan for nan."""
    x = np.array([1e-30, -3e-8, 1e-4, -0.3, 0.62, 0.63, -5.0, 1e30, -np.inf, 0.0], np.float32)
    got = ops.softcap(x, 1.0).numpy()
    np.testing.assert_allclose(got, np.tanh(x.astype(np.float64)), rtol=3e-7)
    assert np.isnan(ops.softcap(np.array([np.nan], np.float32), 1.0).numpy()).all()
    for cap in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=r"\[softcap\] expected cap a number > 0"):
            ops.softcap(x, cap)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["gelu", "gelu_exact", "silu", "swiglu", "geglu"])
def test_linear_with_an_activation(activation, dtype):
    """One line, whether there is one kernel for it or two."""
    x, w, b = random((3, 5, 40), dtype), random((34, 40), scale=0.2), random((34,))
    width = 17 if activation.endswith("glu") and activation != "gelu" else 34
    residual, dout = random((3, 5, width), dtype, 3), random((3, 5, width), dtype, 4)

    def op(*t):
        return ops.linear(t[0], t[1], t[2], residual=t[3], activation=activation)

    out, grads = gradients(op, [x, w, b, residual], [dtype, "float32", "float32", dtype], dout)
    twin = getattr(reference, activation)
    pre = x @ representable(w, dtype).T + b
    assert_close(out, residual + twin(pre), dtype, factor=2)
    if width == 17:
        dpre = getattr(reference, f"{activation}_backward")(dout, pre)
    else:
        dpre = dout * getattr(reference, f"{activation}_derivative")(pre)
    rows = dpre.reshape(-1, 34)
    assert_close(grads[0], dpre @ representable(w, dtype), dtype, factor=2)
    assert_close(grads[1], rows.T @ x.reshape(-1, 40), dtype, factor=2)
    assert_close(grads[2], rows.sum(0), dtype, factor=2)
    assert_close(grads[3], dout, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype):
    x = random((5, 22), dtype, scale=2)
    gradcheck(ops.gelu, reference.gelu, [x], [dtype])
    gradcheck(ops.silu, reference.silu, [x], [dtype])
    gradcheck(ops.swiglu, reference.swiglu, [x], [dtype])
    gradcheck(ops.geglu, reference.geglu, [x], [dtype])
    gradcheck(partial(ops.gelu, exact=True), reference.gelu_exact, [x], [dtype])
    gradcheck(lambda t: ops.softcap(t, 1.5), lambda a: reference.softcap(a, 1.5), [x], [dtype])
    y = random((5, 22), dtype, 1)
    gradcheck(ops.mul, np.multiply, [x, y], [dtype] * 2)
    gradcheck(ops.add, np.add, [x, y], [dtype] * 2)
    gradcheck(lambda t: ops.mul(t, 0.37), lambda a: a * np.float64(np.float32(0.37)), [x], [dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_arithmetic_is_rounded_once(shape, dtype):
    """Sums and products of two floats are exact in float64, so one rounding decides every bit."""
    a, b = random(shape, dtype), random(shape, dtype, 1)
    x, y = llmcore.tensor(a, dtype), llmcore.tensor(b, dtype)
    # float32 sums and products round before they become bfloat16.
    for got, want in ((x + y, a + b), (x * y, a * b), (x * 0.37, a * np.float64(np.float32(0.37)))):
        np.testing.assert_array_equal(got.numpy(), want.astype(np.float32).astype(NUMPY[dtype]))


def test_cast_every_bfloat16_there_and_back():
    every = np.arange(2**16, dtype=np.uint16).view(NUMPY["bfloat16"])
    wide = ops.cast(every, "float32").numpy()
    np.testing.assert_array_equal(wide, every.astype(np.float32))
    number = ~np.isnan(wide)
    back = ops.cast(wide, "bfloat16").numpy()
    np.testing.assert_array_equal(back[number].view(np.uint16), every[number].view(np.uint16))
    assert np.isnan(back[~number].astype(np.float32)).all()


def test_cast_rounds_to_nearest_even():
    bits = np.random.default_rng(0).integers(0, 2**32, 100003, dtype=np.uint64).astype(np.uint32)
    halfway = (np.arange(2**16, dtype=np.uint32) << 16) | 0x8000
    x = np.concatenate([bits, halfway, np.array([1, 0x7FFF, 0x8001, 0x7F7FFFFF], np.uint32)]).view(np.float32)
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        want = x.astype(NUMPY["bfloat16"])
    np.testing.assert_array_equal(ops.cast(x, "bfloat16").numpy().view(np.uint16), want.view(np.uint16))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 3), (16, 100), (33, 1024), (515, 1100), (4, 2500)])
def test_column_sum(shape, dtype):
    """What the gradient of a bias is; it adds to what is there."""
    x, start = random(shape, dtype), random(shape[1], seed=1)
    out = llmcore.tensor(start, "float32")
    _core.linear_bias_grad(llmcore.tensor(x, dtype).array, out.array)
    assert_close(out.numpy(), start + x.sum(0), "float32")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [6, 70002])
def test_threads_do_not_change_bits(n, dtype):
    x, y = random(n, dtype), random(n, dtype, 1)
    rows, dout = random((n // 2, 2), dtype), random((n // 2, 1), dtype, 1)
    wide = llmcore.tensor(random((n // 6, 6), dtype), dtype).array

    def compute():
        total = array(np.zeros(6))
        _core.linear_bias_grad(wide, total)
        results = [total.numpy()]
        for op, arrays, d in (
            (ops.gelu, [x], y),
            (ops.silu, [x], y),
            (ops.swiglu, [rows], dout),
            (ops.mul, [x, y], y),
        ):
            out, grads = gradients(op, arrays, [dtype] * len(arrays), d)
            results += [out, *grads]
        return results

    assert_same_bits(compute)


def test_empty():
    for op in (ops.gelu, ops.silu, ops.swiglu):
        assert op(np.zeros((0, 4), np.float32)).shape[0] == 0


def test_strided_input():
    x = random((6, 8)).astype(np.float32)
    np.testing.assert_array_equal(ops.gelu(x[::2, 1::3]).numpy(), ops.gelu(x[::2, 1::3].copy()).numpy())


def test_bad_input():
    x = np.zeros((2, 5), np.float32)
    with pytest.raises(ValueError, match=r"\[swiglu\] expected an even last dimension"):
        ops.swiglu(x)
    with pytest.raises(TypeError, match=r"\[gelu\] expected x float32 or bfloat16, got int32"):
        ops.gelu(x.astype(np.int32))
    with pytest.raises(ValueError, match=r"\[add\] expected b \(2, 5\), got \(5, 2\)"):
        ops.add(x, x.T)
    with pytest.raises(TypeError, match=r"\[mul\] expected b float32, got bfloat16"):
        ops.mul(x, x.astype(NUMPY["bfloat16"]))
    with pytest.raises(TypeError, match=r"\[cast\] expected dtype float32 or bfloat16, got int32"):
        ops.cast(x, "int32")
