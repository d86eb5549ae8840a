"""`llmcore sft`: a model that answers, from one that continues texts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore.cli import options, show
from llmcore.cli.config_flags import Config, config_flags
from llmcore.cli.pretrain import stored_config
from llmcore.train.config import SFTConfig


@config_flags(SFTConfig)
def sft(
    given: dict,
    config: Config = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first examples, what is learned in colour, and leave.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out where it stopped, with the options it began with."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Fine-tune a model on conversations, or on prompts with completions (supervised fine-tuning).

    Rows of JSONL or parquet: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}, or
    {"prompt": "...", "completion": "..."}, or {"text": "..."}.

    \b
    Example: llmcore sft --model run --data chats.jsonl --out chat --epochs 2
             llmcore sft --model smollm2-135m-instruct --data python-qa --preview
    """
    values = {} if config is None else SFTConfig.read_yaml(config)
    values |= given
    if resume:
        out = values.get("out", SFTConfig().out)
        values = stored_config(out, "sft") | values | {"out": out}
    elif "steps" in values and "epochs" not in values:
        values["epochs"] = 0.0
    settings = SFTConfig.from_mapping(values)
    if preview:
        _preview(settings)
        return

    from llmcore.train import Report, TerminalReport
    from llmcore.train import sft as train

    lm = train(settings, resume=resume, report=Report() if quiet else TerminalReport(), overwrite=overwrite)
    options.remember_model(Path(settings.out))
    if not quiet:
        out = show.console()
        out.print(f"saved a model of {lm.num_parameters / 1e6:.2f}M parameters in {settings.out}", markup=False)
        out.print("next: llmcore chat", markup=False)


def _preview(settings: SFTConfig) -> None:
    from rich.text import Text

    from llmcore.data.rows import read_rows
    from llmcore.generate import load
    from llmcore.train.supervised import example_of
    from llmcore.train.tuning import prepare

    rows = read_rows(settings.data)
    lm = load(settings.model)
    prepare(lm)
    out = show.console()
    for row in rows[:3]:
        example = example_of(lm, row)
        line = Text()
        for i, learned in zip(example.ids.tolist(), example.learned.tolist(), strict=True):
            line.append(lm.token_text(i), "bold green" if learned else "dim")
        out.print(row.where, style="bold", markup=False)
        out.print(line, soft_wrap=True)
        out.print(f"{int(example.learned.sum())} of {len(example.ids)} tokens are learned", style="dim")
