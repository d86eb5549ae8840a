"""matmul and linear: every size around the edges of the kernels' blocks, epilogues, gradients, and the bits."""

import itertools

import numpy as np
import pytest

import llmcore
from llmcore import ops
from reference import gemm as reference
from support.gradcheck import NUMPY, gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
# Rows of a micro-kernel are 6 or 16 and 48, a panel is 64 columns of two halves, k is taken in 32s.
MS = [1, 2, 5, 6, 7, 15, 16, 17, 31, 33, 47, 48, 49, 97, 130]
NS = [1, 2, 17, 31, 32, 33, 63, 64, 65, 97, 128, 130]
KS = [1, 2, 3, 31, 32, 33, 63, 64, 65, 97, 130]
# Above the sizes where work is cut: 2048 k (1024 when transposed), 480 rows, groups of panels.
LARGE = [(3, 130, 2500), (50, 65, 4133), (1000, 70, 40), (7, 1500, 33), (530, 390, 100), (100, 100, 2049)]
SMALL = [t for i, t in enumerate(itertools.product(MS, NS, KS)) if i % 7 == 0]


def tensor(x, dtype):
    return llmcore.tensor(x, dtype)


def check_matmul(M, N, K, dtype):
    a, b = random((M, K), dtype), random((K, N), dtype, 1)
    assert_close(ops.matmul(tensor(a, dtype), tensor(b, dtype)).numpy(), reference.matmul(a, b), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matmul_at_the_edges_of_blocks(dtype):
    for M, N, K in SMALL:
        check_matmul(M, N, K, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", LARGE)
def test_matmul_above_one_block(shape, dtype):
    check_matmul(*shape, dtype)


def check_products(M, N, K, dtype, gelu):
    check_matmul(M, N, K, dtype)
    x, weight, bias, residual = (
        random((M, K), dtype),
        random((N, K), seed=1),
        random(N, seed=2),
        random((M, N), dtype, 3),
    )
    weight /= np.sqrt(K)
    weight = weight.astype(NUMPY[dtype]).astype(np.float64)
    activation = "gelu" if gelu else None
    out = ops.linear(
        tensor(x, dtype), weight.astype(np.float32), bias.astype(np.float32), tensor(residual, dtype), activation
    )
    assert_close(out.numpy(), reference.linear(x, weight, bias, residual, activation), dtype)


def test_products_of_any_size():
    hypothesis = pytest.importorskip("hypothesis")
    st = hypothesis.strategies
    size = st.integers(1, 200)
    of_any = hypothesis.given(size, size, size, st.sampled_from(DTYPES), st.booleans())
    hypothesis.settings(max_examples=40, deadline=None)(of_any(check_products))()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 33, 31), (49, 70, 65), (1, 300, 2100), (130, 97, 4100)])
@pytest.mark.parametrize("out_dtype", [None, "float32"])
def test_linear_epilogues(shape, dtype, out_dtype):
    M, N, K = shape
    result = out_dtype or dtype
    x, weight = random((M, K), dtype), random((N, K), dtype, 1, scale=1 / np.sqrt(K))
    for with_bias, with_residual, activation in itertools.product([False, True], [False, True], [None, "gelu"]):
        bias = random(N, seed=2) if with_bias else None
        residual = random((M, N), result, 3) if with_residual else None
        out = ops.linear(
            tensor(x, dtype),
            tensor(weight, dtype),
            None if bias is None else tensor(bias, "float32"),
            None if residual is None else tensor(residual, result),
            activation,
            out_dtype,
        )
        assert out.numpy().dtype == NUMPY[result]
        # The products of bfloat16 numbers are exact in float32: only the result is rounded.
        assert_close(out.numpy(), reference.linear(x, weight, bias, residual, activation), result)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", [None, "gelu"])
