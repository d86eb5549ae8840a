"""`llmcore demo`: a model's whole life in a few minutes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.errors import Error

# The fraction of the time for each stage; the rest is for measuring and showing.
SHARES = {"pretrain": 0.5, "sft": 0.17, "dpo": 0.09, "grpo": 0.09}


def demo(
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Directory for the models; that of an earlier demo is replaced.")
    ] = Path("demo-model"),
    minutes: Annotated[float, typer.Option(metavar="M", help="Total time, roughly.")] = 5.0,
    quick: Annotated[bool, typer.Option("--quick", help="Finish within a minute; the model learns little.")] = False,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of weights, batches and samples.")] = 0,
    steps: Annotated[
        int | None,
        typer.Option(metavar="N", help="Maximum number of updates per stage; by default as many as the time allows."),
    ] = None,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Number of threads; by default all.")] = None,
) -> None:
    """Take a language model through its whole life on the documentation inside your Python: tokens, pretraining,
    fine-tuning, preferences and rewards, with its answers after every stage, and a page that shows all of it, report.html.

    Nothing is downloaded. It takes about five minutes on two cores.

    \b
    Example: llmcore demo
             llmcore demo --quick
    """
    if quick:
        minutes = min(minutes, 0.8)
    if minutes <= 0:
        raise Error("demo", expected="minutes > 0", got=f"{minutes:g}")
    from llmcore import data, runtime
    from llmcore.demo import base, page
    from llmcore.demo.second_half import SecondHalf

    console = terminal.console()
    config = base.settings(out, SHARES["pretrain"] * minutes, seed, threads)
    base.check_out(out)
    if threads is not None:
        runtime.set_num_threads(threads)
    with console.status("reading the documentation of this Python"):
        corpus = data.read_corpus("python-docs")
    tokenizer = base.tokens(console, corpus)
    with console.status("timing a few steps"):
        config = base.plan(config, corpus, tokenizer, steps)
    lm, bpb, seconds = base.training(console, config, corpus, tokenizer)
    base.compression(console, corpus, bpb, quick)
    base.writing(console, lm, seed)
    rates = [json.loads(line)["tok/s"] for line in (out / "log.jsonl").read_text().splitlines()]
    half = SecondHalf(
        console,
        out,
        sorted(rates)[len(rates) // 2],
        {stage: 60 * minutes * share for stage, share in SHARES.items()},
        seed,
        threads,
        steps,
        questions=20 if quick else 100,
    )
    half.run(lm)
    with console.status("drawing"):
        written = page.write(out, lm, half.figures)
    options.remember_model(out)
    console.print()
    console.print(f"Everything in pictures: {written}", markup=False, soft_wrap=True)
    console.print(f"The models are in {out} ({seconds:.0f} s of pretraining). Ask them yourself:", markup=False)
    console.print('  llmcore next "This is a" --temperature 0.2 0.7 1.5', style="bold")
    console.print('  llmcore generate "The function returns" --max-tokens 60', style="bold")
    console.print(f"  llmcore chat --model {out / 'dpo'}", style="bold", markup=False)
