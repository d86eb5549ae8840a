"""Preference losses against the published formulas, their gradients against differences of these."""

import math

import numpy as np
import pytest

import llmcore
from llmcore import losses
from llmcore._arrays import array_to_numpy
from llmcore.losses import preference
from llmcore.losses.names import DPO_LOSSES


def S(x):
    """log σ"""
    return -np.logaddexp(0, -x)


def sig(x):
    return np.exp(S(x))


def formula(kind, c, r, beta, e, nc, nr):
    """The published form of each, of log-ratios in float64."""
    d = c - r
    return {
        "sigmoid": lambda: -(1 - e) * S(beta * d) - e * S(-beta * d),
        "hinge": lambda: np.maximum(0, 1 - beta * d),
        "ipo": lambda: (c / nc - r / nr - 1 / (2 * beta)) ** 2,
        "robust": lambda: (-(1 - e) * S(beta * d) + e * S(-beta * d)) / (1 - 2 * e),
        "exo_pair": lambda: (
            sig(beta * d) * (S(beta * d) - np.log(1 - (e or 1e-3)))
            + sig(-beta * d) * (S(-beta * d) - np.log(e or 1e-3))
        ),
        "nca_pair": lambda: -S(beta * c) - 0.5 * S(-beta * c) - 0.5 * S(-beta * r),
        "bco_pair": lambda: -S(beta * c) - S(-beta * r),
        "sppo_hard": lambda: (c - 0.5 / beta) ** 2 + (r + 0.5 / beta) ** 2,
        "apo_zero": lambda: 1 - sig(beta * c) + sig(beta * r),
        "apo_down": lambda: sig(beta * c) + 1 - sig(beta * d),
        "discopop": lambda: -S(beta * d) * (1 - sig(beta * d / 0.05)) + np.exp(-beta * d) * sig(beta * d / 0.05),
        "sigmoid_norm": lambda: -S(beta * (c / nc - r / nr)),
    }[kind]()


KINDS = ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
         "discopop", "sigmoid_norm"]  # fmt: skip


def numbers(seed=0, n=12):
    rng = np.random.default_rng(seed)
    logps = [np.float32(-rng.uniform(5, 60, n)) for _ in range(2)]
    refs = [np.float32(p + rng.normal(0, 6, n)) for p in logps]
    return (*logps, *refs, rng.integers(1, 30, n).astype(np.float32), rng.integers(1, 30, n).astype(np.float32))


def check(loss, twin, inputs):
    """Values, and gradients of a weighted sum, against the twin and its central differences."""
    tensors = [llmcore.tensor(x, requires_grad=True) for x in inputs]
    out = loss(*tensors)
    wide = [x.astype(np.float64) for x in inputs]
    np.testing.assert_allclose(out.numpy(), twin(*wide), rtol=1e-6, atol=1e-6)
    weights = np.random.default_rng(9).normal(size=out.shape).astype(np.float32)
    out.backward(weights)
    h = 1e-5
    for i, t in enumerate(tensors):
        up, down = ([x + h * (j == i) for j, x in enumerate(wide)] for h in (1e-5, -1e-5))
        slope = (twin(*up) - twin(*down)) / (2 * h) * weights
        np.testing.assert_allclose(array_to_numpy(t.grad), slope, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_dpo(kind, smoothing, beta):
    c, r, ref_c, ref_r, n_c, n_r = numbers()

    def loss(chosen, rejected):
        return losses.dpo(chosen, rejected, ref_c, ref_r, beta, kind, smoothing, n_c, n_r)

    def twin(chosen, rejected):
        return formula(kind, chosen - ref_c, rejected - ref_r, beta, smoothing, n_c.astype(np.float64), n_r)

    check(loss, twin, [c, r])


def test_a_policy_that_is_its_reference():
    c, r, *_ = numbers()
    np.testing.assert_allclose(losses.dpo(c, r, c, r).numpy(), math.log(2), rtol=1e-6)


def test_large_ratios_stay_finite():
    c = np.array([-1.0, -1e4, 0.0], np.float32)
    for kind in KINDS:
        got = losses.dpo(c, c[::-1].copy(), c[::-1].copy(), c, 1.0, kind, 0.0, *[np.ones(3, np.float32)] * 2).numpy()
        if kind not in ("discopop",):  # whose exponential is infinite there
            assert np.isfinite(got).all(), kind


@pytest.mark.parametrize("beta", [0.5, 2.0])
def test_simpo(beta):
    c, r, _, _, n_c, n_r = numbers(1)
    check(
        lambda a, b: losses.simpo(a, b, n_c, n_r, beta, 0.7),
        lambda a, b: -S(beta * (a / n_c - b / n_r) - 0.7),
        [c, r],
    )


def test_orpo():
    c, r, _, _, n_c, n_r = numbers(2)

    def twin(a, b):
        a, b = a / n_c, b / n_r
        odds = a - np.log1p(-np.exp(a)) - (b - np.log1p(-np.exp(b)))
        return -a - 0.3 * S(odds)

    check(lambda a, b: losses.orpo(a, b, n_c, n_r, 0.3), twin, [c, r])


def test_kto():
    p, _, ref, *_ = numbers(3)
    good = np.arange(12) % 3 > 0

    def twin(logps):
        z = 0.2 * (logps - ref - 1.5)
        return np.where(good, 1.3 * (1 - sig(z)), 0.8 * (1 - sig(-z)))

    check(lambda a: losses.kto(a, ref, good, 1.5, 0.2, 1.3, 0.8), twin, [p])


def test_reward():
    c, r, *_ = (x / 10 for x in numbers(4))
    check(lambda a, b: losses.reward(a, b, 0.25, 0.01), lambda a, b: -S(a - b - 0.25) + 0.01 * (a + b) ** 2, [c, r])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda c, r: losses.dpo(c, r, c, r, loss_type="none"), r"\[dpo\] expected loss_type one of sigmoid, hinge"),
        (lambda c, r: losses.dpo(c, r, c, r, beta=0), r"\[dpo\] expected beta > 0, got 0"),
        (lambda c, r: losses.dpo(c, r[:2], c, r), r"\[dpo\] expected rejected_logps of shape \(12,\), got \(2,\)"),
        (lambda c, r: losses.dpo(c, r, c, r, loss_type="ipo"), r"\[dpo\] expected chosen_lengths and rejected_lengths"),
        (lambda c, r: losses.dpo(c, r, c, r, label_smoothing=0.5), r"\[dpo\] expected label_smoothing in \[0, 0.5\)"),
        (lambda c, r: losses.kto(c, r, [True]), r"\[kto\] expected desirable of shape \(12,\)"),
    ],
)
def test_bad_input(call, message):
    c, r, *_ = numbers()
    with pytest.raises(ValueError, match=message):
        call(c, r)


def test_every_name_has_a_loss():
    assert set(DPO_LOSSES) == set(preference._LOSSES)
