"""What adapters add to a linear layer (LoRA), and what they scale (DoRA)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmcore import _core, autograd
from llmcore._arrays import to_host_array
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
            dx = _core.linear(dhidden, _core.pack(packed.a, packed.dtype, False))[0] if x.requires_grad else None
            grads = [dx, dy]
            if not any(t.requires_grad for p in pieces for t in (p.a, p.b)):
                return grads + [None] * (2 * len(pieces))
            da = _core.linear_weight_grad(dhidden, saved, None)
            db = _core.linear_weight_grad(dy, hidden, None)
            for p, (first, end) in zip(pieces, packed.spans, strict=True):
                rows = db.narrow(0, p.start, p.b.shape[0]).narrow(1, first, end - first)
                grads += [da.narrow(0, first, end - first), _core.scale(rows, p.scale)]
            return grads

        autograd.record([out], inputs, backward)
    return out


@dataclass(frozen=True)
class Magnitude:
    """The lengths (n) that a weight's rows from `start` on are given, and those (n) that they have, float32."""

    length: Tensor
    own: np.ndarray
    start: int


def scale_outputs(y, magnitudes: Sequence[Magnitude], bias=None) -> Tensor:
    """y (..., outputs), each output times its row's length / own length, in float32, plus a bias (outputs) float32. Gradients
    flow to y and the lengths, not to the rows' own (Liu et al. 2024, section 4.3) nor to the bias."""
    y = as_tensor(y)
    given, outputs, device = y.array, y.shape[-1], y.device
    factors, inverses = np.ones(outputs, np.float32), np.ones(outputs, np.float32)
    for m in magnitudes:
        inverses[m.start : m.start + len(m.own)] = 1 / m.own
        factors[m.start : m.start + len(m.own)] = m.length.array.numpy() / m.own
    rows = _core.zeros([given.size // outputs], DType.int32, device)

    def spread(row: _core.Array) -> _core.Array:
        return _core.embedding(row.reshape([1, outputs]), rows, DType.float32).reshape(list(given.shape))

    factor = to_host_array(factors).to(device)
    scaled = _core.mul(_core.cast(given, DType.float32), spread(factor))
    if bias is not None:
        scaled = _core.add(scaled, spread(as_tensor(bias).array))
    out = Tensor(_core.cast(scaled, given.dtype))
    inputs = [y, *(m.length for m in magnitudes)]
    if autograd.needs_grad(*inputs):

        def backward(dy):
            dy = _core.cast(dy, DType.float32)
            sums = _core.zeros([outputs], DType.float32, device)
            _core.linear_bias_grad(_core.mul(dy, _core.cast(given, DType.float32)), sums)
            grads = [_core.cast(_core.mul(dy, spread(factor)), given.dtype)]
            sums = _core.mul(sums, to_host_array(inverses).to(device))
            return grads + [sums.narrow(0, m.start, len(m.own)) for m in magnitudes]

        autograd.record([out], inputs, backward)
    return out
