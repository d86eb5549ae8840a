"""Low-rank adaptation (Hu et al. 2021): a frozen layer learns by two small matrices beside it, and, weight-decomposed, by
the lengths of its weight's rows (DoRA, Liu et al. 2024)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from llmcore import autograd, ops
from llmcore._core import DType
from llmcore._tensor import Tensor, tensor
from llmcore.nn.module import Module, Parameter
from llmcore.ops.low_rank import Magnitude, Packed, Piece, low_rank, scale_outputs


class Dropout:
    """Drops inputs of the adapters during training: a function of the seed, the update, the micro-batch and the number of
    the call in it. One object serves all layers of a model."""

    def __init__(self, rate: float, seed: int):
        self.rate, self.seed = rate, seed
        self._update = self._batch = self._calls = 0

    def begin(self, update: int, batch: int = 0) -> None:
        """Start a micro-batch of an update."""
        self._update, self._batch, self._calls = update, batch, 0

    @property
    def active(self) -> bool:
        return self.rate != 0 and autograd.grad_enabled()

    def __call__(self, x: Tensor) -> Tensor:
        if not self.active:
            return x
        counter = [0, self._batch, self._calls, self._update]
        self._calls += 1
        rng = np.random.Generator(np.random.Philox(key=self.seed, counter=counter))
        drawn = np.frombuffer(rng.bytes(2 * x.size), np.uint16).reshape(x.shape)
        kept = np.where(drawn >= self.rate * 65536, np.float32(1 / (1 - self.rate)), np.float32(0))
        return ops.mul(x, ops.cast(tensor(kept, device=x.device), x.array.dtype))


class LoRA(Module):
    """One adapter, which adds (alpha / rank) · x aᵀ bᵀ to the outputs start to end of a layer; a (rank, inputs), b
    (outputs, rank). With `stabilised` the factor is alpha / √rank (Kalajdzievski 2023). magnitude: the lengths (outputs)
    that the rows of the changed weight are given, or None."""

    def __init__(
        self,
        a: np.ndarray,
        b: np.ndarray,
        start: int,
        alpha: float,
        stabilised: bool = False,
        magnitude: np.ndarray | None = None,
    ):
        self.a, self.b = Parameter(a), Parameter(b)
        self.magnitude = None if magnitude is None else Parameter(magnitude)
        self.start, self.end, self.alpha, self.stabilised = start, start + b.shape[0], alpha, stabilised

    @property
    def rank(self) -> int:
        return self.b.shape[1]

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.stabilised else self.rank)

    def delta(self) -> np.ndarray:
        """Return the change of the layer's weight, (outputs, inputs) float32, before the rows get their lengths."""
        return np.float32(self.scale) * (self.b.array.numpy() @ self.a.array.numpy())


class _Adapters(Module):
    """The adapters of one layer, each for some of its outputs. before: those of earlier runs, which are frozen; they get no
    dropout."""

    def __init__(self, parts: Sequence[LoRA], outputs: int, dropout: Dropout, before: Sequence[LoRA] = ()):
        self.before, self.parts, self.outputs, self.dropout = list(before), list(parts), outputs, dropout
        self._packed: dict[tuple[DType, bool, bool], tuple[int, Packed]] = {}
        self._squares: tuple[int, np.ndarray] | None = None
        self._own: tuple[tuple[int, int], np.ndarray] | None = None

    @property
    def every(self) -> list[LoRA]:
        return [*self.before, *self.parts]

    @property
    def scales(self) -> bool:
        """Whether rows of the weight are given lengths."""
        return any(p.magnitude is not None for p in self.every)

    def magnitudes(self) -> dict[int, LoRA]:
        """Return the adapter whose lengths count, by first output."""
        return {p.start: p for p in self.every if p.magnitude is not None}

    def packed(self, dtype: DType, before: bool = True, parts: bool = True) -> tuple[list[Piece], Packed]:
        """Return some of the adapters as the kernels want them."""
        chosen = [*(self.before if before else ()), *(self.parts if parts else ())]
        pieces = [Piece(p.a, p.b, p.start, p.scale) for p in chosen]
        key, version = (dtype, before, parts), self.version
        if key not in self._packed or self._packed[key][0] != version:
            self._packed[key] = version, Packed(pieces, self.outputs, dtype)
        return pieces, self._packed[key][1]

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x (..., inputs) and the layer's output y (..., outputs) -> y plus what the adapters add."""
        dtype = y.array.dtype
        if x.array.dtype is not dtype:
            x = ops.cast(x, dtype)
        if not (self.dropout.active and self.before and self.parts):
            return low_rank(self.dropout(x) if self.parts else x, y, *self.packed(dtype))
        y = low_rank(x, y, *self.packed(dtype, parts=False))
        return low_rank(self.dropout(x), y, *self.packed(dtype, before=False))

    def scale(self, y: Tensor, weight: Parameter, bias: Parameter | None) -> Tensor:
        """Give the rows of the changed weight, whose outputs y (..., outputs) are, their lengths, and add the bias."""
        own = self.lengths(weight, "bfloat16" if y.array.dtype is DType.bfloat16 else "float32")
        found = []
        for p in self.magnitudes().values():
            assert p.magnitude is not None
            found.append(Magnitude(p.magnitude, own[p.start : p.end], p.start))
        return scale_outputs(y, found, bias)

    def lengths(self, weight: Parameter, dtype: str = "float32") -> np.ndarray:
        """Return the lengths (outputs) of the rows of weight + changes, float32, computed with products in `dtype`."""
        key = (weight.version, self.version)
        if self._squares is None or self._squares[0] != weight.version:
            self._squares = weight.version, self._squared(weight)
        if self._own is None or self._own[0] != key:
            squares = self._squares[1]
            if self.every:
                packed = self.packed(DType.float32)[1]
                a, b = packed.a.numpy().astype(np.float64), packed.b.numpy().astype(np.float64)
                squares = squares + ((2 * self._products(packed, weight, dtype) + b @ (a @ a.T)) * b).sum(axis=1)
            tiny = np.finfo(np.float32).tiny
            self._own = key, np.sqrt(np.maximum(squares, tiny)).astype(np.float32)
        return self._own[1]

    def _squared(self, weight: Parameter) -> np.ndarray:
        """Return the squared lengths (outputs) of the weight's rows."""
        raise NotImplementedError

    def _products(self, packed: Packed, weight: Parameter, dtype: str) -> np.ndarray:
        """Return weight · aᵀ (outputs, ranks)."""
        raise NotImplementedError


