"""`llmcore generate`: a model continues a text."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError


def generate(
    text: options.Text,
    model: options.Model = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Tokens to write at most.")] = 128,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 takes the most likely.")] = 0.8,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="The same seed writes the same text.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="Stop before this (repeatable).")
    ] = None,
    repetition_penalty: Annotated[
        float,
        typer.Option("--repetition-penalty", metavar="R", help="Above 1: fewer tokens that were there; 1 is off."),
    ] = 1.0,
    presence_penalty: Annotated[
        float,
        typer.Option("--presence-penalty", metavar="P", help="Taken from the logit of every token written before."),
    ] = 0.0,
    frequency_penalty: Annotated[
        float, typer.Option("--frequency-penalty", metavar="F", help="The same, for each time it was written.")
    ] = 0.0,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option("--logit-bias", metavar="ID=BIAS", help="Added to a token's logit; -inf bans it (repeatable)."),
    ] = None,
    typical_p: Annotated[
        float, typer.Option("--typical-p", metavar="P", help="Keep the least surprising tokens up to mass P; 1 is off.")
    ] = 1.0,
    no_repeat_ngram: Annotated[
        int, typer.Option("--no-repeat-ngram", metavar="N", help="Never write N tokens in a row twice; 0 is off.")
    ] = 0,
    min_tokens: Annotated[int, typer.Option("--min-tokens", metavar="N", help="Do not end before.")] = 0,
    beams: Annotated[
        int, typer.Option("--beams", metavar="N", min=1, help="Search with N beams instead of drawing.")
    ] = 1,
    json_schema: Annotated[
        str | None,
        typer.Option("--json-schema", metavar="SCHEMA", help="Write JSON of this schema (a text, or @FILE)."),
    ] = None,
    regex: Annotated[str | None, typer.Option("--regex", metavar="REGEX", help="Write what matches this.")] = None,
    choice: Annotated[
        list[str] | None, typer.Option("--choice", metavar="TEXT", help="Write one of these (repeatable).")
    ] = None,
    draft: Annotated[
        str | None,
        typer.Option(
            "--draft",
            metavar="MODEL",
            help="A smaller model that guesses ahead, or 'lookup' for the prompt's own words: the same text, sooner.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many completions.")] = 1,
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
    biases = dict(_bias(b) for b in logit_bias or ())
    prompt = options.read_text(text)
    lm = options.load_model(model, quantize=quantize, threads=threads)
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    sampling = {
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
        "stop": stop or (),
        "repetition_penalty": repetition_penalty,
        "presence_penalty": presence_penalty,
        "frequency_penalty": frequency_penalty,
        "logit_bias": biases,
        "typical_p": typical_p,
        "no_repeat_ngram": no_repeat_ngram,
        "min_tokens": min_tokens,
        "json_schema": _schema(json_schema),
        "regex": regex,
        "choices": choice or None,
        "draft": draft if draft in (None, "lookup") else options.load_model(Path(draft), quantize=quantize),
    }
    if json or beams > 1:
        done = lm.generate(
            prompt, max_tokens, n=n, seed=seed, logprobs=True, beams=max(beams, n * (beams > 1)), **sampling
        )
    if json:
        options.print_json(
            {
                "prompt": prompt,
                "seed": seed,
                "completions": [
                    {
                        "text": c.text,
                        "tokens": c.tokens,
                        "logprobs": c.logprobs,
                        "finish_reason": c.finish_reason,
                        "prompt_tokens": c.prompt_tokens,
                    }
                    for c in done
                ],
            }
        )
        return
    if beams > 1:
        for c in done:
            terminal.write(prompt * echo, bold=True)
            terminal.write(f"{c}\n")
        return
    # Several completions are written one after the other, which gives the same texts as in one batch.
    for i in range(n):
        pieces = lm.stream(prompt, max_tokens, seed=seed + i, **sampling)
        first = next(pieces, "")  # what is wrong with the request shows before anything is printed
        terminal.write("\n" * (i > 0))
        if echo:
            terminal.write(prompt, bold=True)
        terminal.write(first)
        for piece in pieces:
            terminal.write(piece)
        terminal.write("\n")


def _schema(given: str | None) -> str | None:
    if given is None or not given.startswith("@"):
        return given
    try:
        return Path(given[1:]).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"expected {given[1:]} as JSON in UTF-8") from None


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError(f"expected --logit-bias ID=BIAS, got {text}") from None
