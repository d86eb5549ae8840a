"""Softmax over the last dimension in float64."""

import numpy as np


def softmax(x):
    with np.errstate(invalid="ignore"):
        e = np.exp(x - x.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)


def softmax_backward(dout, out):
    return out * (dout - (dout * out).sum(-1, keepdims=True))
