"""Rotary positions."""

import numpy as np
import pytest

from llmcore import ops
from reference import rope as reference
from support.gradcheck import gradcheck, gradients, random
from support.threads import assert_same_bits
from support.tolerances import assert_close

DTYPES = ["float32", "bfloat16"]


def tables(P, D, theta=10000.0):
    angle = np.arange(P)[:, None] * theta ** (-np.arange(0, D, 2) / D)
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("shape", "heads"), [((1, 1, 1, 2), None), ((2, 5, 3, 6), 2), ((2, 9, 4, 64), 3)])
@pytest.mark.parametrize("given", [False, True])
def test_rope(shape, heads, given, dtype):
    B, T, _, D = shape
    cos, sin = tables(T + 3, D)
    positions = np.random.default_rng(2).integers(0, T + 3, (B, T)).astype(np.int32) if given else None
    x, dout = random(shape, dtype), random(shape, dtype, 1)
    out, (dx,) = gradients(lambda t: ops.rope(t, cos, sin, positions, heads), [x], [dtype], dout)
    assert_close(out, reference.rope(x, cos, sin, positions, heads), dtype)
    # A rotation's transpose turns the other way.
    assert_close(dx, reference.rope(dout, cos, -sin, positions, heads), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradients(dtype):
    cos, sin = tables(4, 10)
    gradcheck(
        lambda t: ops.rope(t, cos, sin, heads=2),
        lambda a: reference.rope(a, cos, sin, heads=2),
        [random((2, 4, 3, 10), dtype)],
        [dtype],
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("D", "R"), [(6, 2), (7, 4), (64, 16), (80, 60), (40, 0)])
def test_only_the_first_dimensions_turn(D, R, dtype):
    cos, sin = tables(9, R) if R else (np.zeros((9, 0), np.float32),) * 2
    x, dout = random((2, 9, 3, D), dtype), random((2, 9, 3, D), dtype, 1)

    def twin(a, sine):
        return np.concatenate([reference.rope(a[..., :R], cos, sine, heads=2), a[..., R:]], axis=-1)

    out, (dx,) = gradients(lambda t: ops.rope(t, cos, sin, heads=2), [x], [dtype], dout)
    assert_close(out, twin(x, sin), dtype)
    assert_close(dx, twin(dout, -sin), dtype)


def test_scores_depend_on_the_distance_only():
    cos, sin = tables(40, 32)
    q, k = random((1, 1, 1, 32)).astype(np.float32), random((1, 1, 1, 32), seed=1).astype(np.float32)

    def score(at_q, at_k):
        q_turned = ops.rope(q, cos, sin, np.array([[at_q]], np.int32)).numpy()
        return np.vdot(q_turned, ops.rope(k, cos, sin, np.array([[at_k]], np.int32)).numpy())

    assert abs(score(5, 2) - score(37, 34)) < 1e-4


@pytest.mark.parametrize("dtype", DTYPES)
def test_threads_do_not_change_bits(dtype):
    cos, sin = tables(90, 48)
    x = random((3, 90, 5, 48), dtype)
    assert_same_bits(lambda: [ops.rope(x.astype(np.float32), cos, sin, heads=4).numpy()])


def test_bad_input():
    cos, sin = tables(4, 8)
    x = np.zeros((1, 4, 2, 8), np.float32)
    with pytest.raises(ValueError, match=r"\[rope\] expected x \(B, T, H, D\), got \(4, 2, 8\)"):
        ops.rope(x[0], cos, sin)
    with pytest.raises(ValueError, match=r"\[rope\] expected cos \(positions, at most 3\), got \(4, 4\)"):
        ops.rope(x[..., :7], cos, sin)
    with pytest.raises(ValueError, match=r"\[rope\] expected at most 3 positions, got 4"):
        ops.rope(x, cos[:3], sin[:3])
    with pytest.raises(ValueError, match=r"\[rope\] expected sin \(4, 4\), got \(3, 4\)"):
        ops.rope(x, cos, sin[:3])
    with pytest.raises(ValueError, match=r"\[rope\] expected positions in \[0, 4\), got 4 at 3"):
        ops.rope(x, cos, sin, np.array([[0, 1, 2, 4]], np.int32))
    with pytest.raises(ValueError, match=r"\[rope\] expected 0 <= heads <= 2, got 3"):
        ops.rope(x, cos, sin, heads=3)
