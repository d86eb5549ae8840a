"""Conversions between the libraries that are compared, so that all get the same values."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from types import ModuleType

import numpy as np

import llmcore


def installed(name: str) -> ModuleType | None:
    """The module, or None: what compares with it is left out."""
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


torch = installed("torch")

DTYPES = ("float32", "bfloat16")


def rounded(*arrays: np.ndarray) -> list[np.ndarray]:
    """float32 arrays whose values bfloat16 holds exactly."""
    return [llmcore.tensor(a, "bfloat16").numpy().astype(np.float32) for a in arrays]


def normal(*shapes: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Standard normal values, rounded as above."""
    rng = np.random.default_rng(seed)
    return rounded(*(rng.standard_normal(s, np.float32) for s in shapes))


def torch_sides(
    make: Callable[[Callable], Callable], function: Callable, compiled: bool = True
) -> Mapping[str, Callable]:
    """{"torch": make(function), "torch compiled": make(compiled function)}; empty without torch."""
    if torch is None:
        return {}
    sides = {"torch": make(function)}
    if compiled:
        sides["torch compiled"] = make(torch.compile(function, dynamic=False))
    return sides


def as_torch(x: np.ndarray, dtype: str, grad: bool = False):
    """A torch tensor of the named dtype."""
    return torch.tensor(x, dtype=getattr(torch, dtype), requires_grad=grad)


def as_llmcore(x: np.ndarray, dtype: str, grad: bool = False) -> llmcore.Tensor:
    """A llmcore tensor of the named dtype."""
    return llmcore.tensor(x, dtype, requires_grad=grad)


def as_numpy(x) -> np.ndarray:
    """float64 from any library's array."""
    if isinstance(x, np.ndarray):
        return x.astype(np.float64)
    if isinstance(x, llmcore._core.Array):
        x = llmcore.Tensor(x)
    if isinstance(x, llmcore.Tensor):
        return x.numpy().astype(np.float64)
    return x.detach().to(torch.float64).numpy()
