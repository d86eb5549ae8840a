"""Low-rank adaptation (Hu et al. 2021): a frozen linear layer learns by two small matrices beside it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llmcore import autograd, ops
from llmcore._core import DType
from llmcore._tensor import Tensor, tensor
from llmcore.nn.module import Module, Parameter
from llmcore.ops.low_rank import Packed, Piece, low_rank


class Dropout:
    """Drops inputs of the adapters during training: a function of the seed, the update, the micro-batch and the number of
    the call in it. One object serves all layers of a model."""

    def __init__(self, rate: float, seed: int):
        self.rate, self.seed = rate, seed
        self._update = self._batch = self._calls = 0

    def begin(self, update: int, batch: int = 0) -> None:
        """Start a micro-batch of an update."""
        self._update, self._batch, self._calls = update, batch, 0

    def __call__(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not autograd.grad_enabled():
            return x
        counter = [0, self._batch, self._calls, self._update]
        self._calls += 1
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
        drawn = np.frombuffer(rng.bytes(2 * x.size), np.uint16).reshape(x.shape)
        kept = np.where(drawn >= self.rate * 65536, np.float32(1 / (1 - self.rate)), np.float32(0))
        return ops.mul(x, ops.cast(tensor(kept, device=x.device), x.array.dtype))


class LoRA(Module):
    """One adapter, which adds (alpha / rank) · x aᵀ bᵀ to the outputs start to end of a layer; a (rank, inputs), b
    (outputs, rank). With `stabilised` the factor is alpha / √rank (Kalajdzievski 2023)."""

    def __init__(self, a: np.ndarray, b: np.ndarray, start: int, alpha: float, stabilised: bool = False):
        self.a, self.b = Parameter(a), Parameter(b)
        self.start, self.end, self.alpha, self.stabilised = start, start + b.shape[0], alpha, stabilised

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def delta(self) -> np.ndarray:
        """Return the change of the layer's weight, (outputs, inputs) float32."""
        return np.float32(self.scale) * (self.b.array.numpy() @ self.a.array.numpy())


class LoRALinear(Module):
    """The adapters of one linear layer, each for some of its outputs."""

    def __init__(self, parts: Sequence[LoRA], outputs: int, dropout: Dropout):
        self.parts, self.outputs, self.dropout = list(parts), outputs, dropout
        self._packed: dict[DType, tuple[int, Packed]] = {}

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., inputs) and the layer's output y (..., outputs) -> y plus what the adapters add."""
        pieces = [Piece(p.a, p.b, p.start, p.scale) for p in self.parts]
        dtype, version = y.array.dtype, self.version
        if dtype not in self._packed or self._packed[dtype][0] != version:
            self._packed[dtype] = version, Packed(pieces, self.outputs, dtype)
        return low_rank(self.dropout(x), y, pieces, self._packed[dtype][1])
