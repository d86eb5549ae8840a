"""What adapters add to a linear layer (LoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcore import _core, autograd
from llmcore._core import DType
from llmcore._tensor import Tensor, as_tensor


@dataclass(frozen=True)
class Piece:
    """One adapter: scale · x aᵀ bᵀ, a (rank, inputs), b (n, rank), for the outputs from `start` on."""

    a: Tensor
    b: Tensor
    start: int
    scale: float


class Packed:
    """The adapters of a layer of so many outputs as two matrices for the kernels, all a's one below the other, and the
    b's, scaled, in blocks: two products for a layer, however many adapters it has. Made of values as they are."""

    def __init__(self, pieces: Sequence[Piece], outputs: int, dtype: DType):
        ranks = [p.a.shape[0] for p in pieces]
        self.spans = [(end - r, end) for r, end in zip(ranks, np.cumsum(ranks).tolist(), strict=True)]
        self.a = _core.concat([p.a.array for p in pieces], 0)
        self.b = _core.zeros([outputs, sum(ranks)], DType.float32, self.a.device)
        for p, (first, end) in zip(pieces, self.spans, strict=True):
            to = self.b.narrow(0, p.start, p.b.shape[0]).narrow(1, first, end - first)
            to.copy_from(_core.scale(p.b.array, p.scale))
        self.down, self.up = _core.pack(self.a, dtype, True), _core.pack(self.b, dtype, True)
        self.dtype = dtype


def low_rank(x, y, pieces: Sequence[Piece], packed: Packed) -> Tensor:
    """y + what the adapters add: x (..., inputs), y (..., outputs) of one float dtype, that of `packed`, which is made of
    `pieces`. Gradients flow to x, y and the pieces."""
    x, y = as_tensor(x), as_tensor(y)
    hidden = _core.linear(x.array, packed.down)[0]
    out = Tensor(_core.linear(hidden, packed.up, residual=y.array)[0])
    inputs = [x, y, *(t for p in pieces for t in (p.a, p.b))]
    if autograd.needs_grad(*inputs):
        saved = x.array

        def backward(dy):
            dhidden = _core.linear(dy, _core.pack(packed.b, packed.dtype, False))[0]
            da = _core.linear_weight_grad(dhidden, saved, None)
            db = _core.linear_weight_grad(dy, hidden, None)
            dx = _core.linear(dhidden, _core.pack(packed.a, packed.dtype, False))[0] if x.requires_grad else None
            grads = [dx, dy]
            for p, (first, end) in zip(pieces, packed.spans, strict=True):
                rows = db.narrow(0, p.start, p.b.shape[0]).narrow(1, first, end - first)
                grads += [da.narrow(0, first, end - first), _core.scale(rows, p.scale)]
            return grads

        autograd.record([out], inputs, backward)
    return out
