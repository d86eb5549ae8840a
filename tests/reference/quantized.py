"""x · weightᵀ with x rounded to int8 in blocks of 32, in float64."""

import numpy as np


def rounded(x):
    """What is left of x (..., K): scale * q, scale the largest magnitude of a block / 127, in float32 as kernels have
    it; ties to even."""
    blocks = np.asarray(x, np.float32).reshape(-1, 32)
    largest = np.abs(blocks).max(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        inverse = np.where(largest > 0, np.float32(127) / largest, np.float32(0))
    q = np.rint(blocks * inverse).clip(-127, 127)
    return (q.astype(np.float64) * (largest / np.float32(127))).reshape(np.shape(x))


def quantized_linear(x, weight):
    """weight (N, K): the values that its blocks stand for."""
    return rounded(x) @ np.asarray(weight, np.float64).T
