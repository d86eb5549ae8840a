"""Loss, learning rate, gradient norm and throughput of runs, from their logs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.train.log import read_log

LOG = "log.jsonl"


def draw_curves(runs: Sequence[str | os.PathLike], out: str | os.PathLike, smooth: int = 0) -> Path:
    """Draw one run or several into one picture; the ending of `out` says which kind (.png, .svg, .pdf).

    runs: their directories. smooth: updates that a loss is the mean of; 0: a fiftieth of them all. Held-out losses are
    points. Raises ValueError, one line, for what has no log.
    """
    logs = [(Path(run).name or str(run), _log(Path(run))) for run in runs]
    plt = pyplot()
    figure, axes = plt.subplots(2, 2, figsize=(11, 7), constrained_layout=True)
    loss, rate, norm, speed = axes.flat
    for i, (name, rows) in enumerate(logs):
        colour = f"C{i % 10}"
        first = "reward" if all("reward" in r for r in rows) else "train/loss"
        window = smooth or max(1, len(rows) // 50)
        _line(loss, rows, first, colour, window, name)
        if first == "train/loss":
            _line(loss, rows, first, colour, 1, None, alpha=0.2)
        held_out = [(r["step"], r["val/loss"]) for r in rows if "val/loss" in r]
        if held_out and first == "train/loss":
            loss.plot(*zip(*held_out, strict=True), "o", color=colour, ms=4, label=f"{name}, held out")
        loss.set_ylabel("reward" if first == "reward" else "loss (nats a token)")
        _line(rate, rows, "lr", colour, 1, name)
        _line(norm, rows, "grad_norm", colour, window, name)
        _line(speed, rows, "tok/s", colour, window, name)
    if any(r.get("grad_norm", 0) > 0 for _, rows in logs for r in rows):
        norm.set_yscale("log")
    for axis, title in ((rate, "learning rate"), (norm, "gradient norm"), (speed, "tokens a second")):
        axis.set_ylabel(title)
    for axis in axes.flat:
        axis.set_xlabel("update")
        axis.grid(alpha=0.3)
    loss.legend(fontsize="small")
    return save(figure, out)


def _log(run: Path) -> list[dict[str, Any]]:
    path = run / LOG if run.is_dir() else run
    if not path.is_file():
        raise ValueError(f"[plot] expected the directory of a run, got {run}, which has no {LOG}")
    rows = []
    for row in read_log(path):
        numbers = {k: float(v) for k, v in row.items() if isinstance(v, (int, float)) and abs(v) < 1e300}  # nan is not
        if {"step", "train/loss", "lr", "tok/s"} <= numbers.keys():
            rows.append(numbers)
    if not rows:
        raise ValueError(f"[plot] {path}: expected lines of a run's log, got none")
    return rows


def _line(
    axis: Any, rows: list[dict], key: str, colour: str, window: int, label: str | None, alpha: float = 1.0
) -> None:
    found = [(r["step"], r[key]) for r in rows if key in r]
    window = min(window, len(found))
    if found:
        steps, values = np.array(found, np.float64).T
        means = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(steps[window - 1 :], means, color=colour, label=label, alpha=alpha, lw=1.2)


def pyplot() -> Any:
    """matplotlib.pyplot that needs no screen. ValueError where it is not installed."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise ValueError("[plot] pictures need matplotlib: pip install 'llmcore[plot]'") from None
    return plt


def save(figure: Any, out: str | os.PathLike) -> Path:
    """Write a figure and close it. ValueError for an ending that names no kind of picture."""
    path = Path(out)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)
    except (ValueError, OSError) as error:
        raise ValueError(f"[plot] cannot write {path}: {error}") from None
    finally:
        pyplot().close(figure)
    return path
