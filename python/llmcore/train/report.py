"""What a person sees while a model trains. The base class is silent; `TerminalReport` draws with rich."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

from llmcore.terminal import Undisturbed, harmless, sparkline
from llmcore.terminal import console as make_console


class Report:
    """Receives what happens in a run; this one shows nothing."""

    @contextmanager
    def running(self, stage: str, start: int, steps: int, flops: float = 0.0, dtype: str = "float32"):
        """Surround the whole run. flops: the operations per token, forward and backward, in dtype; 0 if unknown."""
        yield

    def working(self, what: str):
        """Surround something that may take seconds (reading text, training a tokenizer)."""
        return nullcontext()

    def update(self, row: Mapping[str, float]) -> None:
        """Receive one line of the log."""

    def samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        """Receive (prompt, completion) pairs of the present model."""

    def note(self, text: str) -> None:
        """Receive something worth knowing."""

    def warn(self, text: str) -> None:
        """Receive something that went wrong and was handled."""


def resident_bytes() -> int | None:
    """Return the memory that this process holds, or None if the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class TerminalReport(Report):
    """A progress bar on stderr, which keeps the data that a command prints clean. It shows the loss and its course, the
    rate and its fraction of the processor's peak, memory and the remaining time; samples and held-out figures appear above
    it. If stderr is not a terminal, a line is printed now and then instead of the bar."""

    LINES = 20  # lines printed instead of a bar

    def __init__(self, console=None):

        self.console = console or make_console(Undisturbed(sys.stderr))
        self._bar = self._task = None
        self._rate = None
        self._course: list[float] = []  # the history of the first figure
        self._steps = 0
        self._flops = self._peak = 0.0

    @contextmanager
    def running(self, stage: str, start: int, steps: int, flops: float = 0.0, dtype: str = "float32"):
        self._steps, self._course = steps, []
        if flops:
            from llmcore.bench.machine import peak_flops

            self._flops, self._peak = flops, peak_flops(dtype)
        if not self.console.is_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(compact=True),
        )
        try:
            with Progress(*columns, console=self.console, expand=True) as self._bar:
                self._task = self._bar.add_task(stage, total=steps, completed=start, figures="")
                yield
        finally:
            self._bar = None

    def working(self, what: str):
        return self.console.status(what) if self.console.is_terminal else nullcontext()

    def update(self, row: Mapping[str, float]) -> None:
        # Smoothed, so that the eye can follow; the log has the exact figures.
        loss, rate, step = row["train/loss"], row["tok/s"], row["step"]
        self._rate = rate if self._rate is None else 0.9 * self._rate + 0.1 * rate
        self._course.append(row.get("reward", loss))
        last = self._course[-5:]
        first = f"{'reward' if 'reward' in row else 'loss'} {sum(last) / len(last):.3f}"
        course, memory = sparkline(self._course), resident_bytes()
        figures = f"{first} {course}  {self._rate:,.0f} tok/s"
        if self._peak:
            figures += f" ({self._flops * self._rate / self._peak:.0%} of peak)"
        if memory is not None:
            figures += f"  {memory / 1e9:.1f} GB"
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=figures)
        elif step % max(1, self._steps // self.LINES) == 0:
            self.console.print(f"step {step}/{self._steps}  {figures}")
        if "val/loss" in row:
            bpb = f", {row['val/bpb']:.3f} bits per byte" if "val/bpb" in row else ""
            self.console.print(f"step {step}: held-out loss {row['val/loss']:.3f}{bpb}", style="cyan")

    def samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        from rich.text import Text

        for prompt, text in samples:
            line = Text(f"step {step}: ", style="dim")
            line.append(prompt, style="not dim bold")
            line.append(re.sub(r"\s+", " ", harmless(text)), style="not dim green")
            self.console.print(line)

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False)
