"""Rows gathered and added up: what a mixture of experts is made of."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import to_array
from llmcore._tensor import Tensor, as_tensor


def take(x, ids) -> Tensor:
    """Rows of x (M, C) for ids (N) integers in [0, M): (N, C). The gradient of a row is the sum of those of its copies,
    in their order."""
    x, ids = as_tensor(x), to_array(ids)
    out = Tensor(_core.take(x.array, ids))
    if autograd.needs_grad(x):
        rows = x.shape[0]
        autograd.record([out], [x], lambda dy: (_core.take_backward(dy, ids, rows),))
    return out


def weighted_sum(y, weight) -> Tensor:
    """Σₖ weight[m, k] · y[m, k]: y (M, k, C) float32 or bfloat16, weight (M, k) float32; returns (M, C) in y's dtype."""
    y, weight = as_tensor(y), as_tensor(weight)
    out = Tensor(_core.weighted_sum(y.array, weight.array))
    if autograd.needs_grad(y, weight):
        a, w = y.array, weight.array
        autograd.record([out], [y, weight], lambda dy: _core.weighted_sum_backward(dy, a, w))
    return out
