"""`llmcore score`: how surprising a model finds a text."""

from __future__ import annotations

import math

from llmcore import terminal
from llmcore.cli import options

# Backgrounds by surprise: at most this many bits -> style.
_STYLES = ((1, "black on bright_green"), (4, "black on bright_cyan"), (8, "black on bright_yellow"))
_MOST = "black on bright_red"


def score(
    text: options.Text,
    model: options.Model = None,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    json: options.Json = False,
) -> None:
    """Show how surprising a model finds each token of a text, in bits.

    A token of probability 1/2 costs 1 bit, one of 1/1024 costs 10. Their sum divided by the bytes of the text is its
    bits per byte: what compressing the text with this model would take.

    \b
    Example: llmcore score "The function returns a list."
    """
    content = options.read_text(text)
    lm = options.load_model(model, quantize=quantize, threads=threads)
    rows = lm.score(content)
    total = {
        "tokens": len(rows),
        "bytes": rows.bytes,
        "bits": rows.bits,
        "bits_per_byte": rows.bits_per_byte,
        "perplexity": rows.perplexity,
    }
    if json:
        scored = [t._asdict() for t in rows]
        options.print_json({**total, "scores": scored})
        return
    out = terminal.console()
    bits = [-logprob / math.log(2) for _, _, logprob in rows]
    pieces = [terminal.token_text(lm.tokenizer.token_bytes(i)) for _, i, _ in rows]
    styles = [next((style for most, style in _STYLES if b <= most), _MOST) for b in bits]
    terminal.print_tokens(out, pieces, [f"{b:.1f}" for b in bits], styles)
    if rows.bytes:
        out.print(
            f"{total['bits']:.1f} bits for {terminal.counted(len(rows), 'token')} and {terminal.counted(rows.bytes, 'byte')}: "
            f"{total['bits_per_byte']:.3f} bits per byte, perplexity {rows.perplexity or math.inf:.1f}",
            style="dim",
        )
