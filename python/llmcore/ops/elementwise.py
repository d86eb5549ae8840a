"""Functions of every element: sums, products, casts, activations."""

from __future__ import annotations

import numpy as np

from llmcore import _core, autograd
from llmcore._arrays import check_number, to_dtype
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


def add(a, b) -> Tensor:
    """a + b for two tensors of one shape and dtype."""
    a, b = as_tensor(a), as_tensor(b)
    out = Tensor(_core.add(a.array, b.array))
    if autograd.needs_grad(a, b):
        autograd.record([out], [a, b], lambda dy: (dy, dy))
    return out


def mul(a, b) -> Tensor:
    """a * b for two tensors of one shape and dtype, or a tensor and a number."""
    if isinstance(b, (int, float, np.floating, np.integer)):
        a, factor = as_tensor(a), float(b)
        out = Tensor(_core.scale(a.array, factor))
        if autograd.needs_grad(a):
            autograd.record([out], [a], lambda dy: (_core.scale(dy, factor),))
        return out
    a, b = as_tensor(a), as_tensor(b)
    out = Tensor(_core.mul(a.array, b.array))
    if autograd.needs_grad(a, b):
        x, y = a.array, b.array
        autograd.record([out], [a, b], lambda dy: (_core.mul(dy, y), _core.mul(dy, x)))
    return out


def cast(x, dtype) -> Tensor:
    """x as "float32" or "bfloat16"."""
    x, wanted = as_tensor(x), to_dtype(dtype)
    if x.array.dtype is wanted:
        return x
    out = Tensor(_core.cast(x.array, wanted))
    if autograd.needs_grad(x):
        source = x.array.dtype
        autograd.record([out], [x], lambda dy: (_core.cast(dy, source),))
    return out


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


Tensor.__add__ = Tensor.__radd__ = add  # type: ignore[method-assign, assignment]
Tensor.__mul__ = Tensor.__rmul__ = mul  # type: ignore[method-assign, assignment]
