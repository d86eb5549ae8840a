"""`llmcore generate`: a model continues a text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError
from llmcore.cli.flags import sampling_flags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from llmcore.generate import Completion, LanguageModel


@sampling_flags()
def generate(
    text: options.Text,
    model: options.Model = None,
    sampling: dict[str, Any] | None = None,
    beams: Annotated[
        int, typer.Option("--beams", metavar="N", min=1, help="Beam search with N beams instead of sampling.")
    ] = 1,
    json_schema: Annotated[
        str | None,
        typer.Option("--json-schema", metavar="SCHEMA", help="Write JSON that fits this schema (text, or @FILE)."),
    ] = None,
    regex: Annotated[
        str | None, typer.Option("--regex", metavar="REGEX", help="Write text that matches this expression.")
    ] = None,
    choice: Annotated[
        list[str] | None, typer.Option("--choice", metavar="TEXT", help="Write one of these texts (repeatable).")
    ] = None,
    grammar: Annotated[
        str | None,
        typer.Option("--grammar", metavar="FILE", help="Write text of the grammar in this file (GBNF or Lark)."),
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            metavar="MODEL",
            help="Speculate with a smaller model, or with 'lookup' in the prompt itself: the same text, faster.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Number of completions.")] = 1,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    echo: Annotated[bool, typer.Option("--echo/--no-echo", help="Print the text before its completion.")] = True,
    json: options.Json = False,
) -> None:
    """Let a model continue a text.

    \b
    Example: llmcore generate "The function returns" --max-tokens 60
             llmcore generate "A cat as JSON:" --json-schema '{"type": "object"}'
    """
    prompt = options.read_text(text)
    lm = options.load_model(model, quantize=quantize, threads=threads)
    request = dict(sampling or {})
    if request["seed"] is None:
        request["seed"] = int.from_bytes(os.urandom(4), "little")
    request |= {"json_schema": _text(json_schema, "JSON"), "regex": regex, "choices": choice or None}
    request["grammar"] = _text(f"@{grammar.removeprefix('@')}" if grammar else None, "a grammar")
    request["draft"] = draft if draft in (None, "lookup") else options.load_model(Path(draft), quantize=quantize)
    if not json and beams == 1:
        return _stream(lm, prompt, n, echo, request)
    done = lm.generate(prompt, n=n, logprobs=True, beams=max(beams, n * (beams > 1)), **request)
    if json:
        return _print_json(prompt, request["seed"], done)
    for c in done:
        terminal.write(prompt * echo, bold=True)
        terminal.write(f"{c}\n")
        options.say_notes(c.notes)


def _stream(lm: LanguageModel, prompt: str, n: int, echo: bool, request: dict[str, Any]) -> None:
    """Print completions as they are written: one after the other, which gives the same texts as in one batch."""
    for i in range(n):
        seen: list[Completion] = []
        more = {"seed": request["seed"] + i, "on_token": lambda c, _, seen=seen: seen.append(c)}
        pieces = lm.stream(prompt, **(request | more))
        first = next(pieces, "")  # an error in the request shows before anything is printed
        terminal.write("\n" * (i > 0))
        if echo:
            terminal.write(prompt, bold=True)
        terminal.write(first)
        for piece in pieces:
            terminal.write(piece)
        terminal.write("\n")
        options.say_notes(seen[-1].notes if seen else ())


def _print_json(prompt: str, seed: int, done: Sequence[Completion]) -> None:
    names = ("text", "tokens", "logprobs", "finish_reason", "stop_reason", "prompt_tokens", "notes")
    completions = [{name: getattr(c, name) for name in names} for c in done]
    options.print_json({"prompt": prompt, "seed": seed, "completions": completions})


def _text(given: str | None, what: str) -> str | None:
    """Return what is given, or the text of the file in @FILE."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"expected {given[1:]} as {what} in UTF-8") from None
