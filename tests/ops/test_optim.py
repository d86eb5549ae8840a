"""One AdamW update, and the global norm."""

import numpy as np
import pytest

from llmcore import _core, nn, optim
from reference import optim as reference
from support.arrays import array
from support.gradcheck import random
from support.threads import assert_same_bits
from support.tolerances import assert_close

SETTINGS = {"lr": 3e-3, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.1}


def state(n):
    p, g, m, v = (random(n, seed=i) for i in range(4))
    return p, g, 0.1 * m, 0.01 * v**2


def update(arrays, step=1, grad_scale=1.0, **settings):
    """p, m, v after one step; the inputs are left alone."""
    p, g, m, v = (array(a) for a in arrays)
    _core.adamw(p, g, m, v, **(SETTINGS | settings), step=step, grad_scale=grad_scale)
    return p.numpy(), m.numpy(), v.numpy()


@pytest.mark.parametrize("n", [1, 15, 33, 40001])
@pytest.mark.parametrize("step", [1, 10, 100000])
def test_adamw(n, step):
    arrays = [a.astype(np.float32).astype(np.float64) for a in state(n)]
    for got, want in zip(update(arrays, step), reference.adamw(*arrays, **SETTINGS, step=step), strict=True):
        assert_close(got, want, "float32")


def test_the_gradient_is_scaled_first():
    p, g, m, v = state(77)
    got = update((p, g, m, v), grad_scale=0.25)
    want = update((p, 0.25 * g, m, v))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)


def test_no_gradient_moves_only_by_decay():
    p = random(20)
    zero = np.zeros(20)
    assert_close(update((p, zero, zero, zero))[0], p * (1 - 3e-3 * 0.1), "float32")


def test_many_steps_follow_the_twin():
    """Rounding may not build up into another trajectory."""
    rng = np.random.default_rng(0)
    p = random(100)
    twin = [p, np.zeros(100), np.zeros(100)]
    own = [np.array(a, np.float32) for a in twin]
    for step in range(1, 101):
        g = rng.standard_normal(100).astype(np.float32)
        own = update((own[0], g, own[1], own[2]), step)
        twin = reference.adamw(twin[0], g.astype(np.float64), twin[1], twin[2], **SETTINGS, step=step)
    assert_close(own[0], twin[0], "float32")


PANELS = [(dtype, transposed) for dtype in (_core.DType.float32, _core.DType.bfloat16) for transposed in (True, False)]


@pytest.mark.parametrize(
    "shape", [(1, 1), (64, 64), (65, 3), (3, 65), (100, 4131), (300, 257), (31, 300), (192, 97), (700, 400)]
)
def test_panels_are_written_with_the_values(shape):
    """The same bits as packing afterwards gives, padding included."""
    start, g, m, v = (a.reshape(shape) for a in state(shape[0] * shape[1]))
    p = nn.Parameter(start)
    keys = [(*key, False) for key in PANELS]
    if shape[0] % 64 == 0:
        keys += [(dtype, True, True) for dtype in (_core.DType.float32, _core.DType.bfloat16)]
    before = [p.panels(*key) for key in keys]
    moments = [array(a) for a in (g, m, v)]
    _core.adamw(p.array, *moments, **SETTINGS, step=3, grad_scale=0.5, panels=p.panels_in_use())
    for got, want in zip([p.numpy(), *(a.numpy() for a in moments[1:])], update((start, g, m, v), 3, 0.5), strict=True):
        np.testing.assert_array_equal(got, want)
    for (dtype, transposed, paired), old in zip(keys, before, strict=True):
        now = p.panels(dtype, transposed, paired)
        want = _core.pack(p.array, dtype, transposed, paired=paired)
        np.testing.assert_array_equal(now.data.numpy(), old.data.numpy())  # one memory, nothing packed anew
        np.testing.assert_array_equal(now.data.numpy(), want.data.numpy())


def test_panels_that_are_not_used_are_not_written():
    p = nn.Parameter(random((5, 7)))
    key = PANELS[2]
    optimizer = optim.AdamW([("p", p)], lr=0.1)
    panels = p.panels(*key)
    old = np.array(panels.data.numpy())
    for written in (True, False):
        p.zero_grad()
        p.accumulate_grad(array(np.ones((5, 7))))
        optimizer.step()
        kept = np.array(panels.data.numpy())
        assert np.array_equal(kept, old) != written
        old = kept
    np.testing.assert_array_equal(p.panels(*key).data.numpy(), _core.pack(p.array, *key).data.numpy())
    p.assign(np.zeros((5, 7)))
    assert not p.panels(*key).data.numpy().any()


@pytest.mark.parametrize("shapes", [[(1,)], [(3, 5), (70001,), (0,), (32768,), (2, 3)]])
def test_global_norm(shapes):
    arrays = [random(s, seed=i).astype(np.float32) for i, s in enumerate(shapes)]
    want = np.sqrt(sum(np.sum(a.astype(np.float64) ** 2) for a in arrays))
    assert abs(_core.global_norm([array(a) for a in arrays]) / want - 1) < 1e-13


def test_global_norm_of_extreme_numbers():
    huge = np.full(100, 1e30, np.float32)
    assert abs(_core.global_norm([array(huge)]) / (10 * float(huge[0])) - 1) < 1e-12
    tiny = np.full(100, 1e-30, np.float32)
    assert abs(_core.global_norm([array(tiny)]) / (10 * float(tiny[0])) - 1) < 1e-12
    assert np.isnan(_core.global_norm([array([1, np.nan])]))
    assert _core.global_norm([]) == 0


@pytest.mark.parametrize("n", [5, 100003])
def test_threads_do_not_change_bits(n):
    arrays = state(n)
    x = array(arrays[1])
    assert_same_bits(lambda: [*update(arrays), _core.global_norm([x])])


def test_threads_do_not_change_bits_of_panels():
    arrays = [a.reshape(300, 257) for a in state(300 * 257)]

    def compute():
        p, (_, g, m, v) = nn.Parameter(arrays[0]), (array(a) for a in arrays)
        panels = [p.panels(*key) for key in PANELS]
        _core.adamw(p.array, g, m, v, **SETTINGS, step=1, grad_scale=1.0, panels=p.panels_in_use())
        return [p.numpy(), *(x.data.numpy() for x in panels)]

    assert_same_bits(compute)


def test_bad_input():
    arrays = state(4)
    with pytest.raises(ValueError, match=r"\[adamw\] expected step >= 1, got 0"):
        update(arrays, step=0)
    with pytest.raises(ValueError, match=r"\[adamw\] expected betas in \[0, 1\), got"):
        update(arrays, beta2=1.0)
    with pytest.raises(ValueError, match=r"\[adamw\] expected grad \(4,\), got \(3,\)"):
        update((arrays[0], arrays[1][:3], arrays[2], arrays[3]))
    p, g, m, v = (array(np.zeros((2, 2))) for _ in range(4))
    other = _core.pack(array(np.zeros((3, 2))), _core.DType.float32, True)
    with pytest.raises(ValueError, match=r"\[adamw\] expected param, as its panels are, \(3, 2\), got \(2, 2\)"):
        _core.adamw(p, g, m, v, **SETTINGS, step=1, grad_scale=1.0, panels=[other])
    with pytest.raises(TypeError, match=r"\[global_norm\] expected every tensor float32, got int32"):
        _core.global_norm([_core.from_numpy(np.zeros(3, np.int32))])
