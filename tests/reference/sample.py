"""The sampling rules in float64, with a sort: what the kernel must do without one."""

from collections import Counter

import numpy as np

from reference.philox import philox


def filtered(logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, typical_p=1.0):
    """The distribution that is drawn from, for one row (V): temperature, top-k, top-p, min-p, typical,
    renormalised."""
    V = len(logits)
    logits = np.where(np.isnan(logits), -np.inf, logits)
    if temperature == 0:
        return (np.arange(V) == np.argmax(logits)).astype(np.float64)
    weight = np.exp((logits - logits.max()) / temperature)
    order = np.lexsort((np.arange(V), -logits))  # falling, lower id first on ties
    if 0 < top_k < V:
        order = order[:top_k]
    if top_p < 1:
        p = weight[order] / weight[order].sum()
        keep = np.cumsum(p) - p < top_p - 1e-6
        keep[0] = True
        order = order[keep]
    order = order[weight[order] >= min_p * weight.max()]
    if typical_p < 1:
        p = weight[order] / weight[order].sum()
        surprise = -np.log(np.where(p > 0, p, 1))
        away = np.where(p > 0, np.abs(surprise - (p * surprise).sum()), np.inf)
        by = np.lexsort((order, away))
        keep = np.cumsum(p[by]) - p[by] < typical_p - 1e-6
        keep[0] = True
        order = order[by[keep]]
    out = np.zeros(V)
    out[order] = weight[order] / weight[order].sum()
    return out


def changed(logits, bias=None, history=(), prompt_length=0, repetition=1.0, presence=0.0, frequency=0.0):
    """One row (V) with bias and penalties: what the filters are given."""
    out = np.array(logits, np.float64)
    for token, value in (bias or {}).items():
        out[token] += value
    for token in set(history):
        out[token] = out[token] / repetition if out[token] > 0 else out[token] * repetition
    for token, count in Counter(history[prompt_length:]).items():
        out[token] -= count * frequency + presence
    return out


def gumbel_noise(seed, step, V):
    """g = -log(-log(1 - v)), v from word id % 4 of the block id / 4."""
    words = np.array([philox(seed, step, block) for block in range((V + 3) // 4)], np.float64).reshape(-1)[:V]
    v = np.minimum((words + 0.5) * 2.0**-32, 1 - 2.0**-24)
    return -np.log(-np.log1p(-v))


def scores(probs, seed, step):
    """The draw is their argmax."""
    with np.errstate(divide="ignore"):
        return np.log(probs) + gumbel_noise(seed, step, len(probs))
