"""LayerNorm (Ba et al. 2016) and RMSNorm (Zhang & Sennrich 2019) in float64, and their gradients written out."""

import numpy as np


def layer_norm(x, weight, bias=None, eps=1e-5):
    d = x - x.mean(-1, keepdims=True)
    y = d / np.sqrt((d**2).mean(-1, keepdims=True) + eps) * weight
    return y if bias is None else y + bias


def rms_norm(x, weight, eps=1e-6):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight


def layer_norm_backward(dout, x, weight, eps=1e-5):
    """dx, dweight, dbias."""
    d = x - x.mean(-1, keepdims=True)
    rstd = 1 / np.sqrt((d**2).mean(-1, keepdims=True) + eps)
    h, g = d * rstd, dout * weight
    dx = rstd * (g - g.mean(-1, keepdims=True) - h * (g * h).mean(-1, keepdims=True))
    rows = tuple(range(x.ndim - 1))
    return dx, (dout * h).sum(rows), dout.sum(rows)


def rms_norm_backward(dout, x, weight, eps=1e-6):
    """dx, dweight."""
    rstd = 1 / np.sqrt((x**2).mean(-1, keepdims=True) + eps)
    h, g = x * rstd, dout * weight
    return rstd * (g - h * (g * h).mean(-1, keepdims=True)), (dout * h).sum(tuple(range(x.ndim - 1)))
