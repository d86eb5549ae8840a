"""Animates how word vectors move while a model learns: related words drift together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.errors import Error
from llmcore.plot.curves import pyplot
from llmcore.train.log import read_log

WORDS = "words.jsonl"


def draw_drift(run: str | os.PathLike, out: str | os.PathLike, seconds: float = 8.0) -> Path:
    """Write an animated GIF of the words that `pretrain --watch` recorded in a run, one colour per group.

    All frames show the plane of the two largest principal components of the last vectors. ValueError, one line, for a run
    that recorded none.
    """
    path = Path(run, WORDS)
    rows = [(r["step"], r["groups"]) for r in read_log(path) if _are_groups(r.get("groups"))]
    rows = [
        (step, groups) for step, groups in rows if _shape(groups) == _shape(rows[-1][1])
    ]  # the words may have changed
    if not rows:
        raise Error("plot", expected="words recorded by `pretrain --watch`", got=f"{path}, which has none")
    if Path(out).suffix.lower() != ".gif":
        raise Error("plot", expected="a file that ends in .gif", got=out)
    groups = [list(g) for g in rows[-1][1]]
    words = [(word, colour) for colour, group in enumerate(groups) for word in group]
    moments = np.array([[groups[c][word] for word, c in words] for _, groups in rows], np.float32)
    plane = projection(moments[-1])
    points = (moments - moments[-1].mean(axis=0)) @ plane  # (moments, words, 2)
    plt = pyplot()
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, axis = plt.subplots(figsize=(6.5, 6.5), constrained_layout=True)
    reach = 1.1 * np.abs(points).max() or 1.0
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    labels = [axis.text(0, 0, word, color=f"C{c % 10}", ha="center", va="center", fontsize=10) for word, c in words]

    def show(moment: int) -> None:
        axis.set_title(f"update {rows[moment][0]:,}")
        for label, point in zip(labels, points[moment], strict=True):
            label.set_position(point)

    still = max(1, len(rows) // 5)  # repeats of the last frame
    frames = [*range(len(rows)), *[len(rows) - 1] * still]
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        FuncAnimation(figure, show, frames).save(
            str(out), PillowWriter(fps=max(1, round(len(frames) / seconds))), dpi=80
        )
    except OSError as error:
        raise Error("plot", f"cannot write {out}: {error}") from None
    finally:
        plt.close(figure)
    return Path(out)


def _are_groups(groups: Any) -> bool:
    """Return whether this is a list of groups of words with finite vectors, all of the same length."""
    if not isinstance(groups, list) or not all(isinstance(g, dict) and g for g in groups):
        return False
    vectors = [v for g in groups for v in g.values()]
    return bool(vectors) and all(
        isinstance(v, list) and len(v) == len(vectors[0]) > 0 and all(isinstance(x, float) and abs(x) < 1e30 for x in v)
        for v in vectors
    )


def _shape(groups: list[dict[str, list[float]]]) -> list[tuple[str, int]]:
    return [(word, len(v)) for g in groups for word, v in g.items()] + [("", len(groups))]


def projection(vectors: np.ndarray) -> np.ndarray:
    """Return the directions (width, 2) in which vectors (N, width) differ most."""
    _, _, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    plane = np.zeros((vectors.shape[1], 2), np.float32)
    plane[:, : min(2, len(directions))] = directions[:2].T
    return plane
