"""Activations in float64, and their derivatives."""

import math

import numpy as np

ROOT = np.sqrt(2 / np.pi)


def sigmoid(x):
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-x))


def gelu(x):
    """The tanh form (Hendrycks & Gimpel 2016)."""
    return 0.5 * x * (1 + np.tanh(ROOT * (x + 0.044715 * x**3)))


def gelu_derivative(x):
    t = np.tanh(ROOT * (x + 0.044715 * x**3))
    return 0.5 * (1 + t) + 0.5 * x * (1 - t**2) * ROOT * (1 + 3 * 0.044715 * x**2)


def gelu_exact(x):
    """x Φ(x)"""
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def gelu_exact_derivative(x):
    return 0.5 * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


def softcap(x, cap):
    return cap * np.tanh(x / cap)


def softcap_derivative(x, cap):
    return 1 - np.tanh(x / cap) ** 2


def silu(x):
    return x * sigmoid(x)


def silu_derivative(x):
    s = sigmoid(x)
    return s * (1 + x * (1 - s))


def swiglu(x):
    gate, up = np.split(x, 2, axis=-1)
    return silu(gate) * up


def swiglu_backward(dout, x):
    gate, up = np.split(x, 2, axis=-1)
    return np.concatenate([dout * up * silu_derivative(gate), dout * silu(gate)], axis=-1)


def geglu(x):
    gate, up = np.split(x, 2, axis=-1)
    return gelu(gate) * up


def geglu_backward(dout, x):
    gate, up = np.split(x, 2, axis=-1)
    return np.concatenate([dout * up * gelu_derivative(gate), dout * gelu(gate)], axis=-1)
