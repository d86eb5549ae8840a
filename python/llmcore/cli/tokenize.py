"""`llmcore tokenize`: a text cut into tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore.cli import options, show
from llmcore.cli.errors import UsageError


def tokenize(
    text: Annotated[str | None, typer.Argument(metavar="TEXT", help="A text, or - for standard input.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", metavar="FILE", help="Take the text of a file.")] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            "--tokenizer",
            "-t",
            metavar="PATH",
            help="A tokenizer.json or a directory with one; by default that of the model made last.",
        ),
    ] = None,
    count: Annotated[bool, typer.Option("--count", help="Print only how many tokens it is.")] = False,
    json: options.Json = False,
) -> None:
    """Cut a text into tokens and show their ids.

    Spaces are shown as ␣, line ends as ⏎.

    \b
    Example: llmcore tokenize "I love pizza!"
    """
    from llmcore.tokenizer import Tokenizer

    data = _content(text, file)
    tok = Tokenizer.load(options.model_directory(None) if tokenizer is None else tokenizer)
    ids = tok.encode_ordinary(data)
    if json:
        known = {i: tok.token_bytes(i).decode("utf-8", "backslashreplace") for i in set(ids)}
        result: dict[str, object] = {"count": len(ids), "bytes": len(data)}
        if not count:
            result |= {"ids": ids, "tokens": [known[i] for i in ids]}
        options.print_json(result)
    elif count:
        print(len(ids))
    else:
        out = show.console()
        show.print_tokens(out, [show.token_text(tok.token_bytes(i)) for i in ids], [str(i) for i in ids])
        each = f", {len(data) / len(ids):.2f} bytes a token" if ids else ""
        out.print(f"{len(ids)} tokens for {len(data)} bytes{each}", style="dim")


def _content(text: str | None, file: Path | None) -> bytes:
    if text is not None and file is not None:
        raise UsageError("expected a TEXT or --file FILE, got both")
    if file is not None:
        return file.read_bytes()
    if text is None:
        raise UsageError("expected a TEXT or --file FILE, got neither")
    return options.read_text(text).encode("utf-8", "surrogatepass")
