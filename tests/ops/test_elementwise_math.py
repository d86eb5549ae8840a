"""The functions that kernels are made of against float64 over the whole range of float32: the errors that
csrc/cpu/simd.h and activations.h state."""

import numpy as np
import pytest

from llmcore import _core, ops
from reference import elementwise as reference
from support.arrays import array

TINY, HUGE = np.finfo(np.float32).tiny, np.finfo(np.float32).max  # the normal numbers
EVERY = np.arange(0, 2**32, 1009, dtype=np.uint64).astype(np.uint32).view(np.float32)  # 4 million bit patterns
SPECIAL = np.array([0.0, -0.0, 1e-45, -1e-45, TINY, -TINY, 1, -1, HUGE, -HUGE, np.inf, -np.inf, np.nan], np.float32)
DENSE = np.concatenate([np.linspace(-a, a, 2**20, dtype=np.float32) for a in (1, 4, 100)])
X = np.concatenate([EVERY, SPECIAL, DENSE])


def call(name, x):
    return getattr(_core, name)(array(x)).numpy()


def assert_within(got, want, ulp):
    """NaN where the float64 result is NaN, inf where it overflows, at most `ulp` units in the last place where it is
    normal; below that the absolute error is less than the smallest normal number."""
    assert np.array_equal(np.isnan(got), np.isnan(want))
    size = np.abs(want)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(got[size > HUGE], want[size > HUGE].astype(np.float32))
    normal, small = (size <= HUGE) & (size >= TINY), size < TINY
    unit = np.spacing(size[normal].astype(np.float32)).astype(np.float64)
    assert np.max(np.abs(got[normal] - want[normal]) / unit) <= ulp
    assert np.max(np.abs(got[small] - want[small]), initial=0) < TINY


@pytest.fixture(autouse=True)
def quiet():
    with np.errstate(all="ignore"):
        yield


def test_exp():
    got, want = call("exp", X), np.exp(X.astype(np.float64))
    assert_within(got, want, 2)
    assert (got[want < TINY] == 0).all()


def test_log():
    x = np.concatenate([X, np.linspace(0.5, 2, 2**20, dtype=np.float32)])
    assert_within(call("log", x), np.log(x.astype(np.float64)), 2)


def test_log_one_minus():
    x = X[(X >= 0) & (X < 1)]
    assert_within(call("log_one_minus", x), np.log1p(-x.astype(np.float64)), 2.5)


def test_sigmoid_and_silu():
    x = X.astype(np.float64)
    e = np.exp(-np.abs(x))
    want = np.where(x < 0, e, 1.0) / (1 + e)
    assert_within(call("sigmoid", X), want, 3)
    inside = np.isnan(X) | (X > -87)  # there sigmoid itself is normal
    assert_within(ops.silu(X[inside]).numpy(), (x * want)[inside], 4)


def test_gelu():
    """The error is relative to x: for negative x the result is a small difference of large terms."""
    x = X[~np.isinf(X)]
    wide = np.clip(x.astype(np.float64), -1e3, None)  # 0 below
    assert_near(ops.gelu(x).numpy(), reference.gelu(wide), 2.5e-7 * np.abs(wide))


def test_gelu_backward():
    x = X[~np.isinf(X)]
    got = _core.activate_backward(_core.Activation.gelu, array(np.ones_like(x)), array(x)).numpy()
    assert_near(got, reference.gelu_derivative(np.clip(x.astype(np.float64), -20, 20)), 2.5e-6)


def assert_near(got, want, error):
    assert np.array_equal(np.isnan(got), np.isnan(want))
    assert np.nanmax(np.abs(got - want) - error) <= TINY
