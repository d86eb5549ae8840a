"""Conversions between the libraries that are compared, so that all get the same values."""

from __future__ import annotations

import importlib
import importlib.util
import warnings
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

import llmcore


def installed(name: str) -> ModuleType | None:
    """Return the module, or None: what compares with it is left out."""
    if importlib.util.find_spec(name) is None:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own
        return importlib.import_module(name)


def missing(library: str) -> str | None:
    """Say what a library ("torch compiled", "llmcore, one thread") lacks here; its first word is a module."""
    module = library.split()[0].rstrip(",")
    return None if importlib.util.find_spec(module) else f"{module} is not installed"


torch = installed("torch")
TORCH = ("torch", "torch compiled")

DTYPES = ("float32", "bfloat16")


def rounded(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return float32 arrays whose values bfloat16 holds exactly."""
    return [llmcore.tensor(a, "bfloat16").numpy().astype(np.float32) for a in arrays]


def normal(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Return standard normal values, rounded as above."""
    rng = np.random.default_rng(seed)
    return rounded(*(rng.standard_normal(s, np.float32) for s in shapes))


def size_of(dtype: str) -> int:
    """Return the bytes of one number."""
    return 2 if dtype == "bfloat16" else 4


def torch_sides(make: Callable[[Callable], Callable], function: Callable) -> Mapping[str, Callable]:
    """Return {"torch": make(function), "torch compiled": make(compiled function)}; empty without torch."""
    if torch is None:
        return {}
    return {"torch": make(function), "torch compiled": make(torch.compile(function, dynamic=False))}


def as_torch(x: np.ndarray, dtype: str, grad: bool = False):
    """Return a torch tensor of the named dtype."""
    return torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=grad)


def as_llmcore(x: np.ndarray, dtype: str, grad: bool = False) -> llmcore.Tensor:
    """Return an llmcore tensor of the named dtype."""
    return llmcore.tensor(x, dtype, requires_grad=grad)


def as_numpy(x) -> np.ndarray:
    """Return float64 from any library's array."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64)
    if isinstance(x, llmcore._core.Array):
        x = llmcore.Tensor(x)
    if isinstance(x, llmcore.Tensor):
        return x.numpy().astype(np.float64)
    return x.detach().to(torch.float64).numpy()
