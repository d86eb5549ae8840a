"""Matrix products in float64: the definition, with nothing blocked, packed or fused."""

import numpy as np

from reference.elementwise import gelu, gelu_derivative, swiglu, swiglu_backward


def matmul(a, b):
    return np.matmul(a.astype(np.float64), b.astype(np.float64))


def linear(x, weight, bias=None, residual=None, activation=None):
    """residual + act(x · weightᵀ + bias)"""
    y = matmul(x, weight.T)
    if bias is not None:
        y = y + bias
    if activation == "gelu":
        y = gelu(y)
    elif activation == "swiglu":
        y = swiglu(y)
    return y if residual is None else y + residual


def linear_backward(dout, x, weight, bias=None, activation=None):
    """Gradients of x (..., K), weight (N, K), bias (N)."""
    dy = dout
    if activation is not None:
        pre = linear(x, weight, bias)
        dy = dout * gelu_derivative(pre) if activation == "gelu" else swiglu_backward(dout, pre)
    rows = int(np.prod(x.shape[:-1]))  # counted, so that there may be no columns
    rows_x, rows_dy = x.reshape(rows, x.shape[-1]), dy.reshape(rows, dy.shape[-1])
    return matmul(dy, weight), matmul(rows_dy.T, rows_x), rows_dy.sum(0)