# 600 and 1100 rows: weight gradients take them in parts.
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 3, 5), (33, 65, 31), (600, 50, 70), (1100, 97, 33), (48, 200, 64)])
def test_linear_gradients(shape, activation, dtype):
    M, N, K = shape
    x, weight, bias = random((M, K), dtype), random((N, K), dtype, 1, scale=1 / np.sqrt(K)), random(N, seed=2)
    dout = random((M, N), dtype, 3)
    out, grads = gradients(
        lambda *t: ops.linear(*t, activation=activation), [x, weight, bias], [dtype, "float32", "float32"], dout
    )
    assert_close(out, reference.linear(x, weight, bias, activation=activation), dtype)
    expected = reference.linear_backward(dout, x, weight, bias, activation)
    assert_close(grads[0], expected[0], dtype)
    # Sums of exact products, but with GELU the derivative was taken at a rounded value and rounded itself.
    for got, want in zip(grads[1:], expected[1:], strict=True):
        assert_close(got, want, "float32" if activation is None else dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_directional_derivatives(dtype):
    x, weight, bias = random((9, 21), dtype), random((35, 21), dtype, 1, scale=0.2), random(35, seed=2)
    residual = random((9, 35), dtype, 4)
    dtypes = [dtype, "float32", "float32", dtype]
    for activation in (None, "gelu"):
        gradcheck(
            lambda *t, act=activation: ops.linear(*t, activation=act),
            lambda *a, act=activation: reference.linear(*a, activation=act),
            [x, weight, bias, residual],
            dtypes,
        )
    for a, b in [((5, 7), (7, 9)), ((2, 3, 5, 7), (2, 3, 7, 4)), ((2, 5, 7), (7, 9))]:
        gradcheck(ops.matmul, reference.matmul, [random(a, dtype), random(b, dtype, 1)], [dtype, dtype])


def test_the_gradient_of_a_weight_is_added_to():
    x, w, dout = random((40, 9)), random((6, 9), seed=1), random((40, 6), seed=2)
    weight = llmcore.tensor(w, "float32", requires_grad=True)
    for _ in range(2):
        ops.linear(tensor(x, "float32"), weight).backward(tensor(dout, "float32"))
    assert_close(weight.grad.numpy(), 2 * reference.matmul(dout.T, x), "float32")


@pytest.mark.host  # cuBLASLt chooses by the number of rows
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n_k", [(70, 33), (640, 96), (65, 2500)])
def test_a_row_does_not_depend_on_its_neighbours(n_k, dtype):
    N, K = n_k
    x, weight, residual = random((130, K), dtype), random((N, K), dtype, 1), random((130, N), dtype, 2)

    def rows(begin, end):
        part = tensor(x[begin:end], dtype), tensor(weight, dtype), None, tensor(residual[begin:end], dtype), "gelu"
        return ops.linear(*part).numpy()

    everything = rows(0, 130)
    for begin, end in [(0, 1), (36, 37), (129, 130), (5, 11), (3, 19), (17, 50), (1, 49), (0, 97)]:
        np.testing.assert_array_equal(rows(begin, end), everything[begin:end])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1000, 300), (37, 65, 33), (530, 400, 70), (1100, 130, 97), (20, 70, 4500)])
def test_threads_do_not_change_bits(shape, dtype):
    M, N, K = shape
    arrays = [random((M, K), dtype), random((N, K), seed=1), random(N, seed=2), random((M, N), dtype, 3)]
    dout = random((M, N), dtype, 4)

    def compute():
        out, grads = gradients(
            lambda *t: ops.linear(*t, activation="gelu"), arrays, [dtype, "float32", "float32", dtype], dout
        )
        product = ops.matmul(tensor(arrays[0], dtype), tensor(arrays[1].T, dtype)).numpy()
        return [out, *grads, product]

    assert_same_bits(compute)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("k", [5, 33, 64])
def test_special_values_stay_in_their_row(k, dtype):
    x, weight = random((50, k), dtype), random((40, k), dtype, 1)
    x[3, -1] = np.inf
    x[20, 0] = np.nan
    x[49] = 0
    out = ops.linear(tensor(x, dtype), tensor(weight, dtype)).numpy().astype(np.float64)
    with np.errstate(invalid="ignore"):
        expected = reference.linear(x, weight)
    np.testing.assert_array_equal(np.isnan(out), np.isnan(expected))
    np.testing.assert_array_equal(out[3], expected[3])
    usual = [i for i in range(50) if i not in (3, 20)]
    assert_close(out[usual], expected[usual], dtype)
    assert not out[49].any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gelu_of_special_values(dtype):
    x = np.array([[0.0], [-np.inf], [np.inf], [np.nan], [-1e30], [1e30], [-6.0], [40.0]])
    out = ops.linear(tensor(x, dtype), np.ones((1, 1), np.float32), activation="gelu").numpy().astype(np.float64)
    np.testing.assert_allclose(out[:, 0], [0, np.nan, np.inf, np.nan, 0, x[5, 0], 0, 40], rtol=5e-3, atol=1e-7)