_ROWS = 4096  # whose values exist at a time


class LoRALinear(_Adapters):
    """The adapters of a linear layer."""

    def merged(self, weight: Parameter) -> np.ndarray:
        """Return the weight with the changes, float32."""
        values = np.array(weight.stored(), np.float32)
        for p in self.every:
            values[p.start : p.end] += p.delta()
        for p in self.magnitudes().values():
            assert p.magnitude is not None
            rows = values[p.start : p.end]
            rows *= (p.magnitude.array.numpy() / np.linalg.norm(rows, axis=1))[:, None]
        return values

    def _squared(self, weight: Parameter) -> np.ndarray:
        values = weight.stored()
        blocks = [values[i : i + _ROWS].astype(np.float32) for i in range(0, len(values), _ROWS)]
        return np.concatenate([np.einsum("ij,ij->i", v, v, dtype=np.float64) for v in blocks])

    def _products(self, packed: Packed, weight: Parameter, dtype: str) -> np.ndarray:
        with autograd.no_grad():
            found = ops.linear(ops.cast(Tensor(packed.a), dtype), weight, out_dtype="float32")
        return found.numpy().T.astype(np.float64)


class EmbeddingLoRA(LoRA):
    """One adapter of an embedding, which adds (alpha / rank) · a[id] bᵀ to a row; a (rows, rank), b (width, rank). Its
    magnitude (width) are lengths of the table's columns, as PEFT has it."""

    def delta(self) -> np.ndarray:
        return np.float32(self.scale) * (self.a.array.numpy() @ self.b.array.numpy().T)


class LoRAEmbedding(_Adapters):
    """The adapters of an embedding, which get no dropout, as in PEFT."""

    def lookup(self, ids, y: Tensor) -> Tensor:
        """ids (...) and their rows y (..., width) -> y plus what the adapters add."""
        for p in self.every:
            added = ops.linear(ops.mul(ops.embedding(ids, p.a), p.scale), p.b)
            y = ops.add(y, ops.cast(added, y.array.dtype))
        return y

    def packed(self, dtype: DType, before: bool = True, parts: bool = True) -> tuple[list[Piece], Packed]:
        pieces = [Piece(tensor(p.a.array.numpy().T), p.b, p.start, p.scale) for p in self.every]
        return pieces, Packed(pieces, self.outputs, dtype)

    def merged(self, weight: Parameter) -> np.ndarray:
        """Return the table with the changes, float32."""
        values = np.array(weight.stored(), np.float32)
        for p in self.every:
            values += p.delta()
        for p in self.magnitudes().values():
            assert p.magnitude is not None
            values *= p.magnitude.array.numpy() / np.linalg.norm(values, axis=0)
        return values

    def _squared(self, weight: Parameter) -> np.ndarray:
        values = weight.stored()
        blocks = [values[i : i + _ROWS].astype(np.float32) for i in range(0, len(values), _ROWS)]
        return np.sum([np.einsum("ij,ij->j", v, v, dtype=np.float64) for v in blocks], axis=0)

    def _products(self, packed: Packed, weight: Parameter, dtype: str) -> np.ndarray:
        values, a = weight.stored(), packed.a.numpy()
        found = np.zeros((values.shape[1], len(a)))
        for i in range(0, len(values), _ROWS):
            found += values[i : i + _ROWS].astype(np.float32).T @ a[:, i : i + _ROWS].T
        return found
