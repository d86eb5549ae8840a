"""Results that are made when somebody asks for them: a product with a quantized weight does not, it rounds what they are
made of in one pass."""

from __future__ import annotations

from collections.abc import Callable

from llmcore import _core
from llmcore._core import ActivationSource, DType
from llmcore._tensor import Tensor


class Deferred(Tensor):
    """A float tensor of a shape, which `make` gives, or a kernel of `source` from `given`. Not recorded for gradients."""

    __slots__ = ("_array", "_dtype", "_make", "_shape", "eps", "given", "norm_weight", "source")

    def __init__(
        self,
        given: _core.Array,
        shape: tuple[int, ...],
        make: Callable[[], _core.Array],
        source: ActivationSource,
        norm_weight: _core.Array | None = None,
        eps: float = 0.0,
    ):
        self._array: _core.Array | None = None
        super().__init__(None)  # type: ignore[arg-type]
        self.given, self.source, self.norm_weight, self.eps = given, source, norm_weight, eps
        self._make, self._shape, self._dtype = make, shape, given.dtype

    @property
    def array(self) -> _core.Array:  # type: ignore[override]
        if self._array is None:
            self._array = self._make()
        return self._array

    @array.setter
    def array(self, array: _core.Array | None) -> None:
        self._array = array

    @property
    def made(self) -> bool:
        return self._array is not None

    @property
    def core_dtype(self) -> DType:
        return self._dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def ndim(self) -> int:
        return len(self._shape)

    @property
    def dtype(self) -> str:
        return self._dtype.name
