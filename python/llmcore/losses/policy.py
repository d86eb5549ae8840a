"""Losses of a policy that writes answers and is rewarded: GRPO and related losses, PPO, and what they need. Everything is
per token, (B, T); `mask` says which tokens the policy wrote."""

from __future__ import annotations

import math

import numpy as np

from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.losses.names import GRPO_LOSSES
from llmcore.losses.pointwise import recorded, vector


def group_advantages(rewards, group: int, scale: bool = True) -> np.ndarray:
    """Return (r − mean) / (std + 1e-4) within each group, from rewards (B) of answers, `group` per prompt. The standard
    deviation is unbiased. Without scale: r − mean (Liu et al. 2025, for dr_grpo)."""
    r = np.asarray(rewards, np.float64)
    if r.ndim != 1 or group < 2 or r.size % group:
        raise Error("group_advantages", expected=f"rewards (B) of groups of {group} (at least 2)", got=r.shape)
    r = r.reshape(-1, group)
    away = r - r.mean(axis=1, keepdims=True)
    return (away / (r.std(axis=1, ddof=1, keepdims=True) + 1e-4) if scale else away).reshape(-1)


def grpo(
    logps,
    old_logps,
    advantages,
    mask,
    loss_type: str = "dapo",
    epsilon: float = 0.2,
    epsilon_high: float | None = None,
    beta: float = 0.0,
    ref_logps=None,
    tokens: float | None = None,
    max_tokens: int | None = None,
) -> Tensor:
    """Return the loss of group relative policy optimisation (Shao et al. 2024), one number.

    With ρ = exp(logp − old) and a token's loss −min(ρA, clip(ρ, 1 − ε, 1 + ε_high) A) + β (e^d − d − 1), d = ref − logp:
    grpo is the mean of the sequences' means; bnpo the mean of all tokens; dapo the sum over `tokens`, those of the whole
    update (Yu et al. 2025; by default these ones); dr_grpo the sum over B · max_tokens (Liu et al. 2025); cispo has
    −min(ρ, ε_high) A logp, with no gradient through ρ, summed as dapo (MiniMax 2025); gspo has the mean log-ratio of a
    sequence in ρ, summed as grpo (Zheng et al. 2025). advantages (B) or (B, T).
    """
    if loss_type not in GRPO_LOSSES:
        raise Error("grpo", expected=f"loss_type one of {', '.join(GRPO_LOSSES)}", got=repr(loss_type))
    logp = vector("grpo", "logps", logps)
    m = _mask("grpo", mask, logp)
    n = m.sum(axis=1, keepdims=True)
    ratio_log = (logp - vector("grpo", "old_logps", old_logps, logp)) * m
    a = np.asarray(advantages, np.float64)
    a = np.broadcast_to(a[:, None] if a.ndim == 1 else a, logp.shape)
    high = epsilon if epsilon_high is None else epsilon_high
    weight = _weights(loss_type, m, n, tokens, max_tokens)
    if loss_type == "cispo":
        w = np.minimum(np.exp(ratio_log), high)
        value, slope = -w * a * logp, -w * a
    else:
        if loss_type == "gspo":
            ratio_log = np.broadcast_to(ratio_log.sum(axis=1, keepdims=True) / np.maximum(n, 1), logp.shape)
        rho = np.exp(ratio_log)
        clipped = np.clip(rho, 1 - epsilon, 1 + high)
        value = -np.minimum(rho * a, clipped * a)
        slope = np.where(rho * a <= clipped * a, -a * rho, 0.0)
    gradient = weight * slope
    if loss_type == "gspo":  # through the mean of all log-ratios of the sequence
        gradient = gradient.sum(axis=1, keepdims=True) * m / np.maximum(n, 1)
    if beta:
        if ref_logps is None:
            raise Error("grpo", expected="ref_logps with beta > 0", got="None")
        d = (vector("grpo", "ref_logps", ref_logps, logp) - logp) * m
        value = value + beta * (np.exp(d) - d - 1)
        gradient = gradient + weight * beta * (1 - np.exp(d))
    return recorded([logps], np.asarray((weight * value).sum()), [gradient])


