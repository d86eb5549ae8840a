"""The kernels' exponential, logarithm and sigmoid against float64 over the whole range of float32, through ops that
hand them out: their stated errors are in csrc/cpu/simd.h."""

import numpy as np

from llmcore import _core, ops


def every(stride):
    """Every stride-th float32 but NaN."""
    x = np.arange(0, 2**32, stride, dtype=np.uint64).astype(np.uint32).view(np.float32)
    return x[~np.isnan(x)]


def worst_ulp(got, want):
    """Largest error in units of the last place of the expected float32."""
    exact = np.abs(want).astype(np.float32)
    return np.max(np.abs(got.astype(np.float64) - want) / np.spacing(exact).astype(np.float64))


def exponential(x):
    """exp(x): the gradient of cross entropy with a log-sum-exp of 0, at every id but the target."""
    logits = _core.from_numpy(np.concatenate([x, np.zeros(1, np.float32)])[None])
    one, zero = (_core.from_numpy(np.array([v], np.float32)) for v in (1, 0))
    target = _core.from_numpy(np.array([x.size]))
    return _core.cross_entropy_backward(one, logits, target, zero).numpy()[0, :-1]


def test_exp():
    x = every(1999)
    got = exponential(x)
    with np.errstate(over="ignore", under="ignore"):
        want = np.exp(x.astype(np.float64))
    tiny, huge = want < np.finfo(np.float32).tiny, want > np.finfo(np.float32).max
    assert (got[tiny] == 0).all()
    assert (got[huge] == np.inf).all()
    assert worst_ulp(got[~tiny & ~huge], want[~tiny & ~huge]) <= 2
    dense = np.linspace(-20, 5, 300001, dtype=np.float32)
    assert worst_ulp(exponential(dense), np.exp(dense.astype(np.float64))) <= 2
    assert np.isnan(exponential(np.array([np.nan], np.float32))).all()


def test_log():
    """log(V) as the log-sum-exp of V zeros."""
    sizes = [*range(1, 400), 1000, 4095, 4096, 50304, 131072]
    got = [
        _core.cross_entropy(_core.zeros([1, v], _core.DType.float32), _core.zeros([1], _core.DType.int32))[1]
        for v in sizes
    ]
    got = np.array([g.numpy()[0] for g in got])
    assert worst_ulp(got[1:], np.log(np.array(sizes[1:], np.float64))) <= 2
    assert got[0] == 0


def test_sigmoid():
    """silu(x) / x, one more rounding."""
    x = every(1999)
    x = x[(np.abs(x) > 1e-30) & (np.abs(x) < 80)]
    with np.errstate(over="ignore"):
        want = x / (1 + np.exp(-x.astype(np.float64)))
    assert worst_ulp(ops.silu(x).numpy(), want) <= 4
