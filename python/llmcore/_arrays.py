"""Arrays of the C++ core out of what callers have, and numpy's view of them."""

from __future__ import annotations

import numbers

import numpy as np

from llmcore import _core
from llmcore._core import Array, DType, try_numpy
from llmcore._device import checked
from llmcore._device import device as default_device
from llmcore.errors import ArgumentTypeError

DTYPES = {
    "float32": DType.float32,
    "bfloat16": DType.bfloat16,
    "int32": DType.int32,
    "int64": DType.int64,
    "uint32": DType.uint32,
    "uint8": DType.uint8,
}
FLOATS = (DType.float32, DType.bfloat16)
CPU, CUDA = (1, 0), (2, 0)  # DLPack's devices
_LEGACY_STREAM = 1  # and its default stream


def to_dtype(dtype) -> DType:
    """Return the core's dtype for a name, a numpy dtype or a core dtype."""
    if isinstance(dtype, DType):
        return dtype
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in DTYPES:
        raise ArgumentTypeError("tensor", expected=f"a dtype of {', '.join(DTYPES)}", got=name)
    return DTYPES[name]


def to_array(x) -> _core.Array:
    """Return a core array for a Tensor, a numpy array, anything with DLPack, or numbers. Aligned numpy input is not copied,
    but floats go to the default device; integers (tokens, positions) stay on the host, which checks them."""
    if isinstance(x, Array):
        return x
    array = getattr(x, "array", None)  # a Tensor's
    if array is not None and isinstance(array, Array):
        return array
    array = try_numpy(x)
    return to_default_device(to_host_array(x) if array is None else array)


def to_default_device(array: _core.Array) -> _core.Array:
    """Return the array itself, or, of floats, its copy on the default device where that is another one."""
    where = default_device()
    return array if where == "cpu" or array.dtype not in FLOATS else array.to(where)


def to_host_array(x) -> _core.Array:
    """Return a core array as `to_array` does, but where the data is already, or on the host."""
    if not isinstance(x, np.ndarray):
        if hasattr(x, "__dlpack__") and not np.isscalar(x):
            if x.__dlpack_device__()[0] == CUDA[0]:
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
        raise ArgumentTypeError("tensor", expected=f"an array of {', '.join(DTYPES)}", got=name)
    if not x.flags.aligned or not x.dtype.isnative or any(s % x.itemsize for s in x.strides):
        x = np.array(x, x.dtype.newbyteorder("="), order="C")
    return _core.from_numpy(x, name == "bfloat16")


def array_to_numpy(array: _core.Array) -> np.ndarray:
    """Return numpy's view of an array's memory (bfloat16 as `ml_dtypes.bfloat16`), or a copy of what is on a GPU."""
    a = array.numpy()
    if array.dtype is DType.bfloat16:
        import ml_dtypes

        return a.view(ml_dtypes.bfloat16)
    return a


def fill(array: _core.Array, values: np.ndarray) -> None:
    """Overwrite a float32 array, wherever it is, with values of its shape."""
    if array.device == "cpu":
        array.numpy()[...] = values
    else:
        array.copy_from(_core.from_numpy(np.ascontiguousarray(values, np.float32)))


def check_number(op: str, name: str, value) -> float:
    """Return a parameter of an op as a float. TypeError in one line, which the core's own message would not be."""
    if type(value) is not float and (isinstance(value, bool) or not isinstance(value, numbers.Real)):
        raise ArgumentTypeError(op, expected=f"{name} a number", got=repr(value))
    return float(value)


def check_integer(op: str, name: str, value) -> int:
    """Return a parameter of an op that counts something as an int; TypeError otherwise."""
    if type(value) is not int and (isinstance(value, bool) or not isinstance(value, numbers.Integral)):
        raise ArgumentTypeError(op, expected=f"{name} an integer", got=repr(value))
    return int(value)
