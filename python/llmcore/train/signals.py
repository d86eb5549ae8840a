"""Signals that ask a run to stop: it finishes the update, saves, and ends with 128 + the signal's number.

Ctrl-C sends SIGINT; `kill`, `timeout`, Slurm, containers and a machine that shuts down send SIGTERM; a terminal that is
closed sends SIGHUP. Half an update could not be continued bit for bit, so they wait for the end of one.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from llmcore.train.report import Report

# `timeout` sends SIGTERM to a process and then to its group, and systemd SIGHUP right after SIGTERM: those are one request.
_ONE_REQUEST = 0.2  # seconds


def numbers() -> list[int]:
    """Return the numbers of these signals, as far as the system has them."""
    return [int(getattr(signal, name)) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@contextmanager
def deferred(report: Report) -> Iterator[Callable[[], int]]:
    """Defer these signals to the end of the update. Yields a function that returns the number of the one that came, or 0.

    A second one ends the process at once, without saving. What is ignored (SIGHUP under nohup) stays ignored, handlers of
    SIGTERM and SIGHUP that are not Python's own stay, and so do all outside the main thread, which alone may set them.
    """
    came: list[tuple[int, float]] = []

    def handler(number: int, frame: object) -> None:
        now = time.monotonic()
        if not came:
            came.append((number, now))
            name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
            with suppress(
                OSError, ValueError, RuntimeError
            ):  # the terminal is gone, or this came while it was written to
                report.note(f"{name}: finishing this step, then saving (once more: stop without saving)")
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        elif now - came[0][1] > _ONE_REQUEST:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    before = {}
    for number in numbers():
        present = signal.getsignal(number)
        taken = present is signal.SIG_DFL or (number == signal.SIGINT and present not in (None, signal.SIG_IGN))
        if taken:
            before[number] = signal.signal(number, handler)
    try:
        yield lambda: came[0][0] if came else 0
    finally:
        for number, present in before.items():
            signal.signal(number, present)
