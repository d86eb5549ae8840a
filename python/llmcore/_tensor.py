"""`Tensor`: an array of the C++ core with a gradient, zero-copy to and from numpy."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from llmcore import _core, autograd
from llmcore._core import Array, DType, try_numpy
from llmcore._device import checked, on
from llmcore._device import device as default_device

DTYPES = {
    "float32": DType.float32,
    "bfloat16": DType.bfloat16,
    "int32": DType.int32,
    "int64": DType.int64,
    "uint32": DType.uint32,
    "uint8": DType.uint8,
}
FLOATS = (DType.float32, DType.bfloat16)
_CPU, _CUDA = (1, 0), (2, 0)  # DLPack's devices
_LEGACY_STREAM = 1  # and its default stream


def to_dtype(dtype) -> DType:
    """A core dtype from a name, a numpy dtype or a core dtype."""
    if isinstance(dtype, DType):
        return dtype
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in DTYPES:
        raise TypeError(f"[tensor] expected a dtype of {', '.join(DTYPES)}, got {name}")
    return DTYPES[name]


def to_array(x) -> _core.Array:
    """A core array from a Tensor, a numpy array, anything with DLPack, or numbers. Aligned numpy input is not copied, but
    floats go to the default device; integers (tokens, positions) stay on the host, which checks them."""
    if isinstance(x, Tensor):
        return x.array
    if isinstance(x, Array):
        return x
    array = try_numpy(x)
    return _placed(to_host_array(x) if array is None else array)


def _placed(array: _core.Array) -> _core.Array:
    where = default_device()
    return array if where == "cpu" or array.dtype not in FLOATS else array.to(where)


def to_host_array(x) -> _core.Array:
    """The same, where it is already, or on the host."""
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__") and not np.isscalar(x):
            if x.__dlpack_device__()[0] == _CUDA[0]:
                checked("cuda")
                return _core.from_dlpack(x.__dlpack__(stream=_LEGACY_STREAM))
            try:
                x = np.from_dlpack(x)
            except RuntimeError:  # bfloat16, which numpy does not know
                return _core.from_dlpack(x.__dlpack__())
        else:
            x = np.asarray(x)
            if x.dtype == np.float64:  # python floats; a float64 *array* is refused below
                x = x.astype(np.float32)
    name = x.dtype.type.__name__ if x.dtype.kind == "V" else x.dtype.name  # the latter takes microseconds
    if name not in DTYPES:
        raise TypeError(f"[tensor] expected an array of {', '.join(DTYPES)}, got {name}")
    if not x.flags.aligned or not x.dtype.isnative or any(s % x.itemsize for s in x.strides):
        x = np.array(x, x.dtype.newbyteorder("="), order="C")
    return _core.from_numpy(x, name == "bfloat16")


class Tensor:
    """An array (any shape; float32, bfloat16 or integers) that ops can be recorded on.

    Attributes: `array` (the core's storage), `grad` (an array of the same shape, or None), `requires_grad`.
    """

    quantized: _core.QuantizedMatrix | None = None  # of a weight that stays so: see nn.QuantizedWeight

    __slots__ = ("__weakref__", "_grad_shared", "_index", "_node", "array", "grad", "requires_grad")

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
        """This tensor on "cpu" or "cuda": itself when it is there, else a copy, to which gradients do not flow."""
        device = checked(device)
        if self.device == device:
            return self
        return Tensor(self.array.to(device), self.requires_grad and self._node is None)

    def numpy(self) -> np.ndarray:
        """A numpy view of the same memory (bfloat16 as `ml_dtypes.bfloat16`); of a tensor on a GPU a read-only copy, for
        which all its work is waited for."""
        return array_to_numpy(self.array)

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        """The same memory for other libraries (https://dmlc.github.io/dlpack), or a copy where `copy` or another device asks
        for one; BufferError where that cannot be. A GPU's work on it is waited for."""
        array, here = self.array, self.__dlpack_device__()
        if dl_device is not None and tuple(dl_device) != here:
            if tuple(dl_device) != _CPU or copy is False:
                raise BufferError(f"[dlpack] expected device {here}, got {tuple(dl_device)}")
            array = array.to("cpu")
        elif copy:
            array = _core.empty(list(array.shape), array.dtype, array.device)
            array.copy_from(self.array)
        return _core.to_dlpack(array)

    def __dlpack_device__(self) -> tuple[int, int]:
        return _CUDA if self.device == "cuda" else _CPU

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        a = self.numpy()
        return a if dtype is None else a.astype(dtype)

    def item(self) -> float:
        """The only element as a Python number; ValueError when there is not exactly one."""
        return self.numpy().item()

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("[len] expected a tensor of at least one dimension, got a number")
        return self.shape[0]

    def __repr__(self) -> str:
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), threshold=20, precision=4)}, {self.dtype}{grad})"

    # ---- gradients ----

    def grad_buffer(self) -> _core.Array:
        """The float32 gradient of a leaf, made of zeros at first use, for ops that add to it in place."""
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
        """This matrix packed for the kernels: as (N, K) transposed, or as (K, N); paired: as [gate, up] of a swiglu.
        Packed anew at every call; parameters keep theirs until the next update."""
        return _core.pack(self.array, dtype, transposed, paired=paired)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self.grad = None

    def backward(self, grad=None, done: Callable[[Tensor], object] | None = None) -> None:
        """Fill `.grad` of every leaf this tensor was computed from. `grad` defaults to 1 for a single element. done: is
        told each leaf when its gradient is complete, while others are still computed."""
        if not self.requires_grad:
            raise RuntimeError("[backward] expected a tensor computed from one that requires gradients, got a constant")
        if grad is None:
            if self.size != 1:
                raise ValueError(
                    f"[backward] expected a grad of shape {self.shape} for more than one element, got None"
                )
            grad = _core.cast(_core.from_numpy(np.ones(self.shape, np.float32)).to(self.device), to_dtype(self.dtype))
        grad = to_array(grad)
        if grad.shape != self.shape or grad.dtype.name != self.dtype:
            raise ValueError(
                f"[backward] expected a grad {self.shape} {self.dtype}, got {grad.shape} {grad.dtype.name}"
            )
        autograd.run_backward(self, grad, done)

    if TYPE_CHECKING:  # given to the class by llmcore.ops.arithmetic, which stands above it

        def __add__(self, other) -> Tensor: ...
        def __radd__(self, other) -> Tensor: ...
        def __mul__(self, other) -> Tensor: ...
        def __rmul__(self, other) -> Tensor: ...
        def reshape(self, *shape) -> Tensor: ...


