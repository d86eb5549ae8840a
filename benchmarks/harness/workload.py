"""What a workload is: defined once, timed in turns by `compare` and by pytest-benchmark (`benchmarks/conftest.py`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from benchmarks.harness.peers import as_numpy
from support.tolerances import assert_close


class Unavailable(Exception):
    """Raised where a workload is built and something that it needs is not here; says what."""


@dataclass(frozen=True, eq=False)
class Workload:
    """One row of a table: a piece of work that every library does, on inputs that are made when they are needed.

    libraries: all that know how to do it, whether installed or not, llmcore first. build(*shape) makes the inputs.
    small: the largest sizes with which the work is done once, to see that it still works (`smoke`).
    """

    name: str
    dtype: str
    libraries: tuple[str, ...]
    build: Callable[..., Sides]
    shape: tuple[int, ...]
    small: tuple[int, ...]

    @property
    def label(self) -> str:
        return f"{self.name}, {self.dtype}"

    def sides(self, smoke: bool = False) -> Sides:
        """Build the inputs; Unavailable where something is missing."""
        built = self.build(*(map(min, self.shape, self.small) if smoke else self.shape))
        built.dtype = self.dtype
        unknown = built.runs.keys() - set(self.libraries)
        assert not unknown, f"{self.label}: {unknown} not among the workload's libraries"
        return built


@dataclass
class Sides:
    """A workload with its inputs: what each installed library runs, what must come out, and what it costs at least.

    runs: library -> run() -> arrays, in the order of what expected() returns; with `fresh`, library -> prepare() -> run()
    for a single call, and only that call is timed. check(library, what it returned) takes the place of expected().
    flops and traffic (bytes that must move) give the floor. factor: see `tolerances.assert_close`; a number, or one for
    each library that needs its own.
    """

    runs: Mapping[str, Callable[[], Any]]
    expected: Callable[[], list[np.ndarray]] | None = None
    flops: float = 0
    traffic: float = 0
    factor: float | Mapping[str, float] = 1.0
    check: Callable[[str, Any], None] | None = None
    fresh: bool = False
    dtype: str = field(default="", init=False)  # the workload's

    @cached_property
    def reference(self) -> list[np.ndarray]:
        assert self.expected is not None
        return self.expected()

    def ready(self, library: str) -> Callable[[], Any]:
        """Return what can be called once, or, unless `fresh`, any number of times."""
        run = self.runs[library]
        return run() if self.fresh else run

    def verify(self, library: str, got: Any) -> None:
        """Assert that a library returned the right result."""
        if self.check:
            self.check(library, got)
            return
        factor = self.factor
        if isinstance(factor, Mapping):
            factor = factor.get(library, factor.get("llmcore", 1.0))
        for value, wanted in zip(got, self.reference, strict=True):
            assert_close(as_numpy(value), wanted, self.dtype, factor)
