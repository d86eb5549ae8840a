"""`llmcore dpo`: a model that prefers better answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore.cli import options, show
from llmcore.cli.config_flags import Config, config_flags
from llmcore.cli.pretrain import stored_config
from llmcore.train.config import DPOConfig


@config_flags(DPOConfig)
def dpo(
    given: dict,
    config: Config = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out where it stopped, with the options it began with."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a model on pairs of answers, of which one is preferred: DPO and its relatives.

    Rows of JSONL or parquet: {"prompt": "...", "chosen": "...", "rejected": "..."}.

    \b
    Example: llmcore dpo --model chat --data pairs.jsonl --out preferred --lr 5e-6
    """
    values = {} if config is None else DPOConfig.read_yaml(config)
    values |= given
    if resume:
        out = values.get("out", DPOConfig().out)
        values = stored_config(out, "dpo") | values | {"out": out}
    elif "steps" in values and "epochs" not in values:
        values["epochs"] = 0.0
    settings = DPOConfig.from_mapping(values)

    from llmcore.train import Report, TerminalReport
    from llmcore.train import dpo as train

    lm = train(settings, resume=resume, report=Report() if quiet else TerminalReport(), overwrite=overwrite)
    options.remember_model(Path(settings.out))
    if not quiet:
        out = show.console()
        out.print(f"saved a model of {lm.num_parameters / 1e6:.2f}M parameters in {settings.out}", markup=False)
        out.print("next: llmcore chat", markup=False)
