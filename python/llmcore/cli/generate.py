"""`llmcore generate`: a model continues a text."""

from __future__ import annotations

import os
import sys
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
    model: Annotated[
        list[Path] | None,
        typer.Option(
            "--model",
            "-m",
            metavar="MODEL",
            help="Model directory, .gguf file or pulled name; by default the last one trained or pulled, else ./run or "
            "./demo-model. Several are shown side by side, with the same seed (repeatable).",
        ),
    ] = None,
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
    overflow: Annotated[
        str,
        typer.Option(
            "--overflow",
            metavar="error|trim",
            help="With a prompt beyond the context: refuse it, or trim its beginning.",
        ),
    ] = "error",
    prompt_cache: Annotated[
        Path | None,
        typer.Option(
            "--prompt-cache",
            metavar="FILE",
            help="Keep what is computed of the text in this file, and begin with what it holds.",
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
             llmcore generate "A cat" --model run --model smollm2-135m-instruct
    """
    prompt = options.read_text(text)
    request = dict(sampling or {})
    if request["seed"] is None:
        request["seed"] = int.from_bytes(os.urandom(4), "little")
    request |= {"json_schema": _text(json_schema, "JSON"), "regex": regex, "choices": choice or None}
    request["overflow"] = overflow
    request["grammar"] = _text(f"@{grammar.removeprefix('@')}" if grammar else None, "a grammar")
    request["draft"] = draft if draft in (None, "lookup") else options.load_model(Path(draft), quantize=quantize)
    several = {"n": n, "logprobs": True, "beams": max(beams, n * (beams > 1))}
    several_models = bool(model and len(model) > 1)
    if prompt_cache is not None and (several_models or beams > 1 or overflow != "error"):
        raise UsageError("expected --prompt-cache with one --model, and without --beams and --overflow")
    if model and several_models:
        return _compare(model, prompt, request | several, {"quantize": quantize, "threads": threads}, json)
    lm = options.load_model(model[0] if model else None, quantize=quantize, threads=threads)
    if prompt_cache is not None and prompt_cache.exists():
        lm.load_cache(prompt_cache)
    if not json and beams == 1:
        return _keep(lm, prompt_cache, prompt, _stream(lm, prompt, n, echo, request))
    done = lm.generate(prompt, **several, **request)
    _keep(lm, prompt_cache, prompt, done[0])
    if json:
        return options.print_json({"prompt": prompt, "seed": request["seed"], "completions": _as_json(done)})
    for c in done:
        terminal.write(prompt * echo, bold=True)
        terminal.write(f"{c}\n")
        options.say_notes(c.notes)


def _compare(models: list[Path], prompt: str, request: dict[str, Any], loading: dict[str, Any], json: bool) -> None:
    """Show what several models write, one model in memory at a time: columns on a terminal, else one after the other."""
    found = [(str(path), options.load_model(path, **loading).generate(prompt, **request)) for path in models]
    if json:
        each = [{"model": name, "completions": _as_json(done)} for name, done in found]
        return options.print_json({"prompt": prompt, "seed": request["seed"], "models": each})
    if sys.stdout.isatty():
        out = terminal.console()
        out.print(terminal.harmless(prompt), style="bold", markup=False)
        rows = zip(*([terminal.harmless(str(c)).strip("\n") for c in done] for _, done in found), strict=True)
        return terminal.print_columns(out, [name for name, _ in found], list(rows))
    for name, done in found:
        for c in done:
            terminal.write(f"== {name} ==\n{prompt}{c}\n\n")


def _keep(lm: LanguageModel, file: Path | None, prompt: str, done: Completion) -> None:
    """Write the prompt's cache to a file, unless all of it came from there."""
    if file is not None and (done.cached_tokens < done.prompt_tokens - 1 or not file.exists()):
        lm.save_cache(file, prompt)


def _stream(lm: LanguageModel, prompt: str, n: int, echo: bool, request: dict[str, Any]) -> Completion:
    """Print completions as they are written: one after the other, which gives the same texts as in one batch. Returns the
    first."""
    done: list[Completion] = []
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
        done.append(pieces.completion)
    return done[0]


def _as_json(done: Sequence[Completion]) -> list[dict[str, Any]]:
    names = ("text", "tokens", "logprobs", "finish_reason", "stop_reason", "prompt_tokens", "notes")
    return [{name: getattr(c, name) for name in names} for c in done]


def _text(given: str | None, what: str) -> str | None:
    """Return what is given, or the text of the file in @FILE."""
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"expected {given[1:]} as {what} in UTF-8") from None
