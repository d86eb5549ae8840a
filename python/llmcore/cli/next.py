"""`llmcore next`: what a model thinks comes next."""

from __future__ import annotations

from typing import Annotated

import typer
from typer.core import TyperCommand

from llmcore.cli import options, show


class ManyTemperatures(TyperCommand):
    """Lets one --temperature take several numbers."""

    def parse_args(self, ctx, args):
        spread, taking = [], False
        for i, a in enumerate(args):
            if a == "--":
                spread += args[i:]
                break
            # The first number belongs to the flag as it is; the numbers after it get a flag each.
            if taking and args[i - 1] != "--temperature" and _is_number(a):
                spread.append("--temperature")
            elif not (taking and _is_number(a)):
                taking = a == "--temperature" or a.startswith("--temperature=")
            spread.append(a)
        return super().parse_args(ctx, spread)


def next_tokens(
    text: options.Text,
    model: options.Model = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="How many tokens to show.")] = 10,
    temperature: Annotated[
        list[float] | None,
        typer.Option("--temperature", metavar="T...", help="One number or several, side by side. [default: 1]"),
    ] = None,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    json: options.Json = False,
) -> None:
    """Show the most likely next tokens as bars.

    Several temperatures show how that dial changes them: low ones make the favourite surer, high ones flatten.

    \b
    Example: llmcore next "This is a" --temperature 0.2 0.7 1.5
    """
    prompt = options.read_text(text)
    lm = options.load_model(model)
    columns = {
        t: lm.next_tokens(prompt, k, temperature=t, top_k=top_k, top_p=top_p, min_p=min_p)
        for t in dict.fromkeys(temperature or [1.0])
    }
    if json:
        options.print_json(
            {
                "prompt": prompt,
                "next": [
                    {
                        "temperature": t,
                        "tokens": [{"text": text, "id": i, "probability": p} for text, i, p in rows],
                    }
                    for t, rows in columns.items()
                ],
            }
        )
        return
    out = show.console()
    out.print(f"{prompt} …", style="bold", markup=False)
    show.print_distributions(out, {f"temperature {t:g}": rows for t, rows in columns.items()})


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
