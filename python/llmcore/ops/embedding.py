"""Token embeddings and rotary positions."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import check_integer, to_array, to_dtype
from llmcore._tensor import Tensor, as_tensor


def embedding(ids, table, dtype="float32") -> Tensor:
    """Rows of table (V, C) float32 for integer ids (...); returns (..., C) in `dtype`. Ids outside [0, V) raise."""
    ids, table = as_tensor(ids), as_tensor(table)
    if table.quantized is not None:
        return Tensor(_core.quantized_rows(table.quantized, ids.array, to_dtype(dtype)))
    out = Tensor(_core.embedding(table.array, ids.array, to_dtype(dtype)))
    if autograd.needs_grad(table):
        saved = ids.array

        def backward(dy):
            dtable, result = autograd.grad_slot(table)
            _core.embedding_backward(dy, saved, dtable)
            return None, result

        autograd.record([out], [None, table], backward)
    return out


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
