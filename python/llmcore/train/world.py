"""The processes that train one model: `Alone` is one, `llmcore.train.mpi.Processes` several. The loop is the same.

Every process has the model. An update's micro-batches are dealt out; gradients are summed while backward runs, each to the
process that owns the parameter; the owner updates it and sends the new values to all (ZeRO-1, Rajbhandari et al. 2020).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

from llmcore.nn import Parameter

T = TypeVar("T")

# What the launchers of MPI tell the processes they start.
_SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALNRANKS")


class Alone:
    """One process, which owns all parameters."""

    rank, size = 0, 1

    @contextmanager
    def training(self, parameters: Mapping[str, Parameter], killed: str):
        """Around a run that changes these parameters. killed: what is to be said if a process is."""
        yield

    def owned(self, parameters: Mapping[str, Parameter]) -> dict[str, Parameter]:
        """Those that this process updates."""
        return dict(parameters)

    def dealt(self, batches: Sequence[T]) -> Sequence[T]:
        """The micro-batches of this process."""
        return batches

    def agreed(self, value: T) -> T:
        """What the first process says."""
        return value

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, in their order."""
        return list(values)

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
    if any(int(os.environ.get(name) or 1) > 1 for name in _SIZES):
        from llmcore.train.mpi import processes

        return processes()
    return Alone()
