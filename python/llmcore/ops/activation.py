"""Activations and softmax."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import check_number
from llmcore._core import Activation
from llmcore._tensor import Tensor, as_tensor

ACTIVATIONS = {
    None: Activation.none,
    "gelu": Activation.gelu,
    "gelu_exact": Activation.gelu_exact,
    "silu": Activation.silu,
    "swiglu": Activation.swiglu,
    "geglu": Activation.geglu,
}


def activate(x, activation: Activation) -> Tensor:
    x = as_tensor(x)
    out = Tensor(_core.activate(activation, x.array))
    if autograd.needs_grad(x):
        saved = x.array
        autograd.record([out], [x], lambda dy: (_core.activate_backward(activation, dy, saved),))
    return out


def gelu(x, exact: bool = False) -> Tensor:
    """0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), the tanh form of GELU, or, exact, x Φ(x) (Hendrycks & Gimpel 2016)."""
    return activate(x, Activation.gelu_exact if exact else Activation.gelu)


def silu(x) -> Tensor:
    """x · sigmoid(x)."""
    return activate(x, Activation.silu)


def swiglu(x) -> Tensor:
    """silu(gate) · up for x (..., 2F) = [gate, up]; returns (..., F) (Shazeer 2020)."""
    return activate(x, Activation.swiglu)


def geglu(x) -> Tensor:
    """gelu(gate) · up, by the tanh form, for x (..., 2F) = [gate, up]; returns (..., F) (Shazeer 2020)."""
    return activate(x, Activation.geglu)


def softcap(x, cap: float) -> Tensor:
    """cap · tanh(x / cap): x where it is small, never beyond ±cap (Gemma 2)."""
    x, cap = as_tensor(x), check_number("softcap", "cap", cap)
    out = Tensor(_core.softcap(x.array, cap))
    if autograd.needs_grad(x):
        saved = x.array
        autograd.record([out], [x], lambda dy: (_core.softcap_backward(dy, saved, cap),))
    return out


def softmax(x) -> Tensor:
    """exp(x − max) / Σ exp(x − max) over the last dimension."""
    x = as_tensor(x)
    y = _core.softmax(x.array)
    out = Tensor(y)
    if autograd.needs_grad(x):
        autograd.record([out], [x], lambda dy: (_core.softmax_backward(dy, y),))
    return out
