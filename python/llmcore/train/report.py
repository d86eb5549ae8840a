"""What a person sees while a model trains. The base class is silent; `TerminalReport` draws with rich."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

from llmcore.terminal import Undisturbed, harmless, sparkline
from llmcore.terminal import console as make_console

_NARROW = 60  # cells, below which a progress line does without the name of the stage


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


def fitting(figures: Sequence[tuple[int, str]], room: int) -> str:
    """Return those of the figures (rank, text), in their order, that fit into so many cells: the first ranks, as far as they go."""
    kept: list[int] = []
    for i in sorted(range(len(figures)), key=lambda i: figures[i][0]):
        if figures[i][1]:
            kept.append(i)
            if sum(len(figures[k][1]) + 1 for k in kept) - 1 > room:
                kept.pop()
                break
    return " ".join(figures[i][1] for i in sorted(kept))


class TerminalReport(Report):
    """A progress bar on stderr, which keeps the data that a command prints clean. It shows the loss and its course, the
    rate and its fraction of the processor's peak, memory and the remaining time; samples and held-out figures appear above
    it. A narrow terminal shows fewer figures: the bar, the step and the remaining time stay. If stderr is not a terminal
    that can show a bar, a line is printed now and then."""

    LINES = 20  # lines printed instead of a bar
    PAUSE = 60.0  # seconds after which there is a line anyway

    def __init__(self, console=None):
        self.console = console or make_console(Undisturbed(sys.stderr))
        self._bar = self._task = None
        self._rate = None
        self._course: list[float] = []  # the history of the first figure
        self._stage, self._start, self._steps = "", 0, 0
        self._began = self._said = 0.0
        self._flops = self._peak = 0.0

    @contextmanager
    def running(self, stage: str, start: int, steps: int, flops: float = 0.0, dtype: str = "float32"):
        self._stage, self._start, self._steps, self._course = stage, start, steps, []
        self._began = self._said = time.monotonic()
        if flops:
            from llmcore.bench.machine import peak_flops

            self._flops, self._peak = flops, peak_flops(dtype)
        if not self.console.is_terminal or self.console.is_dumb_terminal:
            yield
            return
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            *([TextColumn("[bold]{task.description}")] if self._shows_stage() else ()),
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
        memory, now = resident_bytes(), time.monotonic()
        # As they stand in the line, each with how much it matters.
        figures = [(0, first), (2, sparkline(self._course)), (1, f"{self._rate:,.0f} tok/s")]
        if self._peak:
            figures.append((4, f"({self._flops * self._rate / self._peak:.0%} of peak)"))
        if memory is not None:
            figures.append((3, f"{memory / 1e9:.1f} GB"))
        if self._bar is not None:
            self._bar.update(self._task, completed=step, figures=fitting(figures, self._room()))
        elif step % max(1, self._steps // self.LINES) == 0 or now - self._said >= self.PAUSE:
            self._said = now
            seconds = (now - self._began) / max(1, step - self._start) * (self._steps - step)
            said = " ".join(text for _, text in figures if text)
            left = f"  {timedelta(seconds=round(seconds))} left" if step < self._steps else ""
            self.console.print(f"step {step}/{self._steps}  {said}{left}", soft_wrap=True)
        if "val/loss" in row:
            bpb = f", {row['val/bpb']:.3f} bits per byte" if "val/bpb" in row else ""
            self.console.print(f"step {step}: held-out loss {row['val/loss']:.3f}{bpb}", style="cyan")

    def _shows_stage(self) -> bool:
        return self.console.width >= _NARROW

    def _room(self) -> int:
        """Return how many cells are left for figures beside the bar, the step, the remaining time and the blanks between."""
        width = self.console.width
        stage = len(self._stage) + 1 if self._shows_stage() else 0
        return width - stage - (2 * len(str(self._steps)) + 2) - (len("0:00:00") + 1) - (max(5, width // 8) + 1) - 1

    def samples(self, step: int, samples: Sequence[tuple[str, str]]) -> None:
        from rich.text import Text

        for prompt, text in samples:
            line = Text(f"step {step}: ", style="dim")
            line.append(prompt, style="not dim bold")
            line.append(re.sub(r"\s+", " ", harmless(text)), style="not dim green")
            self.console.print(line, soft_wrap=not self.console.is_terminal)

    def note(self, text: str) -> None:
        self.console.print(text, style="dim", markup=False, soft_wrap=not self.console.is_terminal)

    def warn(self, text: str) -> None:
        self.console.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=not self.console.is_terminal)
