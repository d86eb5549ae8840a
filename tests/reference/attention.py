"""softmax(scale · q kᵀ + mask) v in float64, and its gradients written out (Vaswani et al. 2017)."""

import numpy as np


def _products(a, b):
    """a (B, T, H, D), b (B, S, H, D) -> (B, H, T, S)"""
    return a.transpose(0, 2, 1, 3) @ b.transpose(0, 2, 3, 1)


def _sums(p, x):
    """p (B, H, T, S), x (B, S, H, D) -> (B, T, H, D)"""
    return (p @ x.swapaxes(1, 2)).swapaxes(1, 2)


def _scores(q, k, scale, causal, lengths, window, starts, softcap=None):
    """Masked scores (B, H, T, S); hidden keys are -inf."""
    (B, T, H, _), (S, Hkv) = q.shape, k.shape[1:3]
    k = np.repeat(k, H // Hkv, axis=2)
    scores = scale * _products(q, k)
    scores = scores if softcap is None else softcap * np.tanh(scores / softcap)
    lengths = np.full(B, S) if lengths is None else np.asarray(lengths)
    key = np.arange(S)
    hidden = np.broadcast_to(key >= lengths[:, None, None], (B, T, S)).copy()
    position = (lengths[:, None] - T + np.arange(T))[..., None]
    if causal:
        hidden |= key > position
    if window is not None:
        hidden |= key <= position - window
    if starts is not None:
        hidden |= key < np.asarray(starts)[..., None]
    scores = np.where(hidden[:, None], -np.inf, scores)
    nothing = (scores == -np.inf).all(axis=-1) & ~hidden.all(axis=-1)[:, None]  # keys are seen, all at -inf: undefined
    return np.where(nothing[..., None], np.nan, scores)


def _softmax(scores):
    top = scores.max(axis=-1, keepdims=True, initial=-np.inf)
    top = np.where(np.isfinite(top), top, 0.0)
    p = np.exp(scores - top)
    total = p.sum(axis=-1, keepdims=True)
    with np.errstate(divide="ignore"):
        lse = (np.log(total) + top)[..., 0]
    return np.divide(p, total, out=np.zeros_like(p), where=total != 0), lse


def attention(q, k, v, scale, causal=True, lengths=None, window=None, starts=None, softcap=None):
    """q (B,T,H,D), k and v (B,S,Hkv,D) -> out (B,T,H,D), lse (B,H,T). Who sees no key gets zeros and -inf."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    p, lse = _softmax(_scores(q, k, scale, causal, lengths, window, starts, softcap))
    return _sums(p, np.repeat(v, q.shape[2] // k.shape[2], axis=2)), lse


def attention_backward(dout, q, k, v, scale, causal=True, window=None, starts=None, softcap=None):
    """dq, dk, dv: with P = softmax and dP = dout vᵀ, dS = P ∘ (dP - rowsum(P ∘ dP))."""
    dout, q, k, v = (np.asarray(x, np.float64) for x in (dout, q, k, v))
    group, Hkv = q.shape[2] // k.shape[2], k.shape[2]
    scores = _scores(q, k, scale, causal, None, window, starts, softcap)
    p, _ = _softmax(scores)
    dp = _products(dout, np.repeat(v, group, axis=2))
    ds = p * (dp - (p * dp).sum(axis=-1, keepdims=True)) * scale
    if softcap is not None:
        ds = ds * (1 - np.where(scores == -np.inf, 0.0, scores / softcap) ** 2)
    dq = _sums(ds, np.repeat(k, group, axis=2))
    dk = _sums(ds.swapaxes(2, 3), q)
    dv = _sums(p.swapaxes(2, 3), dout)
    per_head = (*k.shape[:2], Hkv, group, k.shape[3])
    return dq, dk.reshape(per_head).sum(axis=3), dv.reshape(per_head).sum(axis=3)
