"""The libraries that are compared, on equal terms: the same inputs, the same number of threads, results checked."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import llmcore
from environment import THREADS
from tolerances import assert_close

TORCH = ("torch", "torch compiled")


def peer(name: str):
    """The module, or a skip where it is not installed. torch is told the number of threads."""
    module = pytest.importorskip(name, reason=f"{name} is not installed")
    if name == "torch":
        module.set_num_threads(THREADS)
    return module


def torch_call(library: str, function: Callable) -> Callable:
    """function as torch runs it eagerly, or compiled for these shapes."""
    return peer("torch").compile(function, dynamic=False) if library == "torch compiled" else function


def as_torch(x: np.ndarray, dtype: str, grad: bool = False):
    """A torch tensor of the named dtype."""
    torch = peer("torch")
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
    return x.detach().float().numpy().astype(np.float64)


def measure(
    benchmark,
    group: str,
    library: str,
    run: Callable,
    expected: list[np.ndarray],
    dtype: str,
    shape: dict[str, int],
    flops: float = 0,
    traffic: float = 0,
    factor: float = 1.0,
) -> None:
    """Check what run() returns (arrays, in the order of `expected`), then time it.

    flops and traffic (bytes that must move) give the floor in the report. factor: see `tolerances.assert_close`.
    """
    for got, wanted in zip(run(), expected, strict=True):
        assert_close(as_numpy(got), wanted, dtype, factor)
    benchmark.group = group
    benchmark.extra_info.update(
        library=library,
        dtype=dtype,
        shape=shape,
        flops=flops,
        traffic=traffic,
        threads=THREADS,
        isa=llmcore.build_info()["isa"],
        correct=True,
    )
    benchmark(run)