def _weights(loss_type: str, m: np.ndarray, n: np.ndarray, tokens: float | None, max_tokens: int | None) -> np.ndarray:
    """Return the weight of each token in the sum."""
    if loss_type in ("grpo", "gspo"):
        return m / np.maximum(n, 1) / len(m)
    if loss_type == "dr_grpo":
        if max_tokens is None:
            raise Error("grpo", expected="max_tokens for dr_grpo", got="None")
        return m / (len(m) * max_tokens)
    return m / max(m.sum() if tokens is None or loss_type == "bnpo" else tokens, 1)


def ppo(
    logps,
    old_logps,
    advantages,
    mask,
    values=None,
    old_values=None,
    returns=None,
    clip: float = 0.2,
    value_clip: float = 0.2,
    value_weight: float = 0.1,
) -> Tensor:
    """Return the loss of proximal policy optimisation (Schulman et al. 2017), one number: the mean over the written tokens of
    max(−Aρ, −A clip(ρ, 1 − clip, 1 + clip)), plus value_weight · ½ · the mean of max((V − R)², (V' − R)²), V' being V kept
    within value_clip of old_values. Without values, it is the first part alone."""
    logp = vector("ppo", "logps", logps)
    m = _mask("ppo", mask, logp)
    weight = m / max(m.sum(), 1)
    a = vector("ppo", "advantages", advantages, logp)
    rho = np.exp((logp - vector("ppo", "old_logps", old_logps, logp)) * m)
    kept = np.clip(rho, 1 - clip, 1 + clip)
    value = (weight * np.maximum(-a * rho, -a * kept)).sum()
    by_logps = weight * np.where(-a * rho >= -a * kept, -a * rho, 0.0)
    if values is None:
        return recorded([logps], np.asarray(value), [by_logps])
    if old_values is None or returns is None:
        raise Error("ppo", expected="old_values and returns with values", got="None")
    v, r = vector("ppo", "values", values, logp), vector("ppo", "returns", returns, logp)
    old = vector("ppo", "old_values", old_values, logp)
    near = np.clip(v, old - value_clip, old + value_clip)
    free, held = (v - r) ** 2, (near - r) ** 2
    value += value_weight * 0.5 * (weight * np.maximum(free, held)).sum()
    # The clipped value has a gradient only where clipping did not change it.
    moves = np.where(free >= held, v - r, np.where(near == v, near - r, 0.0))
    return recorded([logps, values], np.asarray(value), [by_logps, value_weight * weight * moves])


def gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return advantages (B, T) by generalised advantage estimation (Schulman et al. 2016), and returns, which are advantages +
    values. After the last written token the value is 0."""
    v = np.asarray(values, np.float64)
    r, m = np.asarray(rewards, np.float64), _mask("gae", mask, v)
    if r.shape != v.shape:
        raise Error("gae", expected=f"rewards of shape {v.shape}", got=r.shape)
    advantages, running = np.zeros_like(v), np.zeros(len(v))
    for t in range(v.shape[1] - 1, -1, -1):
        ahead = v[:, t + 1] * m[:, t + 1] if t + 1 < v.shape[1] else np.zeros(len(v))
        running = (r[:, t] + gamma * ahead - v[:, t] + gamma * lam * running) * m[:, t]
        advantages[:, t] = running
    return advantages, (advantages + v) * m


def whiten(values, mask) -> np.ndarray:
    """Return the values with mean 0 and variance 1 over the written tokens (unbiased, + 1e-8 under the root), 0 elsewhere."""
    x = np.asarray(values, np.float64)
    m = _mask("whiten", mask, x)
    n = m.sum()
    mean = (x * m).sum() / max(n, 1)
    variance = (((x - mean) ** 2) * m).sum() / max(n - 1, 1)
    return (x - mean) / math.sqrt(variance + 1e-8) * m


def _mask(op: str, mask, like: np.ndarray) -> np.ndarray:
    m = np.asarray(mask)
    if m.shape != like.shape or like.ndim != 2:
        raise Error(op, expected=f"a mask (B, T) of shape {like.shape}", got=m.shape)
    return (m != 0).astype(np.float64)
