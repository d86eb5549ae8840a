"""Losses of pairs, of which one answer is preferred to the other. Log-probabilities (B) are sums over the tokens of an
answer; every function returns the loss of each pair, (B) float32.

c and r are the log-ratios of the chosen and the rejected answer, policy over reference; Δ = c − r; σ the logistic function.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.losses.names import DPO_LOSSES
from llmcore.losses.pointwise import log_sigmoid, recorded, sigmoid, vector

Ratios = tuple[np.ndarray, np.ndarray, np.ndarray]  # the loss, and its derivatives by c and by r


def dpo(
    chosen_logps,
    rejected_logps,
    ref_chosen_logps,
    ref_rejected_logps,
    beta: float = 0.1,
    loss_type: str = "sigmoid",
    label_smoothing: float = 0.0,
    chosen_lengths=None,
    rejected_lengths=None,
) -> Tensor:
    """Return the loss of direct preference optimisation (Rafailov et al. 2023) or a related one, by TRL's names.

    loss_type: sigmoid −(1−ε) log σ(βΔ) − ε log σ(−βΔ) with label smoothing ε; hinge max(0, 1 − βΔ) (Zhao et al. 2023);
    ipo (c/n_c − r/n_r − 1/2β)² with the answers' lengths (Azar et al. 2023); robust (Chowdhury et al. 2024); exo_pair (Ji et
    al. 2024); nca_pair (Chen et al. 2024); bco_pair (Jung et al. 2024, with δ = 0); sppo_hard (Wu et al. 2024); apo_zero and
    apo_down (D'Oosterlinck et al. 2024); discopop (Lu et al. 2024); sigmoid_norm −log σ(β(c/n_c − r/n_r)).

    Raises ValueError for another loss_type, for different shapes, and for lengths that are needed but missing.
    """
    if loss_type not in DPO_LOSSES:
        raise Error("dpo", expected=f"loss_type one of {', '.join(DPO_LOSSES)}", got=repr(loss_type))
    _check_beta("dpo", beta)
    if not 0 <= label_smoothing < 0.5:
        raise Error("dpo", expected="label_smoothing in [0, 0.5)", got=label_smoothing)
    chosen = vector("dpo", "chosen_logps", chosen_logps)
    c = chosen - vector("dpo", "ref_chosen_logps", ref_chosen_logps, chosen)
    r = vector("dpo", "rejected_logps", rejected_logps, chosen) - vector(
        "dpo", "ref_rejected_logps", ref_rejected_logps, chosen
    )
    n_c = n_r = np.ones_like(c)
    if loss_type in ("ipo", "sigmoid_norm"):
        if chosen_lengths is None or rejected_lengths is None:
            raise Error("dpo", expected=f"chosen_lengths and rejected_lengths for {loss_type}", got="None")
        n_c, n_r = (
            np.maximum(np.asarray(vector("dpo", name, v, chosen)), 1)
            for name, v in (("chosen_lengths", chosen_lengths), ("rejected_lengths", rejected_lengths))
        )
    value, by_c, by_r = _LOSSES[loss_type](c / n_c, r / n_r, beta, label_smoothing)
    return recorded([chosen_logps, rejected_logps], value, [by_c / n_c, by_r / n_r])


def simpo(
    chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, beta: float = 2.0, gamma: float = 0.5
) -> Tensor:
    """Return −log σ(β(π_c/n_c − π_r/n_r) − γ), without a reference (Meng et al. 2024)."""
    _check_beta("simpo", beta)
    c = vector("simpo", "chosen_logps", chosen_logps)
    r = vector("simpo", "rejected_logps", rejected_logps, c)
    n_c = np.maximum(vector("simpo", "chosen_lengths", chosen_lengths, c), 1)
    n_r = np.maximum(vector("simpo", "rejected_lengths", rejected_lengths, c), 1)
    z = beta * (c / n_c - r / n_r) - gamma
    slope = -beta * sigmoid(-z)
    return recorded([chosen_logps, rejected_logps], -log_sigmoid(z), [slope / n_c, -slope / n_r])


def orpo(chosen_logps, rejected_logps, chosen_lengths, rejected_lengths, beta: float = 0.1) -> Tensor:
    """Return −π_c/n_c − β log σ(log odds ratio), with the odds of the mean log-probabilities, without a reference (Hong et al.
    2024)."""
    c = vector("orpo", "chosen_logps", chosen_logps)
    r = vector("orpo", "rejected_logps", rejected_logps, c)
    n_c = np.maximum(vector("orpo", "chosen_lengths", chosen_lengths, c), 1)
    n_r = np.maximum(vector("orpo", "rejected_lengths", rejected_lengths, c), 1)
    c, r = np.minimum(c / n_c, -1e-12), np.minimum(r / n_r, -1e-12)  # the odds of certainty are infinite
    odds = (c - np.log(-np.expm1(c))) - (r - np.log(-np.expm1(r)))
    slope = -beta * sigmoid(-odds)
    by_c, by_r = -1 + slope / -np.expm1(c), -slope / -np.expm1(r)
    return recorded([chosen_logps, rejected_logps], -c - beta * log_sigmoid(odds), [by_c / n_c, by_r / n_r])


def kto(logps, ref_logps, desirable, kl: float = 0.0, beta: float = 0.1, desirable_weight: float = 1.0,
        undesirable_weight: float = 1.0) -> Tensor:  # fmt: skip
    """Return w (1 − σ(±(β(π − ref) − β kl))) of single answers, each desirable or not (Ethayarajh et al. 2024). kl: an
    estimate of the policy's distance to the reference, through which no gradient flows."""
    _check_beta("kto", beta)
    p = vector("kto", "logps", logps)
    ratio = p - vector("kto", "ref_logps", ref_logps, p)
    good = np.asarray(desirable, bool)
    if good.shape != p.shape:
        raise Error("kto", expected=f"desirable of shape {p.shape}", got=good.shape)
    sign, weight = np.where(good, 1.0, -1.0), np.where(good, desirable_weight, undesirable_weight)
    s = sigmoid(sign * beta * (ratio - max(kl, 0.0)))
    return recorded([logps], weight * (1 - s), [-weight * sign * beta * s * (1 - s)])


def reward(chosen_rewards, rejected_rewards, margin=0.0, centering: float = 0.0) -> Tensor:
    """Return −log σ(r_c − r_r − margin) + λ (r_c + r_r)²: Bradley-Terry (1952), with λ = centering (Eisenstein et al. 2023)."""
    c = vector("reward", "chosen_rewards", chosen_rewards)
    r = vector("reward", "rejected_rewards", rejected_rewards, c)
    z = c - r - np.asarray(margin, np.float64)
    slope = -sigmoid(-z)
    pull = 2 * centering * (c + r)
    value = -log_sigmoid(z) + centering * (c + r) ** 2
    return recorded([chosen_rewards, rejected_rewards], value, [slope + pull, -slope + pull])


# ---- losses related to DPO: (c, r, β, ε) -> loss, derivatives by c and r ----


def _of_margin(f: Callable) -> Callable:
    """Return the loss of a function of βΔ -> (value, derivative)."""

    def loss(c, r, beta, smoothing) -> Ratios:
        value, slope = f(beta * (c - r), beta, smoothing)
        return value, beta * slope, -beta * slope

    return loss


def _sigmoid_loss(z, beta, e):
    return -(1 - e) * log_sigmoid(z) - e * log_sigmoid(-z), -(1 - e) * sigmoid(-z) + e * sigmoid(z)


def _hinge(z, beta, e):
    return np.maximum(1 - z, 0), np.where(z < 1, -1.0, 0.0)


def _robust(z, beta, e):
    value = (-(1 - e) * log_sigmoid(z) + e * log_sigmoid(-z)) / (1 - 2 * e)
    return value, (-(1 - e) * sigmoid(-z) - e * sigmoid(z)) / (1 - 2 * e)


def _exo_pair(z, beta, e):
    e = e or 1e-3
    s, t = sigmoid(z), sigmoid(-z)
    a, b = log_sigmoid(z) - math.log1p(-e), log_sigmoid(-z) - math.log(e)
    return s * a + t * b, s * t * (a - b) + s * t - t * s


def _discopop(z, beta, e):
    m = sigmoid(z / 0.05)
    logistic, exponential = -log_sigmoid(z), np.exp(-z)
    dm = m * (1 - m) / 0.05
    return logistic * (1 - m) + exponential * m, -sigmoid(-z) * (1 - m) - logistic * dm + exponential * (dm - m)


def _apo_down(c, r, beta, e) -> Ratios:
    s, d = sigmoid(beta * c), sigmoid(beta * (c - r))
    by_d = -beta * d * (1 - d)
    return s + 1 - d, beta * s * (1 - s) + by_d, -by_d


def _apo_zero(c, r, beta, e) -> Ratios:
    s, t = sigmoid(beta * c), sigmoid(beta * r)
    return 1 - s + t, -beta * s * (1 - s), beta * t * (1 - t)


def _nca_pair(c, r, beta, e) -> Ratios:
    c, r = beta * c, beta * r
    value = -log_sigmoid(c) - 0.5 * log_sigmoid(-c) - 0.5 * log_sigmoid(-r)
    return value, beta * (-sigmoid(-c) + 0.5 * sigmoid(c)), beta * 0.5 * sigmoid(r)


def _bco_pair(c, r, beta, e) -> Ratios:
    value = -log_sigmoid(beta * c) - log_sigmoid(-beta * r)
    return value, -beta * sigmoid(-beta * c), beta * sigmoid(beta * r)


def _ipo(c, r, beta, e) -> Ratios:
    away = c - r - 1 / (2 * beta)
    return away**2, 2 * away, -2 * away


def _sppo_hard(c, r, beta, e) -> Ratios:
    up, down = c - 0.5 / beta, r + 0.5 / beta
    return up**2 + down**2, 2 * up, 2 * down


_LOSSES: dict[str, Callable[..., Ratios]] = {
    "sigmoid": _of_margin(_sigmoid_loss),
    "hinge": _of_margin(_hinge),
    "ipo": _ipo,
    "robust": _of_margin(_robust),
    "exo_pair": _of_margin(_exo_pair),
    "nca_pair": _nca_pair,
    "bco_pair": _bco_pair,
    "sppo_hard": _sppo_hard,
    "apo_zero": _apo_zero,
    "apo_down": _apo_down,
    "discopop": _of_margin(_discopop),
    "sigmoid_norm": _of_margin(lambda z, beta, e: _sigmoid_loss(z, beta, 0.0)),
}


def _check_beta(op: str, beta: float) -> None:
    if not (beta > 0 and math.isfinite(beta)):
        raise Error(op, expected="beta > 0", got=beta)
