"""How the vectors of words move while a model learns: those that belong together drift together."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from llmcore.plot.curves import pyplot
from llmcore.train.log import read_log

WORDS = "words.jsonl"


def draw_drift(run: str | os.PathLike, out: str | os.PathLike, seconds: float = 8.0) -> Path:
    """An animated GIF of the words that `pretrain --watch` recorded in a run, each group in a colour of its own.

    The plane is that of the two largest principal components of the last vectors, the same for all moments. Raises
    ValueError, one line, for a run that recorded none.
    """
    path = Path(run, WORDS)
    rows = [r for r in read_log(path) if isinstance(r.get("groups"), list)]
    if not rows:
        raise ValueError(f"[plot] expected words recorded by `pretrain --watch`, got {path}, which has none")
    if Path(out).suffix.lower() != ".gif":
        raise ValueError(f"[plot] expected a file that ends in .gif, got {out}")
    groups = [list(g) for g in rows[-1]["groups"]]
    words = [(word, colour) for colour, group in enumerate(groups) for word in group]
    moments = np.array([[row["groups"][c][word] for word, c in words] for row in rows], np.float32)
    plane = projection(moments[-1])
    points = (moments - moments[-1].mean(axis=0)) @ plane  # (moments, words, 2)
    plt = pyplot()
    from matplotlib.animation import FuncAnimation, PillowWriter

    figure, axis = plt.subplots(figsize=(6.5, 6.5), constrained_layout=True)
    reach = 1.1 * np.abs(points).max() or 1.0
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), xticks=[], yticks=[])
    labels = [axis.text(0, 0, word, color=f"C{c % 10}", ha="center", va="center", fontsize=10) for word, c in words]

    def show(moment: int) -> None:
        axis.set_title(f"update {rows[moment]['step']:,}")
        for label, point in zip(labels, points[moment], strict=True):
            label.set_position(point)

    still = max(1, len(rows) // 5)  # the last one stays
    frames = [*range(len(rows)), *[len(rows) - 1] * still]
    try:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        FuncAnimation(figure, show, frames).save(
            str(out), PillowWriter(fps=max(1, round(len(frames) / seconds))), dpi=80
        )
    except OSError as error:
        raise ValueError(f"[plot] cannot write {out}: {error}") from None
    finally:
        plt.close(figure)
    return Path(out)


def projection(vectors: np.ndarray) -> np.ndarray:
    """(width, 2): the directions in which vectors (N, width) differ most."""
    _, _, directions = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    plane = np.zeros((vectors.shape[1], 2), np.float32)
    plane[:, : min(2, len(directions))] = directions[:2].T
    return plane
