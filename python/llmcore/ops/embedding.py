"""Token embeddings."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import to_dtype
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
