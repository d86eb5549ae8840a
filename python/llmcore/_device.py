"""Where arrays live and kernels run: "cpu", or "cuda" where there is an NVIDIA GPU."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

DEVICES = ("cpu", "cuda")
LIBRARY = "libllmcore_cuda.so"  # beside the core, where the build had nvcc

_default: str | None = None  # until somebody sets or asks: LLMCORE_DEVICE, else the CPU
_cuda_ready = False


def device() -> str:
    """Where parameters, caches and arrays from numpy are put when nothing else is said: "cpu" unless `set_device` or the
    environment variable LLMCORE_DEVICE says otherwise."""
    if _default is None:
        set_device(os.environ.get("LLMCORE_DEVICE") or "cpu")
        assert _default is not None
    return _default


def set_device(name: str) -> None:
    """Use "cpu" or "cuda" from now on, where nothing else is said. What exists stays where it is. ValueError for another
    name; RuntimeError says in one line what is missing for "cuda"."""
    global _default
    _default = checked(name)


@contextmanager
def on(name: str | None) -> Iterator[None]:
    """A block in which `device()` is another one; None changes nothing."""
    global _default
    before = device()
    _default = before if name is None else checked(name)
    try:
        yield
    finally:
        _default = before


def checked(name: str) -> str:
    """The name of a device that is there."""
    if name not in DEVICES:
        raise ValueError(f"[device] expected 'cpu' or 'cuda', got {name!r}")
    if name == "cuda":
        cuda_info()
    return name


def cuda_info() -> dict:
    """The GPU: name, capability, multiprocessors, memory and free_memory in bytes, and the versions of driver, runtime and
    cuBLASLt (blas). RuntimeError in one line where there is none."""
    from llmcore import _core  # here: a command's --help knows the devices too

    global _cuda_ready
    if not _cuda_ready:
        library = os.environ.get("LLMCORE_CUDA_LIBRARY") or Path(_core.__file__).with_name(LIBRARY)
        _core.set_cuda_paths(str(library) if Path(library).is_file() else "", ":".join(_blas_paths()))
        _cuda_ready = True
    return _core.cuda_info()


def _blas_paths() -> list[str]:
    """Where libcublasLt may lie: LLMCORE_CUBLASLT, and what NVIDIA's wheels bring (the extra `cuda`)."""
    found = [os.environ["LLMCORE_CUBLASLT"]] if os.environ.get("LLMCORE_CUBLASLT") else []
    spec = importlib.util.find_spec("nvidia")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for part in ("cu13", "cublas"):
            found += sorted(map(str, Path(folder, part, "lib").glob("libcublasLt.so.*")), reverse=True)
    return found
