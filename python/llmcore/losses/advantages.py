"""Advantages: how much better an answer, or a token of it, was than expected. Of a group (GRPO), and by generalised advantage
estimation (PPO)."""

from __future__ import annotations

import math

import numpy as np

from llmcore.errors import Error


def group_advantages(rewards, group: int, scale: bool = True) -> np.ndarray:
    """Return (r − mean) / (std + 1e-4) within each group, from rewards (B) of answers, `group` per prompt. The standard
    deviation is unbiased. Without scale: r − mean (Liu et al. 2025, for dr_grpo)."""
    r = np.asarray(rewards, np.float64)
    if r.ndim != 1 or group < 2 or r.size % group:
        raise Error("group_advantages", expected=f"rewards (B) of groups of {group} (at least 2)", got=r.shape)
    r = r.reshape(-1, group)
    away = r - r.mean(axis=1, keepdims=True)
    return (away / (r.std(axis=1, ddof=1, keepdims=True) + 1e-4) if scale else away).reshape(-1)


def gae(rewards, values, mask, gamma: float = 1.0, lam: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
    """Return advantages (B, T) by generalised advantage estimation (Schulman et al. 2016), and returns, which are advantages +
    values. After the last written token the value is 0."""
    v = np.asarray(values, np.float64)
    r, m = np.asarray(rewards, np.float64), written_mask("gae", mask, v)
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
    m = written_mask("whiten", mask, x)
    n = m.sum()
    mean = (x * m).sum() / max(n, 1)
    variance = (((x - mean) ** 2) * m).sum() / max(n - 1, 1)
    return (x - mean) / math.sqrt(variance + 1e-8) * m


def written_mask(op: str, mask, like: np.ndarray) -> np.ndarray:
    """Return the mask (B, T) of the tokens that the policy wrote, as zeros and ones."""
    m = np.asarray(mask)
    if m.shape != like.shape or like.ndim != 2:
        raise Error(op, expected=f"a mask (B, T) of shape {like.shape}", got=m.shape)
    return (m != 0).astype(np.float64)
