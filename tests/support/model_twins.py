"""Float64 twins of the architectures: the published formulas in plain numpy, one position at a time where that is
simplest. `w` holds the weights by our names, float64."""

import math

import numpy as np


def weights_of(model):
    return {name: w.astype(np.float64) for name, w in model.state_dict().items()}


def _layer_norm(x, weight, bias, eps):
    mean = x.mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(-1, keepdims=True) + eps) * weight + bias


def _rms_norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def _attention(q, k, v):
    """q (T, H, D), k and v (T, Hkv, D), causal."""
    T, H, D = q.shape
    out = np.zeros_like(q)
    for h in range(H):
        kh = h // (H // k.shape[1])
        for t in range(T):
            s = k[: t + 1, kh] @ q[t, h] / math.sqrt(D)
            p = np.exp(s - s.max())
            out[t, h] = p @ v[: t + 1, kh] / p.sum()
    return out


def gpt2_logits(c, w, ids):
    """ids (T) -> (T, V)"""
    T = len(ids)
    x = w["tokens.weight"][ids] + w["positions.weight"][:T]
    for i in range(c.layers):
        b = f"blocks.{i}."

        def linear(name, y, b=b):
            return y @ w[b + name + ".weight"].T + w[b + name + ".bias"]

        y = _layer_norm(x, w[b + "norm1.weight"], w[b + "norm1.bias"], c.eps)
        q, k, v = linear("attention.qkv", y).reshape(T, 3, c.heads, c.head_size).swapaxes(0, 1)
        x = x + linear("attention.out", _attention(q, k, v).reshape(T, -1))
        y = linear("mlp_in", _layer_norm(x, w[b + "norm2.weight"], w[b + "norm2.bias"], c.eps))
        y = 0.5 * y * (1 + np.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y**3)))
        x = x + linear("mlp_out", y)
    return _layer_norm(x, w["norm.weight"], w["norm.bias"], c.eps) @ w["tokens.weight"].T


def llama_logits(c, w, ids):
    """ids (T) -> (T, V)"""
    T = len(ids)
    angle = np.arange(T)[:, None] * c.rope_base ** (-np.arange(0, c.head_size, 2) / c.head_size)

    def rotate(x):
        a, b = np.split(x, 2, axis=-1)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["tokens.weight"][ids]
    for i in range(c.layers):
        b = f"blocks.{i}."
        y = _rms_norm(x, w[b + "norm1.weight"], c.eps) @ w[b + "attention.qkv.weight"].T
        q, k, v = np.split(y.reshape(T, -1, c.head_size), [c.heads, c.heads + c.kv_heads], axis=1)
        x = x + _attention(rotate(q), rotate(k), v).reshape(T, -1) @ w[b + "attention.out.weight"].T
        y = _rms_norm(x, w[b + "norm2.weight"], c.eps) @ w[b + "mlp.gate_up.weight"].T
        gate, up = np.split(y, 2, axis=-1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[b + "mlp.down.weight"].T
    head = w["tokens.weight"] if c.tied else w["head.weight"]
    return _rms_norm(x, w["norm.weight"], c.eps) @ head.T
