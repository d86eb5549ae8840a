"""The processes that train one model: `Alone` is one, `llmcore.train.distributed.mpi.Processes` several. The loop is the same.

Every process has the model. An update's micro-batches are dealt out; gradients are summed while backward runs, each to the
process that owns the parameter; the owner updates it and sends the new values to all (ZeRO-1, Rajbhandari et al. 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # the command line asks here whether it is alone, before it has loaded anything
    import numpy as np

    from llmcore.nn import Parameter

T = TypeVar("T")

# What the launchers of MPI tell the processes they start.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


class Alone:
    """One process, which owns all parameters."""

    rank, size = 0, 1
    threads = None  # as many as are set

    @contextmanager
    def training(self, parameters: Mapping[str, Parameter], killed: str):
        """Around a run that changes these parameters. killed: what is to be said if a process is."""
        yield

    def owned(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Those that this process updates."""
        return dict(parameters)

    def check_same(self, what: Mapping[str, Any]) -> None:
        """ValueError where processes would not do the same."""

    def dealt(self, batches: Sequence[T]) -> tuple[int, Sequence[T]]:
        """The micro-batches of this process, and the number of the first among all."""
        return 0, batches

    def agreed(self, value: T) -> T:
        """What the first process says."""
        return value

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, in their order."""
        return list(values)

    def mean(self, figures: Mapping[str, float]) -> dict[str, float]:
        """Of figures of all processes, in the first one."""
        return dict(figures)

    def take_over(self, parameters: Mapping[str, Parameter]) -> None:
        """The values that the first process has."""

    def wait(self) -> None:
        """Until all processes are here."""

    def gradient(self, parameter: Parameter) -> None:
        """The gradient is complete here."""

    def summed(self) -> None:
        """Until the gradients of what this process owns are those of all processes."""

    def updated(self, name: str) -> None:
        """A parameter has its new values here."""

    def spread(self) -> None:
        """Until all parameters have their new values everywhere."""

    def gathered(self, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Of all processes, in the first one."""
        return arrays

    def figures(self) -> dict[str, float]:
        """What the log is to hold of the last update."""
        return {}


def world() -> Any:
    """Of this process: several if it was started by mpiexec."""
    if several():
        from llmcore.train.distributed.mpi import processes

        return processes()
    return Alone()


def several() -> bool:
    """Whether this process was started as one of several."""
    sizes = [os.environ.get(name, "") for name in _SIZES]
    return any(size.isdecimal() and int(size) > 1 for size in sizes)
