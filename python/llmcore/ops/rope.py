"""Rotary positions."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import check_integer, to_array
from llmcore._tensor import Tensor, as_tensor


def rope(x, cos, sin, positions=None, heads: int | None = None) -> Tensor:
    """Rotary position embedding (Su et al. 2021), halves of the head turned against each other as in Llama.

    x (B, T, H, D); cos and sin (P, R/2) float32: of each head, the first R dimensions are turned, halves of these against
    each other; positions (B, T) int32, by default 0..T−1. Only the first `heads` of the H heads are turned (all by
    default), so that a packed query-key-value tensor takes one call.
    """
    x, cos, sin = as_tensor(x), to_array(cos), to_array(sin)
    where = None if positions is None else to_array(positions)
    if heads is not None:
        heads = check_integer("rope", "heads", heads)
    out = Tensor(_core.rope(x.array, cos, sin, where, heads, False))
    if autograd.needs_grad(x):
        autograd.record([out], [x], lambda dy: (_core.rope(dy, cos, sin, where, heads, True),))
    return out
