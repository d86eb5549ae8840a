"""`llmcore sft`: a model that answers, from one that continues texts."""

from __future__ import annotations

from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import stage
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import SFTConfig


@config_flags(SFTConfig)
def sft(
    given: dict,
    config: Config = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show the first examples, what is learned in colour, and leave.")
    ] = False,
    resume: stage.Resume = False,
    overwrite: stage.Overwrite = False,
    quiet: stage.Quiet = False,
) -> None:
    """Fine-tune a model on conversations, or on prompts with completions (supervised fine-tuning).

    Rows of JSONL or parquet: {"messages": [{"role": "user", "content": "..."}, {"role": "assistant", ...}]}, or
    {"prompt": "...", "completion": "..."}, or {"text": "..."}.

    \b
    Example: llmcore sft --model run --data chats.jsonl --out chat --epochs 2
             llmcore sft --model smollm2-135m-instruct --data python-qa --preview
    """
    settings = stage.settings(SFTConfig, "sft", given, config, resume)
    if preview:
        _preview(settings)
        return

    from llmcore.train import sft as train

    stage.run(train, settings, resume, overwrite, quiet, "llmcore chat")


def _preview(settings: SFTConfig) -> None:
    from rich.text import Text

    from llmcore.data.rows import read_rows
    from llmcore.generate import load
    from llmcore.train.stages.finetune import prepare
    from llmcore.train.stages.sft import example_of

    rows = read_rows(settings.data)
    lm = load(settings.model, device="cpu")  # of which the tokenizer alone is used
    prepare(lm)
    out = terminal.console()
    for row in rows[:3]:
        example = example_of(lm, row)
        line = Text()
        for i, is_target in zip(example.ids.tolist(), example.mask.tolist(), strict=True):
            line.append(lm.token_text(i), "bold green" if is_target else "dim")
        out.print(row.where, style="bold", markup=False)
        out.print(line, soft_wrap=True)
        out.print(f"{int(example.mask.sum())} of {len(example.ids)} tokens are learned", style="dim")
