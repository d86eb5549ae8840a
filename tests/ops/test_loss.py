"""cross_entropy over given logits, and fused with the output layer."""

import numpy as np
import pytest

from llmcore import ops
from reference import loss as reference
from support.gradcheck import gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]
SHAPES = [(1, 1), (3, 2), (2, 3, 17), (5, 1000), (4, 2049), (2, 50304), (300, 65)]


def some_targets(shape, V, seed=0):
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, V, shape)
    targets.reshape(-1)[2::3] = -100
    return targets


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_cross_entropy(shape, dtype):
    x, targets = random(shape, dtype, scale=4), some_targets(shape[:-1], shape[-1])
    dloss = random(shape[:-1], seed=1)
    out, (dx,) = gradients(lambda t: ops.cross_entropy(t, targets, "none"), [x], [dtype], dloss)
    want = reference.cross_entropy(x, targets)
    # Loss is a difference of numbers of the logits' size.
    np.testing.assert_allclose(out, want, atol=2e-6 * max(1, np.abs(x).max()), rtol=2e-6)
    want = reference.cross_entropy_backward(dloss, x, targets)
    if shape[-1] > 1:
        assert_close(dx, want, dtype)
    assert (dx[targets < 0] == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype):
    targets = some_targets((9,), 23)
    gradcheck(
        lambda t: ops.cross_entropy(t, targets, "none"),
        lambda a: reference.cross_entropy(a, targets),
        [random((9, 23), dtype, scale=2)],
        [dtype],
    )


def test_reductions():
    x, targets = random((7, 11)), some_targets((7,), 11)
    each = reference.cross_entropy(x, targets)
    dloss = (targets >= 0).astype(np.float64)
    for reduction, factor in (("sum", 1.0), ("mean", 1 / dloss.sum())):
        out, (dx,) = gradients(lambda t, r=reduction: ops.cross_entropy(t, targets, r), [x], ["float32"], 1.0)
        assert_close(out, each.sum() * factor, "float32")
        assert_close(dx, reference.cross_entropy_backward(dloss * factor, x, targets), "float32")


def linear_case(rows, C, V, dtype):
    x, weight = random((rows, C), dtype), random((V, C), dtype, 1, 0.3)
    return [x, weight], [dtype, "float32"], some_targets((rows,), V)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
@pytest.mark.parametrize(("rows", "C", "V"), [(1, 1, 1), (5, 8, 3), (33, 40, 70), (70, 17, 40001)])
def test_linear_cross_entropy(rows, C, V, reduction, dtype):
    """Also with more rows than a chunk holds (64 at V = 40001)."""
    (x, weight), dtypes, targets = linear_case(rows, C, V, dtype)
    counted = (targets >= 0).sum()
    dloss = random(rows, seed=2) if reduction == "none" else np.full(rows, 1 / counted if reduction == "mean" else 1.0)
    out, (dx, dweight) = gradients(
        lambda a, b: ops.linear_cross_entropy(a, b, targets, reduction),
        [x, weight],
        dtypes,
        dloss if reduction == "none" else 1.0,
    )
    each = reference.cross_entropy(x @ weight.T, targets)
    want = {"none": each, "sum": each.sum(), "mean": each.sum() / counted}[reduction]
    # The logits are float32 in both dtypes.
    np.testing.assert_allclose(out, want, atol=1e-4, rtol=1e-5)
    if V > 1:
        dlogits = reference.cross_entropy_backward(dloss, x @ weight.T, targets)
        assert_close(dx, dlogits @ weight, dtype)
        assert_close(dweight, dlogits.T @ x, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_linear_cross_entropy_gradients(dtype):
    arrays, dtypes, targets = linear_case(13, 9, 21, dtype)
    for reduction in ("none", "sum"):
        gradcheck(
            lambda a, b, r=reduction: ops.linear_cross_entropy(a, b, targets, r),
            lambda a, b, r=reduction: reference.cross_entropy(a @ b.T, targets).sum(None if r == "sum" else ()),
            arrays,
            dtypes,
        )


@pytest.mark.parametrize("V", [8, 5000])
def test_special_values_are_not_hidden(V):
    x = np.zeros((7, V), np.float32)
    x[0, 3] = np.nan
    x[1, 3] = np.inf
    x[2] = -np.inf
    x[3, : V // 2] = -np.inf  # the first block of a long row is -inf alone; the target is beyond
    x[4, V - 1] = -np.inf
    x[5] = 1e38
    x[6, 3] = np.nan
    targets = np.full(7, V - 1)
    targets[6] = -1
    with np.errstate(invalid="ignore", divide="ignore"):
        want = reference.cross_entropy(x.astype(np.float64), targets)
    got = ops.cross_entropy(x, targets, "none").numpy()
    assert np.isnan(got[:3]).all()
    assert got[4] == np.inf
    np.testing.assert_allclose(got[[3, 5]], want[[3, 5]], rtol=1e-5)
    assert got[6] == 0
    assert np.isnan(ops.cross_entropy(x, targets).item())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(3, 5), (301, 200), (7, 5000)])
def test_threads_do_not_change_bits(shape, dtype):
    x, targets, dloss = random(shape, dtype), some_targets(shape[:-1], shape[-1]), random(shape[:-1], seed=1)

    def compute():
        out, grads = gradients(lambda t: ops.cross_entropy(t, targets, "none"), [x], [dtype], dloss)
        return [out, *grads]

    assert_same_bits(compute)


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_bits_of_the_fused_loss(dtype):
    arrays, dtypes, targets = linear_case(70, 33, 3001, dtype)

    def compute():
        out, grads = gradients(lambda a, b: ops.linear_cross_entropy(a, b, targets), arrays, dtypes, 1.0)
        return [out, *grads]

    assert_same_bits(compute)


def test_bad_input():
    x = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"\[cross_entropy\] expected targets in \[-\d+, 4\), got 4 at 1"):
        ops.cross_entropy(x, np.array([0, 4]))
    with pytest.raises(ValueError, match=r"\[cross_entropy\] expected targets \(2,\), got \(3,\)"):
        ops.cross_entropy(x, np.array([0, 1, 2]))
    with pytest.raises(TypeError, match=r"\[cross_entropy\] expected targets int32, int64 or uint32, got float32"):
        ops.cross_entropy(x, np.zeros(2, np.float32))
    with pytest.raises(ValueError, match=r"\[cross_entropy\] expected reduction"):
        ops.cross_entropy(x, np.array([0, 1]), "median")
    with pytest.raises(ValueError, match=r"\[cross_entropy\] expected at least one target >= 0, got none"):
        ops.cross_entropy(x, np.array([-1, -1]))
    with pytest.raises(TypeError, match=r"\[cross_entropy\] expected logits float32 or bfloat16, got int32"):
        ops.cross_entropy(x.astype(np.int32), np.array([0, 1]))
