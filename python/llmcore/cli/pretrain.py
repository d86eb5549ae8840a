"""`llmcore pretrain`: a language model from raw text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.config_flags import Config, config_flags
from llmcore.train.config import PretrainConfig


@config_flags(PretrainConfig)
def pretrain(
    given: dict,
    config: Config = None,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Continue the run in --out where it stopped, with the options it began with."),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Train a language model on text.

    A run that was stopped, or killed, continues bit for bit with --resume.

    \b
    Example: llmcore pretrain --data book.txt --out run --steps 500 --layers 4
    Go on:   llmcore pretrain --out run --resume
    Several: mpiexec -n 2 llmcore pretrain --accumulation 2 --batch-size 8
    """
    values = {} if config is None else PretrainConfig.read_yaml(config)
    values |= given
    if resume:
        out = values.get("out", PretrainConfig().out)
        values = stored_config(out, "pretrain") | values | {"out": out}
    settings = PretrainConfig.from_mapping(values)

    from llmcore.train import Report, TerminalReport
    from llmcore.train import pretrain as train
    from llmcore.train.distributed.group import process_group

    out = terminal.console()
    lm = train(settings, resume=resume, report=Report() if quiet else TerminalReport(), overwrite=overwrite)
    options.remember_model(Path(settings.out))
    if not quiet and process_group().rank == 0:
        out.print(f"saved a model of {lm.num_parameters / 1e6:.2f}M parameters in {settings.out}", markup=False)
        out.print('next: llmcore next "The" --temperature 0.2 0.7 1.5', markup=False)


def stored_config(out: str, stage: str) -> dict:
    """The options that the run in `out` began with, from its newest checkpoint."""
    from llmcore.train import checkpoint

    # The loop warns of broken checkpoints when it loads one.
    path = checkpoint.latest_checkpoint(out, warn=lambda _: None)
    if path is None:
        raise checkpoint.CheckpointError("resume", expected=f"a checkpoint in {out}", got="none")
    state = checkpoint.load_checkpoint(path)[1]
    if state.get("stage") != stage or not isinstance(state.get("config"), dict):
        raise checkpoint.CheckpointError(
            "resume", expected=f"a run of {stage}", got=f"{path}, which is of another kind"
        )
    return state["config"]
