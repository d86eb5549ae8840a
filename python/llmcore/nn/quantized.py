"""Weights that stay quantized in memory."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from llmcore import _core
from llmcore._core import DType
from llmcore.errors import Error
from llmcore.nn.module import Parameter, Source

Blocks = list[tuple[str, np.ndarray]]  # (GGUF's name of a type, uint8 (rows, bytes of a row)), one below the other


class QuantizedWeight(Parameter):
    """A matrix (N, K) in blocks of 32 or 256 weights that is multiplied with in that form. It is not trained; its float32
    values are computed at every access.

    `make` returns the blocks when they are first needed; `done` is called when they are not needed any more, since they may
    be mapped from a file.
    """

    __slots__ = ("_done", "_make", "_matrix")

    def __init__(self, source: Source, make: Callable[[], Blocks], done: Callable[[], object] = lambda: None):
        super().__init__(source)
        self.requires_grad = False
        self._matrix: _core.QuantizedMatrix | None = None
        self._make, self._done = make, done

    @property
    def quantized(self) -> _core.QuantizedMatrix:  # type: ignore[override]
        if self._matrix is None:
            blocks = [(kind, _core.from_numpy(b)) for kind, b in self._make()]
            self._matrix = _core.QuantizedMatrix(blocks, self.shape[1], self.device)
            self._done()
        return self._matrix

    def panels(self, dtype: DType, transposed: bool, paired: bool = False) -> _core.Panels:
        """Return the values packed, for gradients; packed at every call, because they take many times the memory of the blocks."""
        return _core.pack(_core.quantized_values(self.quantized, dtype), dtype, transposed, paired=paired)

    def memory(self) -> list:
        return [self._matrix]

    @property
    def nbytes(self) -> int:
        """The size in memory."""
        return self.quantized.nbytes

    def _load(self, source: Source) -> _core.Array:
        return self._allocate(source.values())  # not kept

    def assign(self, values) -> None:
        raise Error(
            "parameter", expected="a weight that is not quantized", got="one that is: load it with quantize='none'"
        )
