"""What the commands of the training stages share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.pretrain import stored_config
from llmcore.train.config import FinetuneConfig

Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --out where it stopped, with the options it began with.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run that is in --out.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")]


def settings(config_class: type[FinetuneConfig], stage: str, given: Mapping, config: Path | None, resume: bool) -> Any:
    """The configuration that flags, a YAML file and a run to resume come to."""
    values = {} if config is None else config_class.read_yaml(config)
    values |= given
    if resume:
        out = values.get("out", config_class().out)
        values = stored_config(out, stage) | values | {"out": out}
    return config_class.from_mapping(values)


def run(train: Callable, config: FinetuneConfig, resume: bool, overwrite: bool, quiet: bool, next_step: str) -> None:
    """Train and say what to do next."""
    from llmcore.models import adapters
    from llmcore.train import Report, TerminalReport
    from llmcore.train.distributed.group import process_group

    trained = train(config, resume=resume, report=Report() if quiet else TerminalReport(), overwrite=overwrite)
    lm = getattr(trained, "lm", trained)
    if lm is trained:
        options.remember_model(Path(config.out))
    if not quiet and process_group().rank == 0:
        out = terminal.console()
        what, n, of = "a model", lm.num_parameters, ""
        if lm is trained and adapters.has_lora(lm.model):  # a reward model is saved whole
            what, n, of = "an adapter", sum(p.size for p in lm.model.trainable().values()), f" (of {config.model})"
        out.print(f"saved {what} of {n / 1e6:.2f}M parameters{of} in {config.out}", markup=False, soft_wrap=True)
        out.print(f"next: {next_step}", markup=False)
