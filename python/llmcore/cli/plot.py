"""`llmcore plot`: the curves of runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal


def plot(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Directories of runs.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Output file: .png, .svg or .pdf; with --words .gif. [curves.png]"
        ),
    ] = None,
    words: Annotated[
        bool, typer.Option("--words", help="Animate how the words of `pretrain --watch` moved in one run.")
    ] = False,
    smooth: Annotated[
        int,
        typer.Option("--smooth", metavar="N", min=0, help="Average each point over N updates; 0: a fiftieth of all."),
    ] = 0,
) -> None:
    """Plot the loss, learning rate, gradient norm and throughput of one or more runs.

    \b
    Example: llmcore plot run --out curves.svg
             llmcore plot run --words --out words.gif
    """
    from llmcore.cli.errors import UsageError
    from llmcore.plot import draw_curves, draw_drift

    if words and len(runs) > 1:
        raise UsageError("expected one run with --words, got several")
    if words:
        path = draw_drift(runs[0], out or "words.gif")
    else:
        path = draw_curves(runs, out or "curves.png", smooth)
    terminal.console().print(f"drawn in {path}", markup=False)