def test_strided_inputs():
    x, weight = random((60, 80)).astype(np.float32), random((30, 40), seed=1).astype(np.float32)
    view, turned = x[::2, ::2], np.asfortranarray(weight)
    assert_close(ops.linear(view, turned).numpy(), reference.linear(view, weight), "float32")
    assert_close(ops.matmul(view, turned.T).numpy(), reference.matmul(view, weight.T), "float32")


def test_batches():
    a, b = random((2, 3, 5, 40)), random((2, 3, 40, 33), seed=1)
    got = ops.matmul(a.astype(np.float32), b.astype(np.float32)).numpy()
    assert_close(got, reference.matmul(a, b), "float32")
    assert_close(ops.matmul(a.astype(np.float32), b[0, 0].astype(np.float32)).numpy(), a @ b[0, 0], "float32")


@pytest.mark.parametrize("dtype", DTYPES)
def test_empty(dtype):
    def zeros(*shape):
        return tensor(np.zeros(shape), dtype)

    assert ops.matmul(zeros(0, 3), zeros(3, 4)).shape == (0, 4)
    assert ops.matmul(zeros(2, 3), zeros(3, 0)).shape == (2, 0)
    np.testing.assert_array_equal(ops.matmul(zeros(2, 0), zeros(0, 4)).numpy(), np.zeros((2, 4)))
    assert ops.linear(zeros(0, 3), zeros(5, 3)).shape == (0, 5)
    bias = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(ops.linear(zeros(2, 0), zeros(5, 0), bias).numpy(), np.stack([bias, bias]))


def test_bad_input():
    x, w = np.zeros((2, 3), np.float32), np.zeros((4, 3), np.float32)
    cases = [
        (lambda: ops.linear(x, w[:, :2]), ValueError, r"\[linear\] expected x \(\.\.\., 2\), got \(2, 3\)"),
        (
            lambda: ops.linear(x, w, np.zeros(3, np.float32)),
            ValueError,
            r"\[linear\] expected bias \(4,?\), got \(3,?\)",
        ),
        (lambda: ops.linear(x, w, residual=x), ValueError, r"\[linear\] expected residual \(2, 4\), got \(2, 3\)"),
        (
            lambda: ops.linear(x, w, activation="relu"),
            ValueError,
            r"\[linear\] expected activation one of None, 'gelu', .*'geglu'",
        ),
        (lambda: ops.linear(x, w, out_dtype="bfloat16"), TypeError, r"\[linear\] expected output float32"),
        (
            lambda: ops.linear(np.zeros((2, 3), np.int64), w),
            TypeError,
            r"\[linear\] expected x float32 or bfloat16, got int64",
        ),
        (lambda: ops.linear(np.float32(1), w), ValueError, r"\[linear\] expected x of at least 1 dim"),
        (lambda: ops.linear(x, np.zeros((2, 3, 4), np.float32)), ValueError, r"\[pack\] expected weight of 2 dim"),
        (lambda: ops.matmul(x, w), ValueError, r"\[matmul\] expected inner dimensions that agree"),
        (lambda: ops.matmul(x, w.T.astype(np.int32)), TypeError, r"\[matmul\] expected b float32, got int32"),
        (lambda: ops.matmul(x[0], w), ValueError, r"\[matmul\] expected a of at least 2 dim"),
        (
            lambda: ops.matmul(np.zeros((2, 5, 3), np.float32), np.zeros((3, 3, 4), np.float32)),
            ValueError,
            r"\[matmul\] expected a and b with the same leading dim",
        ),
    ]
    for call, error, message in cases:
        with pytest.raises(error, match=message):
            call()
