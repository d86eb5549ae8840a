"""`Tensor`: an array of the C++ core with a gradient, zero-copy to and from numpy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from llmcore import _core, autograd
from llmcore._arrays import CPU, CUDA, array_to_numpy, to_array, to_default_device, to_dtype
from llmcore._core import DType
from llmcore._device import checked, on
from llmcore._processes import NotCopied
from llmcore.errors import ArgumentTypeError, Error, StateError


class Tensor(NotCopied):
    """An array (any shape; float32, bfloat16 or integers) that ops can be recorded on.

    Attributes: `array` (the core's storage), `grad` (an array of the same shape, or None), `requires_grad`.
    """

    quantized: _core.QuantizedMatrix | None = None  # of a weight that stays so: see nn.QuantizedWeight

    __slots__ = ("__weakref__", "_grad_shared", "_index", "_node", "array", "grad", "requires_grad")

    def _instead(self) -> str:
        return "send tensor.numpy(), or save the model and load it there"

    def __init__(self, array: _core.Array, requires_grad: bool = False):
        self.array = array
        self.grad: _core.Array | None = None
        self._grad_shared = False  # whether others may hold `grad`'s memory too
        self.requires_grad = requires_grad
        self._node: autograd.Node | None = None
        self._index = 0

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def ndim(self) -> int:
        return self.array.ndim

    @property
    def size(self) -> int:
        return self.array.size

    @property
    def dtype(self) -> str:
        return self.array.dtype.name

    @property
    def device(self) -> str:
        return self.array.device

    def to(self, device: str) -> Tensor:
        """Return this tensor on "cpu" or "cuda": itself if it is there, else a copy, through which no gradient flows."""
        device = checked(device)
        if self.device == device:
            return self
        return Tensor(self.array.to(device), self.requires_grad and self._node is None)

    def numpy(self) -> np.ndarray:
        """Return a numpy view of the same memory (bfloat16 as `ml_dtypes.bfloat16`); of a tensor on a GPU, wait for its work
        and return a read-only copy."""
        return array_to_numpy(self.array)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """Share the memory with another library (https://dmlc.github.io/dlpack), or give a copy where `copy` or another device
        asks for one; BufferError where that cannot be done. Waits for a GPU's work on it."""
        array, here = self.array, self.__dlpack_device__()
        if dl_device is not None and tuple(dl_device) != here:
            if tuple(dl_device) != CPU or copy is False:
                raise BufferError(f"[dlpack] expected device {here}, got {tuple(dl_device)}")
            array = array.to("cpu")
        elif copy:
            array = _core.empty(list(array.shape), array.dtype, array.device)
            array.copy_from(self.array)
        return _core.to_dlpack(array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA if self.device == "cuda" else CPU

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        a = self.numpy()
        return a if dtype is None else a.astype(dtype)

    def item(self) -> float:
        """Return the only element as a Python number; ValueError when there is not exactly one."""
        return self.numpy().item()

    def __len__(self) -> int:
        if not self.ndim:
            raise ArgumentTypeError("len", expected="a tensor of at least one dimension", got="a number")
        return self.shape[0]

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), threshold=20, precision=4)}, {self.dtype}{grad})"

    # ---- gradients ----

    def grad_buffer(self) -> _core.Array:
        """Return the float32 gradient of a leaf, zeros at first use, for ops that add to it in place."""
        if self.grad is None or self._grad_shared:
            mine = _core.zeros(self.shape, DType.float32, self.device)
            if self.grad is not None:
                mine.copy_from(self.grad)
            self.grad, self._grad_shared = mine, False
        return self.grad

    def accumulate_grad(self, grad: _core.Array, shared: bool = True) -> None:
        """Add `grad` to this leaf's gradient. `shared` unless nobody else will read or write its memory."""
        if self.grad is None:
            self.grad, self._grad_shared = grad, shared
        else:
            self.grad, self._grad_shared = _core.add(self.grad, grad), False

    def panels(self, dtype: DType, transposed: bool, paired: bool = False) -> _core.Panels:
        """Pack this matrix for the kernels: as (N, K) transposed, or as (K, N); paired: as [gate, up] of a swiglu.
        A plain tensor is packed again at every call; parameters keep their panels until the next update."""
        return _core.pack(self.array, dtype, transposed, paired=paired)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(self, grad=None, done: Callable[[Tensor], object] | None = None) -> None:
        """Fill `.grad` of every leaf this tensor was computed from. `grad` defaults to 1 for a single element. `done` is
        called with each leaf when its gradient is complete, while others are still being computed."""
        if not self.requires_grad:
            raise StateError(
                "backward", expected="a tensor computed from one that requires gradients", got="a constant"
            )
        if grad is None:
            if self.size != 1:
                raise Error("backward", expected=f"a grad of shape {self.shape} for more than one element", got="None")
            grad = _core.cast(_core.from_numpy(np.ones(self.shape, np.float32)).to(self.device), to_dtype(self.dtype))
        grad = to_array(grad)
        if grad.shape != self.shape or grad.dtype.name != self.dtype:
            raise Error("backward", expected=f"a grad {self.shape} {self.dtype}", got=f"{grad.shape} {grad.dtype.name}")
        autograd.run_backward(self, grad, done)

    if TYPE_CHECKING:  # given to the class by llmcore.ops.elementwise and views, which stand above it

        def __add__(self, other) -> Tensor: ...
        def __radd__(self, other) -> Tensor: ...
        def __mul__(self, other) -> Tensor: ...
        def __rmul__(self, other) -> Tensor: ...
        def reshape(self, *shape) -> Tensor: ...


def tensor(array, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """Make a Tensor from numbers, numpy, or anything with DLPack.

    dtype: "float32", "bfloat16", "int32", "int64", "uint32" or "uint8"; by default what the array has (float64 becomes
    float32). device: "cpu" or "cuda"; by default where the array is, and for numbers and numpy `llmcore.device()`. Raises
    TypeError for other dtypes, ValueError for other devices, RuntimeError for one that is not there.
    """
    if device is not None:
        with on(device):
            made = tensor(array, dtype, None, requires_grad)
        return Tensor(made.array.to(device), requires_grad)
    if dtype is None and isinstance(array, np.ndarray) and array.dtype == np.float64:
        dtype = "float32"
    if dtype is not None:
        wanted = to_dtype(dtype)
        if isinstance(array, (Tensor, _core.Array)) and to_array(array).dtype == wanted:
            return Tensor(to_array(array), requires_grad)
        source = np.asarray(array_to_numpy(to_array(array)) if isinstance(array, (Tensor, _core.Array)) else array)
        if wanted == DType.bfloat16:
            out = to_default_device(_core.cast(_core.from_numpy(np.asarray(source, np.float32, order="C")), wanted))
        else:
            out = to_default_device(_core.from_numpy(np.asarray(source, wanted.name, order="C")))
    else:
        out = to_array(array)
    return Tensor(out, requires_grad)


def as_tensor(x) -> Tensor:
    """Return a Tensor as it is and anything else as a constant Tensor: what ops do with their inputs."""
    return x if isinstance(x, Tensor) else Tensor(to_array(x))
