"""Results that are made when somebody asks for them."""

from __future__ import annotations

import math
from collections.abc import Callable

from llmcore import _core
from llmcore._core import ActivationSource, DType
from llmcore._tensor import Tensor


class Lazy(Tensor):
    """A tensor of a known shape and dtype whose array `make` gives."""

    __slots__ = ("_array", "_dtype", "_make", "_shape")

    def __init__(self, make: Callable[[], _core.Array], shape: tuple[int, ...], dtype: DType):
        self._array: _core.Array | None = None
        super().__init__(None)  # type: ignore[arg-type]
        self._make, self._shape, self._dtype = make, shape, dtype

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
    def size(self) -> int:
        return math.prod(self._shape)

    @property
    def dtype(self) -> str:
        return self._dtype.name


class OnHost(Lazy):
    """A number that the device computes: who looks at it waits, who differentiates it does not."""

    __slots__ = ()

    def __init__(self, there: _core.Array):
        super().__init__(lambda: there.to("cpu"), there.shape, there.dtype)

    @property
    def device(self) -> str:
        return "cpu"


class Deferred(Lazy):
    """What a product with a quantized weight does not ask for: it rounds what the tensor is made of, by a kernel of
    `source` from `given`, in one pass. Not recorded for gradients."""

    __slots__ = ("eps", "given", "norm_weight", "source")

    def __init__(
        self,
        given: _core.Array,
        shape: tuple[int, ...],
        make: Callable[[], _core.Array],
        source: ActivationSource,
        norm_weight: _core.Array | None = None,
        eps: float = 0.0,
    ):
        super().__init__(make, shape, given.dtype)
        self.given, self.source, self.norm_weight, self.eps = given, source, norm_weight, eps

    @property
    def device(self) -> str:
        return self.given.device
