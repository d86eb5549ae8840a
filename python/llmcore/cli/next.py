"""`llmcore next`: what a model expects to come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError
from llmcore.cli.flags import sampling_flags
from llmcore.cli.help import PlainHelp
from llmcore.generate.engine.params import SamplingParams

if TYPE_CHECKING:
    import numpy as np

    from llmcore.generate import LanguageModel
    from llmcore.generate.suggest import Suggestion


class ManyTemperatures(PlainHelp):
    """A command in which one --temperature takes several numbers."""

    def parse_args(self, ctx, args):
        spread, taking = [], False
        for i, a in enumerate(args):
            if a == "--":
                spread += args[i:]
                break
            # The first number belongs to the flag itself; each number after it gets a flag of its own.
            if taking and args[i - 1] != "--temperature" and _is_number(a):
                spread.append("--temperature")
            elif not (taking and _is_number(a)):
                taking = a == "--temperature" or a.startswith("--temperature=")
            spread.append(a)
        return super().parse_args(ctx, spread)


@sampling_flags("top_k", "top_p", "min_p", "typical_p", "xtc_probability", "xtc_threshold")
def next_tokens(
    text: options.Text,
    model: options.Model = None,
    k: Annotated[int, typer.Option("-k", metavar="N", min=1, help="Number of tokens to show.")] = 10,
    temperature: Annotated[
        list[float] | None,
        typer.Option(
            "--temperature", metavar="T...", help="Sampling temperature; several are shown side by side. [default: 1]"
        ),
    ] = None,
    sampling: dict | None = None,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
    words: Annotated[
        bool, typer.Option("--words", help="Show whole words, and complete an unfinished one, as a keyboard does.")
    ] = False,
    trace: Annotated[bool, typer.Option("--trace", help="Show what each stage of sampling keeps.")] = False,
    json: options.Json = False,
) -> None:
    """Show the most likely next tokens as bars.

    Several temperatures show how that dial changes the probabilities: low ones sharpen them, high ones flatten them.
    --trace shows the stages of sampling at one temperature, in the order in which they act.

    \b
    Example: llmcore next "This is a" --temperature 0.2 0.7 1.5
             llmcore next "This is a" --top-k 8 --top-p 0.9 --trace
             llmcore next "I would like to sch" --words -k 3
    """
    prompt = options.read_text(text)
    filters = sampling or {}
    if words and (trace or temperature or any(getattr(SamplingParams, f) != v for f, v in filters.items())):
        raise UsageError("expected --words without --trace, --temperature and filters")
    if trace and len(temperature or [1.0]) > 1:
        raise UsageError("expected one --temperature with --trace, got several")
    lm = options.load_model(model, quantize=quantize, threads=threads)
    if words:
        _show_words(prompt, lm.suggest(prompt, k), json)
        return
    if trace:
        stages = lm.trace_filters(prompt, (temperature or [1.0])[0], **filters)
        _show_stages(lm, prompt, stages, k, json)
        return
    columns = {t: lm.next_tokens(prompt, k, temperature=t, **filters) for t in dict.fromkeys(temperature or [1.0])}
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
    out = terminal.console()
    out.print(f"{prompt} …", style="bold", markup=False)
    terminal.print_distributions(out, {f"temperature {t:g}": rows for t, rows in columns.items()})


def _show_words(prompt: str, found: list[Suggestion], json: bool) -> None:
    if json:
        words = [{"word": word, "probability": p} for word, p in found]
        options.print_json({"prompt": prompt, "words": words})
        return
    out = terminal.console()
    out.print(f"{prompt} …", style="bold", markup=False)
    terminal.print_distributions(out, {"words": [(word, i, p) for i, (word, p) in enumerate(found, 1)]})


def _show_stages(lm: LanguageModel, prompt: str, stages: list[tuple[str, np.ndarray]], k: int, json: bool) -> None:
    order = sorted(range(len(stages[0][1])), key=lambda i: (-stages[0][1][i], i))[:k]
    columns = {name: [(lm.token_text(i), i, float(p[i])) for i in order] for name, p in stages}
    left = {name: int((p > 0).sum()) for name, p in stages}
    if json:
        options.print_json(
            {
                "prompt": prompt,
                "stages": [
                    {
                        "stage": name,
                        "tokens_left": left[name],
                        "tokens": [{"text": text, "id": i, "probability": p} for text, i, p in rows],
                    }
                    for name, rows in columns.items()
                ],
            }
        )
        return
    out = terminal.console()
    out.print(f"{prompt} …", style="bold", markup=False)
    terminal.print_distributions(out, columns)
    steps = ", ".join(f"{left[name]:,} after {name}" if i else f"{left[name]:,} tokens" for i, name in enumerate(left))
    out.print(steps, style="dim", markup=False)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
