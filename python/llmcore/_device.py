"""Where arrays live and kernels run: "cpu", or "cuda" where there is an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmcore.errors import DeviceError, Error

DEVICES = ("cpu", "cuda")
VARIABLE = "LLMCORE_DEVICE"
LIBRARY = "libllmcore_cuda.so"  # beside the core, where the build made it

_default: str | None = None  # until somebody sets or asks: LLMCORE_DEVICE, else the CPU
_cuda_ready = False


def device() -> str:
    """Return where parameters, caches and arrays from numpy are put by default: "cpu" unless `set_device` or the environment
    variable LLMCORE_DEVICE says otherwise. ValueError for a variable that names no device, DeviceError for one that is
    not available."""
    global _default
    if _default is None:
        name = named(os.environ.get(VARIABLE) or "cpu", VARIABLE)
        try:
            _default = checked(name)
        except DeviceError as error:
            raise DeviceError("cuda", f"{VARIABLE}={name}, but {error.message}") from None
    return _default


def set_device(name: str) -> None:
    """Use "cpu" or "cuda" from now on, by default. What exists stays where it is. ValueError for another name;
    DeviceError says what is missing for "cuda"."""
    global _default
    _default = checked(name)


@contextmanager
def on(name: str | None) -> Iterator[None]:
    """Run a block in which `device()` is another one; None changes nothing."""
    global _default
    # Where a name is given, LLMCORE_DEVICE counts for nothing and may say anything.
    before = device() if name is None else _default
    _default = before if name is None else checked(name)
    try:
        yield
    finally:
        _default = before


def named(name: str, source: str = "") -> str:
    """Return the device that a name means, available or not: "cpu" or "cuda", which is also "cuda:0". ValueError for another
    name, with its source if there is one."""
    if name in DEVICES:
        return name
    if name == "cuda:0":
        return "cuda"
    where = f"{source} " if source else ""
    if isinstance(name, str) and re.fullmatch(r"cuda:\d+", name):
        raise Error("device", expected=f"{where}'cuda', as one GPU is used, the first", got=repr(name))
    raise Error("device", expected=f"{where}'cpu' or 'cuda'", got=f"{name!r:.100}")


def checked(name: str) -> str:
    """Return the device that a name means, which must be available."""
    name = named(name)
    if name == "cuda":
        cuda_info()
    return name


def cuda_info() -> dict:
    """Describe the GPU: name, capability, multiprocessors, memory and free_memory in bytes, and the versions of driver, runtime and
    cuBLASLt (blas). DeviceError where there is none."""
    from llmcore import _core  # here: a command's --help knows the devices too

    global _cuda_ready
    if not _cuda_ready:
        library = os.environ.get("LLMCORE_CUDA_LIBRARY") or Path(_core.__file__).with_name(LIBRARY)
        _core.set_cuda_paths(str(library) if Path(library).is_file() else "", ":".join(_blas_paths()))
        _cuda_ready = True
    try:
        return _core.cuda_info()
    except RuntimeError as error:
        raise DeviceError("cuda", Error.of(error).message) from None


def _blas_paths() -> list[str]:
    """Return where libcublasLt may be: LLMCORE_CUBLASLT, and what NVIDIA's wheels bring (the extra `cuda`)."""
    found = [os.environ["LLMCORE_CUBLASLT"]] if os.environ.get("LLMCORE_CUBLASLT") else []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for part in ("cu13", "cublas"):
            found += sorted(map(str, Path(folder, part, "lib").glob("libcublasLt.so.*")), reverse=True)
    return found
