"""Softmax."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._tensor import Tensor, as_tensor


def softmax(x) -> Tensor:
    """exp(x − max) / Σ exp(x − max) over the last dimension."""
    x = as_tensor(x)
    y = _core.softmax(x.array)
    out = Tensor(y)
    if autograd.needs_grad(x):
        autograd.record([out], [x], lambda dy: (_core.softmax_backward(dy, y),))
    return out
