"""`llmcore embed`: texts as vectors, and the words near a word."""

from __future__ import annotations

import sys
from enum import Enum
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError


class Pooling(str, Enum):
    mean = "mean"
    last = "last"


def embed(
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts; - for the lines of standard input.")
    ] = None,
    model: options.Model = None,
    pooling: Annotated[
        Pooling, typer.Option("--pooling", help="Pool by the mean over tokens, or take the last one.")
    ] = Pooling.mean,
    nearest: Annotated[
        str | None, typer.Option("--nearest", metavar="WORD", help="Show the tokens nearest to a word.")
    ] = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of nearest tokens to show.")] = 10,
    json: options.Json = False,
) -> None:
    """Compare texts by their vectors, or find words near a word.

    Prints the cosine similarity of every two texts: 1 means the same direction. --json prints the vectors.

    \b
    Example: llmcore embed "a cat" "a kitten" "a tax form"
    """
    if nearest is None and not texts:
        raise UsageError("expected texts to compare, or --nearest WORD")
    lines = [line for text in texts or () for line in (sys.stdin.read().splitlines() if text == "-" else [text])]
    lm = options.load_model(model)
    if nearest is not None:
        found = lm.nearest(nearest, k)
        if json:
            options.print_json([{"text": text, "id": i, "cosine": cosine} for text, i, cosine in found])
            return
        rows = [(terminal.token_text(text.encode()), f"{cosine:.3f}") for text, _, cosine in found]
        terminal.print_pairs(terminal.console(), rows, f"nearest to {nearest!r}")
        return
    vectors = lm.embed(lines, pooling.value)
    if json:
        options.print_json(
            [{"text": t, "embedding": [float(x) for x in v]} for t, v in zip(lines, vectors, strict=True)]
        )
        return
    terminal.print_similarities(terminal.console(), lines, vectors @ vectors.T)
