"""linear with activation="swiglu": silu(gate) * up in the kernel, from panels that pair the columns of gate and up."""

import numpy as np
import pytest

import llmcore
from llmcore import _core, nn, ops, optim
from reference import gemm as reference
from support.gradcheck import NUMPY, gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
# Rows, columns that are left, k: around the blocks of rows, 32 columns of a pair, k in 32s and the passes over long k.
SHAPES = [(1, 1, 7), (2, 31, 3), (3, 32, 33), (4, 33, 64), (5, 63, 65), (6, 64, 31), (7, 65, 97), (24, 96, 1030)]
SHAPES += [(25, 100, 40), (97, 130, 2100), (1, 300, 4100), (3, 0, 5), (0, 3, 5), (2, 5, 0)]


def arguments(M, F, K, dtype):
    weight = random((2 * F, K), dtype, 1, scale=1 / np.sqrt(max(K, 1)))
    return random((M, K), dtype), weight, random(2 * F, seed=2), random((M, F), dtype, 3)


def tensors(x, weight, bias, residual, dtype):
    return (
        llmcore.tensor(x, dtype),
        llmcore.tensor(weight, "float32"),
        None if bias is None else llmcore.tensor(bias, "float32"),
        None if residual is None else llmcore.tensor(residual, dtype),
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward_and_backward(shape, dtype):
    M, F, _ = shape
    x, weight, bias, residual = arguments(*shape, dtype)
    dout = random((M, F), dtype, 4)
    for b, r in ((None, None), (bias, residual)):
        got = ops.linear(*tensors(x, weight, b, r, dtype), activation="swiglu")
        assert got.numpy().dtype == NUMPY[dtype]
        assert_close(got.numpy(), reference.linear(x, weight, b, r, "swiglu"), dtype)
    out, grads = gradients(
        lambda *t: ops.linear(*t, activation="swiglu"), [x, weight, bias], [dtype, "float32", "float32"], dout
    )
    assert_close(out, reference.linear(x, weight, bias, activation="swiglu"), dtype)
    for got, want in zip(grads, reference.linear_backward(dout, x, weight, bias, "swiglu"), strict=True):
        assert_close(got, want, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_directional_derivatives(dtype):
    gradcheck(
        lambda *t: ops.linear(*t, activation="swiglu"),
        lambda *a: reference.linear(*a, activation="swiglu"),
        list(arguments(9, 35, 21, dtype)),
        [dtype, "float32", "float32", dtype],
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_the_bits_of_two_ops(shape):
    """In float32 nothing is rounded between the ops."""
    x, weight, bias, _ = tensors(*arguments(*shape, "float32"), "float32")
    np.testing.assert_array_equal(
        ops.linear(x, weight, bias, activation="swiglu").numpy(), ops.swiglu(ops.linear(x, weight, bias)).numpy()
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_unfused_way(dtype):
    """What matrix units take: panels that are not paired."""
    arrays = arguments(5, 37, 41, dtype)
    x, weight, bias, residual = tensors(*arrays, dtype)
    panels = weight.panels(x.array.dtype, True)
    out, pre = _core.linear(x.array, panels, bias.array, residual.array, _core.Activation.swiglu, True)
    assert_close(llmcore.Tensor(out).numpy(), reference.linear(*arrays, "swiglu"), dtype)
    assert_close(llmcore.Tensor(pre).numpy(), reference.linear(*arrays[:3]), dtype)


@pytest.mark.host  # cuBLASLt chooses by the number of rows
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("recorded", [False, True])
def test_a_row_does_not_depend_on_its_neighbours(recorded, dtype):
    """Nor on whether a backward pass will follow."""
    x, weight, _, _ = arguments(130, 70, 600, dtype)
    w = llmcore.tensor(weight, "float32")
    everything = ops.linear(llmcore.tensor(x, dtype), w, activation="swiglu").numpy()
    w = llmcore.tensor(weight, "float32", requires_grad=recorded)
    for begin, end in [(0, 1), (129, 130), (5, 11), (3, 19), (17, 50), (0, 97)]:
        rows = ops.linear(llmcore.tensor(x[begin:end], dtype), w, activation="swiglu").numpy()
        np.testing.assert_array_equal(rows, everything[begin:end])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 500, 300), (37, 65, 33), (200, 130, 97)])
def test_threads_do_not_change_bits(shape, dtype):
    arrays = arguments(*shape, dtype)
    dtypes = [dtype, "float32", "float32", dtype]

    def compute():
        out, grads = gradients(lambda *t: ops.linear(*t, activation="swiglu"), arrays, dtypes, arrays[3])
        return [out, *grads]

    assert_same_bits(compute)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("F", [32, 33, 96, 100])
def test_a_weight_used_both_ways_through_updates(F, dtype):
    """Paired panels follow the values: written by the optimizer where 32 divides F, else packed anew."""
    x, weight, _, _ = arguments(4, F, 300, dtype)
    p, x = nn.Parameter(weight), llmcore.tensor(x, dtype)
    optimizer = optim.AdamW([("p", p)], lr=0.1)
    for _ in range(3):
        (ops.linear(x, p, activation="swiglu")).backward(np.ones((4, F), NUMPY[dtype]))
        ops.linear(x, p).backward(np.ones((4, 2 * F), NUMPY[dtype]))
        optimizer.step()
        p.zero_grad()
        fresh = llmcore.tensor(p.numpy(), "float32")
        for activation in ("swiglu", None):
            np.testing.assert_array_equal(
                ops.linear(x, p, activation=activation).numpy(), ops.linear(x, fresh, activation=activation).numpy()
            )
    p.assign(np.zeros(p.shape))
    assert not ops.linear(x, p, activation="swiglu").numpy().any()


def test_bad_input():
    x, weight = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    with pytest.raises(ValueError, match=r"\[pack\] expected an even number of rows \(gate and up\), got \(3, 3\)"):
        ops.linear(x, weight[:3], activation="swiglu")
    with pytest.raises(ValueError, match=r"\[linear\] expected residual \(2, 2\), got \(2, 4\)"):
        ops.linear(x, weight, residual=np.zeros((2, 4), np.float32), activation="swiglu")
