"""`llmcore generate`: a model continues a text."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from llmcore.cli import options, show
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
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="How many completions.")] = 1,
    echo: Annotated[bool, typer.Option("--echo/--no-echo", help="Print the text before its completion.")] = True,
    json: options.Json = False,
) -> None:
    """Let a model continue a text.

    \b
    Example: llmcore generate "The function returns" --max-tokens 60
    """
    biases = dict(_bias(b) for b in logit_bias or ())
    prompt = options.read_text(text)
    lm = options.load_model(model)
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
    }
    if json:
        done = lm.generate([prompt] * n, max_tokens, seed=seed, logprobs=True, **sampling)
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
    # Several completions are written one after the other, which gives the same texts as in one batch.
    for i in range(n):
        pieces = lm.stream(prompt, max_tokens, seed=seed + i, **sampling)
        first = next(pieces, "")  # what is wrong with the request shows before anything is printed
        show.write("\n" * (i > 0))
        if echo:
            show.write(prompt, bold=True)
        show.write(first)
        for piece in pieces:
            show.write(piece)
        show.write("\n")


def _bias(text: str) -> tuple[int, float]:
    token, _, bias = text.partition("=")
    try:
        return int(token), float(bias)
    except ValueError:
        raise UsageError(f"expected --logit-bias ID=BIAS, got {text}") from None
