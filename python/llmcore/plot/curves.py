"""Plots loss, learning rate, gradient norm and throughput of runs from their logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.errors import Error
from llmcore.train.log import read_log

LOG = "log.jsonl"


def draw_curves(runs: Sequence[str | os.PathLike], out: str | os.PathLike, smooth: int = 0) -> Path:
    """Plot one run or several in one picture; the suffix of `out` selects the format (.png, .svg, .pdf).

    runs: their directories. smooth: the number of updates that a moving average covers; 0: a fiftieth of the shortest run.
    Held-out losses are points. ValueError, one line, for a run without a log.
    """
    logs = [(Path(run).name or str(run), _log(Path(run))) for run in runs]
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    loss, rate, norm, speed = axes.flat
    window = smooth or max(
        1, min(len(rows) for _, rows in logs) // 50
    )  # the same for all runs, so that they are comparable
    rewarded = all("reward" in r for _, rows in logs for r in rows)
    first = "reward" if rewarded else "train/loss"
    for i, (name, rows) in enumerate(logs):
        colour = f"C{i % 10}"
        _line(loss, rows, first, colour, window, name)
        _line(loss, rows, first, colour, 1, None, alpha=0.2)
        held_out = [(r["step"], r["val/loss"]) for r in rows if "val/loss" in r]
        if held_out and not rewarded:
            loss.plot(*zip(*held_out, strict=True), "o", color=colour, ms=4)
        _line(rate, rows, "lr", colour, 1, name)
        _line(norm, rows, "grad_norm", colour, window, name)
        _line(speed, rows, "tok/s", colour, window, name)
    loss.set_ylabel("reward" if rewarded else "loss (nats per token; points are held out)")
    if any(r.get("grad_norm", 0) > 0 for _, rows in logs for r in rows):
        _logarithmic(norm)
    if not rewarded:
        _logarithmic(loss)
    speed.set_ylim(bottom=0)
    for axis, title in ((rate, "learning rate"), (norm, "gradient norm"), (speed, "tokens per second")):
        axis.set_ylabel(title)
    for axis in axes.flat:
        axis.set_xlabel("update")
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.grid(alpha=0.3)
    loss.legend(fontsize="small")
    return save(figure, out)


def _log(run: Path) -> list[dict[str, Any]]:
    path = run / LOG if run.is_dir() else run
    if not path.is_file():
        raise Error("plot", expected="the directory of a run", got=f"{run}, which has no {LOG}")
    rows = []
    for row in read_log(path):
        numbers = {
            k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and abs(v) < 1e300
        }  # excludes NaN
        if {"step", "train/loss", "lr", "tok/s"} <= numbers.keys():
            rows.append(numbers)
    if not rows:
        raise Error("plot", path, expected="lines of a run's log", got="none")
    return rows


def _line(
    axis: Any, rows: list[dict], key: str, colour: str, window: int, label: str | None, alpha: float = 1.0
) -> None:
    found = [(r["step"], r[key]) for r in rows if key in r]
    window = min(window, len(found))
    if found:
        steps, values = np.array(found, np.float64).T
        places, means = (np.convolve(x, np.ones(window) / window, "valid") for x in (steps, values))
        axis.plot(places, means, color=colour, label=label, alpha=alpha, lw=1.2)


def _logarithmic(axis: Any) -> None:
    """Make the y axis logarithmic with plain numbers; by default, less than a decade has no labels."""
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())


def pyplot() -> Any:
    """Import matplotlib.pyplot with a backend that needs no screen. ValueError if it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise Error("plot", "pictures need matplotlib: pip install 'llmcore[plot]'") from None
    return plt


def save(figure: Any, out: str | os.PathLike) -> Path:
    """Write a figure and close it. ValueError for a suffix that is not a picture format."""
    path = Path(out) if Path(out).suffix else Path(f"{out}.png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (ValueError, OSError) as error:
        raise Error("plot", f"cannot write {path}: {error}") from None
    finally:
        pyplot().close(figure)
    return path
