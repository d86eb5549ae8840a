"""What this build can do and how many threads it uses."""

from __future__ import annotations

import platform

from llmcore import _core
from llmcore._device import cuda_info, device
from llmcore._version import __version__
from llmcore.errors import ArgumentTypeError, DeviceError, Error


def num_threads() -> int:
    """Return how many threads the kernels use: by default what the affinity mask and the cgroup quota allow."""
    return _core.num_threads()


def set_num_threads(n: int) -> None:
    """Use n threads (1 to 1024) from now on. Results do not depend on it."""
    if not isinstance(n, int) or isinstance(n, bool):
        raise ArgumentTypeError("set_num_threads", expected="an integer", got=repr(n))
    if not 1 <= n <= 1024:
        raise Error("set_num_threads", expected="1 <= n <= 1024", got=n)
    _core.set_num_threads(n)


def build_info() -> dict:
    """Describe the build: version, instruction sets (compiled, supported here, in use), threads, default device (or what is wrong with
    LLMCORE_DEVICE, which stops nothing here) and compute dtype, and the GPU or why it cannot be used."""
    isas = _core.compiled_isas()
    try:
        where = default = device()
    except Error as error:
        where, default = "cpu", error.message
    return {
        "version": __version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "isa": _core.current_isa(),
        "isas_compiled": [name for name, _ in isas],
        "isas_supported": [name for name, supported in isas if supported],
        "threads": _core.num_threads(),
        "device": default,
        "dtype": _fast_dtype(where),
        "cuda": _cuda(),
    }


def _cuda() -> dict | str:
    """Describe the GPU, or say why it cannot be used."""
    try:
        return cuda_info()
    except DeviceError as error:
        return error.message


def default_dtype() -> str:
    """Return bfloat16 where the device has dot products for it, else float32."""
    return _fast_dtype(device())


def _fast_dtype(where: str) -> str:
    return "bfloat16" if _core.fast_bf16(where) else "float32"
