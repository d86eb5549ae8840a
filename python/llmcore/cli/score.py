"""`llmcore score`: how surprising a model finds a text."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options

# Backgrounds by surprise: at most this many bits -> style.
_STYLES = ((1, "black on bright_green"), (4, "black on bright_cyan"), (8, "black on bright_yellow"))
_MOST = "black on bright_red"


class Unit(str, Enum):
    bits = "bits"
    nats = "nats"
    probability = "probability"


# Of a log-probability in nats.
_VALUES: dict[Unit, Callable[[float], float]] = {
    Unit.bits: lambda p: -p / math.log(2),
    Unit.nats: lambda p: -p,
    Unit.probability: math.exp,
}


def score(
    text: options.Text,
    model: options.Model = None,
    words: Annotated[bool, typer.Option("--words", help="Score whole words: sums over their tokens.")] = False,
    sort: Annotated[bool, typer.Option("--sort", help="List the most surprising first.")] = False,
    unit: Annotated[Unit, typer.Option("--unit", help="bits, nats or probability.")] = Unit.bits,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Show how surprising a model finds each token or word of a text.

    A token of probability 1/2 costs 1 bit, one of 1/1024 costs 10. Their sum divided by the bytes of the text is its
    bits per byte: what compressing the text with this model would take.

    \b
    Example: llmcore score "The function returns a list."
             llmcore score "The function returns a list." --words --sort
             llmcore score "The function returns a list." --unit probability
    """
    content = options.read_text(text)
    lm = options.load_model(model, quantize=quantize, threads=threads)
    scored = lm.score(content)
    rows = list(scored.words() if words else scored)
    pieces = [w.text.encode() for w in rows] if words else scored.pieces
    order = sorted(range(len(rows)), key=lambda i: rows[i].logprob) if sort else range(len(rows))
    values = [_VALUES[unit](row.logprob) for row in rows]
    total = {
        "tokens": len(scored),
        "bytes": scored.bytes,
        "bits": scored.bits,
        "bits_per_byte": scored.bits_per_byte,
        "perplexity": scored.perplexity,
    }
    if json:
        each = [{**rows[i]._asdict(), unit.value: values[i]} for i in order]
        options.print_json({**total, "words" if words else "scores": each})
        return
    out = terminal.console()
    texts = [terminal.token_text(piece) for piece in pieces]
    shown = [_shown(value, unit) for value in values]
    if sort:
        terminal.print_pairs(out, [(shown[i], texts[i]) for i in order])
    else:
        bits = [_VALUES[Unit.bits](row.logprob) / getattr(row, "tokens", 1) for row in rows]
        styles = [next((style for most, style in _STYLES if b <= most), _MOST) for b in bits]
        terminal.print_tokens(out, texts, shown, styles)
    if scored.bytes:
        out.print(
            f"{total['bits']:.1f} bits for {terminal.counted(len(scored), 'token')} and "
            f"{terminal.counted(scored.bytes, 'byte')}: {total['bits_per_byte']:.3f} bits per byte, "
            f"perplexity {scored.perplexity or math.inf:.1f}",
            style="dim",
        )


def _shown(value: float, unit: Unit) -> str:
    if unit is not Unit.probability:
        return f"{value:.1f}" if unit is Unit.bits else f"{value:.2f}"
    return f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"
