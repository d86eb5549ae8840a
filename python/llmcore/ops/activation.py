"""Activations and softmax."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._tensor import Tensor, as_tensor


def _unary(x, forward, backward) -> Tensor:
    x = as_tensor(x)
    out = Tensor(forward(x.array))
    if autograd.needs_grad(x):
        saved = x.array
        autograd.record([out], [x], lambda dy: (backward(dy, saved),))
    return out


def gelu(x) -> Tensor:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), the tanh form of GELU (Hendrycks & Gimpel 2016)."""
    return _unary(x, _core.gelu, _core.gelu_backward)


def silu(x) -> Tensor:
    """x · sigmoid(x)."""
    return _unary(x, _core.silu, _core.silu_backward)


def swiglu(x) -> Tensor:
    """silu(gate) · up for x (..., 2F) = [gate, up]; returns (..., F) (Shazeer 2020)."""
    return _unary(x, _core.swiglu, _core.swiglu_backward)


def softmax(x) -> Tensor:
    """exp(x − max) / Σ exp(x − max) over the last dimension."""
    x = as_tensor(x)
    y = _core.softmax(x.array)
    out = Tensor(y)
    if autograd.needs_grad(x):
        autograd.record([out], [x], lambda dy: (_core.softmax_backward(dy, y),))
    return out
