"""Work beside the updates: preparing the next batch, writing a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

T = TypeVar("T")


class Prefetcher(Generic[T]):
    """Calls a function of 0, 1, 2, ... in a thread, each call while the result of the one before is used."""

    def __init__(self, make: Callable[[int], T], end: int):
        self._make, self._end = make, end
        self._thread = ThreadPoolExecutor(1, "ahead")
        self._next: tuple[int, Future[T]] | None = None

    def __call__(self, step: int) -> T:
        number, future = self._next or (None, None)
        value = future.result() if number == step and future is not None else self._make(step)
        self._next = (step + 1, self._thread.submit(self._make, step + 1)) if step + 1 < self._end else None
        return value

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._thread.shutdown(cancel_futures=True)


class AsyncSaver:
    """Writes one thing at a time while training goes on: `save` copies the arrays and returns; an error is raised by the
    next `save` or by `wait`. `seconds`: how long the last one took, copies included; 0 before there is one."""

    seconds = 0.0

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "saver")
        self._last: Future | None = None

    def save(self, write: Callable[[dict[str, np.ndarray]], object], arrays: dict[str, np.ndarray]) -> None:
        self.wait()
        began = time.monotonic()
        copies = {name: np.array(values) for name, values in arrays.items()}

        def work() -> None:
            write(copies)
            self.seconds = time.monotonic() - began

        self._last = self._thread.submit(work)

    def wait(self) -> None:
        """Wait until everything is written."""
        last, self._last = self._last, None
        if last is not None:
            last.result()

    def __enter__(self):
        return self

    def __exit__(self, kind, *exc):
        try:
            if kind is None:
                self.wait()
        finally:
            self._thread.shutdown()  # what was started is finished, even if training failed
