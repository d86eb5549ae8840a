"""Where else the lines of a log go: TensorBoard, Weights & Biases."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from llmcore.train.config import LoopConfig


class Trackers:
    """Each of config.log_to, written beside log.jsonl under the same names."""

    def __init__(self, config: LoopConfig, stage: str):
        self._open = ExitStack()
        self._writers = [_MAKERS[name](config, stage, self._open) for name in config.log_to]

    def write(self, row: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer({name: float(v) for name, v in row.items() if name != "step"}, row["step"])

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self._open.close()


def _tensorboard(config: LoopConfig, stage: str, held: ExitStack):
    """Event files in RUN/tensorboard: `tensorboard --logdir RUN`."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError("[train] log_to tensorboard needs tensorboardX: pip install 'llmcore[tensorboard]'") from None
    logging.getLogger("tensorboardX").setLevel(logging.ERROR)
    writer = SummaryWriter(str(Path(config.out, "tensorboard")))
    held.callback(writer.close)

    def write(figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(config: LoopConfig, stage: str, held: ExitStack):
    """A run of the project `llmcore`; WANDB_MODE=offline keeps it on this machine."""
    try:
        import wandb
    except ImportError:
        raise ValueError("[train] log_to wandb needs wandb: pip install 'llmcore[wandb]'") from None
    run = wandb.init(
        project="llmcore", name=Path(config.out).name, job_type=stage, dir=config.out, config=dataclasses.asdict(config)
    )
    held.callback(run.finish)
    return lambda figures, step: run.log(dict(figures), step=step)


_MAKERS = {"tensorboard": _tensorboard, "wandb": _wandb}
