"""Losses of a policy that writes answers and is rewarded: GRPO and related losses, and PPO. Everything is
per token, (B, T); `mask` says which tokens the policy wrote."""

from __future__ import annotations

import numpy as np

from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.losses.advantages import written_mask
from llmcore.losses.names import GRPO_LOSSES
from llmcore.losses.pointwise import recorded, vector


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
    m = written_mask("grpo", mask, logp)
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
    m = written_mask("ppo", mask, logp)
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