def array_to_numpy(array: _core.Array) -> np.ndarray:
    a = array.numpy()
    if array.dtype is DType.bfloat16:
        import ml_dtypes

        return a.view(ml_dtypes.bfloat16)
    return a


def fill(array: _core.Array, values: np.ndarray) -> None:
    """Overwrite a float32 array, wherever it is, by values of its shape."""
    if array.device == "cpu":
        array.numpy()[...] = values
    else:
        array.copy_from(_core.from_numpy(np.ascontiguousarray(values, np.float32)))


def tensor(array, dtype=None, device=None, requires_grad: bool = False) -> Tensor:
    """A Tensor from numbers, numpy, or anything with DLPack.

    dtype: "float32", "bfloat16", "int32", "int64", "uint32" or "uint8"; by default what the array has (float64 becomes
    float32). device: "cpu" or "cuda"; by default where the array is, of numbers and numpy `llmcore.device()`. Raises
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
            out = _placed(_core.cast(_core.from_numpy(np.asarray(source, np.float32, order="C")), wanted))
        else:
            out = _placed(_core.from_numpy(np.asarray(source, wanted.name, order="C")))
    else:
        out = to_array(array)
    return Tensor(out, requires_grad)


def as_tensor(x) -> Tensor:
    """What ops do with their inputs: a Tensor stays itself, everything else becomes a constant."""
    return x if isinstance(x, Tensor) else Tensor(to_array(x))


def number(op: str, name: str, value) -> float:
    """A parameter of an op as a float: what the core would say of another type is not one line."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise TypeError(f"[{op}] expected {name} a number, got {value!r}")
    return float(value)


def integer(op: str, name: str, value) -> int:
    """The same for counts."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise TypeError(f"[{op}] expected {name} an integer, got {value!r}")
    return int(value)
