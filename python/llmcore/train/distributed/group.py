"""The processes that train one model: `SingleProcess`, or `llmcore.train.distributed.mpi.MPIGroup` for several. The loop is
the same for both.

Every process holds the whole model. The micro-batches of an update are sharded. While backward runs, gradients are reduced,
each to the process that owns its parameter; the owner updates the parameter and broadcasts the new values (ZeRO-1,
Rajbhandari et al. 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:  # the command line asks `is_distributed` before it has loaded anything
    import numpy as np

    from llmcore._tensor import Tensor
    from llmcore.nn import Parameter

T = TypeVar("T")

# Environment variables in which the launchers of MPI pass the number of processes.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


class ProcessGroup(Protocol):
    """All processes of a run, as seen by one of them."""

    rank: int
    size: int
    threads: int | None  # threads for each process; None: as many as are set

    def training(self, parameters: Mapping[str, Parameter]) -> AbstractContextManager[None]:
        """Surround a run that changes these parameters."""
        ...

    def owned(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Return the parameters that this process updates."""
        ...

    def check_same(self, what: Mapping[str, Any]) -> None:
        """Raise ValueError unless all processes give the same values."""
        ...

    def shard(self, batches: Sequence[T]) -> tuple[int, Sequence[T]]:
        """Return the index of this process's first micro-batch, and its micro-batches."""
        ...

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0, which JSON must be able to hold."""
        ...

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, added in the order of their ranks."""
        ...

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Return the means over all processes of the figures that rank 0 has."""
        ...

    def broadcast_parameters(self, parameters: Mapping[str, Parameter]) -> None:
        """Broadcast the parameters of rank 0."""
        ...

    def barrier(self) -> None:
        """Wait until all processes are here."""
        ...

    def on_gradient(self, parameter: Tensor) -> None:
        """Take note that this process's gradient of a parameter is complete: its reduction can start."""
        ...

    def finish_reduce(self) -> None:
        """Wait until the gradients of the parameters that this process owns have been reduced."""
        ...

    def on_updated(self, name: str) -> None:
        """Take note that a parameter has its new values: their broadcast can start."""
        ...

    def finish_broadcast(self) -> None:
        """Wait until every process has the new values of all parameters."""
        ...

    def gather(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return, on rank 0, the arrays of all processes together."""
        ...

    def figures(self) -> dict[str, float]:
        """Return what the log records about the communication of the last update."""
        ...


class SingleProcess:
    """One process, which owns all parameters."""

    rank: int = 0
    size: int = 1
    threads: int | None = None

    def training(self, parameters: Mapping[str, Parameter]) -> AbstractContextManager[None]:
        return nullcontext()

    def owned(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        return dict(parameters)

    def check_same(self, what: Mapping[str, Any]) -> None:
        pass

    def shard(self, batches: Sequence[T]) -> tuple[int, Sequence[T]]:
        return 0, batches

    def broadcast(self, value: T) -> T:
        return value

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        return list(values)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        return dict(figures)

    def broadcast_parameters(self, parameters: Mapping[str, Parameter]) -> None:
        pass

    def barrier(self) -> None:
        pass

    def on_gradient(self, parameter: Tensor) -> None:
        pass

    def finish_reduce(self) -> None:
        pass

    def on_updated(self, name: str) -> None:
        pass

    def finish_broadcast(self) -> None:
        pass

    def gather(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return arrays

    def figures(self) -> dict[str, float]:
        return {}


def process_group() -> ProcessGroup:
    """Return the group that this process belongs to: one of several processes if mpiexec started it."""
    if is_distributed():
        from llmcore.train.distributed.mpi import mpi_group

        return mpi_group()
    return SingleProcess()


def is_distributed() -> bool:
    """Return whether this process was started as one of several."""
    sizes = [os.environ.get(name, "") for name in _SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)
