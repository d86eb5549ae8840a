"""Other destinations of the log: TensorBoard and Weights & Biases."""

from __future__ import annotations

import dataclasses
import importlib
import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from llmcore.errors import Error
from llmcore.train.loop_config import LoopConfig


class Trackers:
    """The trackers in config.log_to, which get the lines of log.jsonl under the same names."""

    def __init__(self, config: LoopConfig, stage: str):
        """Check that the trackers are installed (else ValueError); nothing is written yet."""
        self._config, self._stage = config, stage
        self._kinds = [_KINDS[name] for name in config.log_to]
        for needed, _, extra in self._kinds:
            try:
                importlib.import_module(needed)
            except ImportError:
                raise Error("train", f"log_to {extra} needs {needed}: pip install 'llmcore[{extra}]'") from None
        self._writers: list[Callable[[Mapping[str, float], int], None]] = []

    @contextmanager
    def opened(self, start: int):
        """Open the trackers for a run that starts at step `start`."""
        with ExitStack() as held:
            self._writers = [make(self._config, self._stage, start, held) for _, make, _ in self._kinds]
            yield self

    def write(self, row: Mapping[str, Any]) -> None:
        for writer in self._writers:
            writer({name: float(v) for name, v in row.items() if name != "step"}, row["step"])


def _tensorboard(config: LoopConfig, stage: str, start: int, held: ExitStack):
    """Write event files to RUN/tensorboard: `tensorboard --logdir RUN`."""
    from tensorboardX import SummaryWriter

    logging.getLogger("tensorboardX").setLevel(logging.ERROR)
    writer = SummaryWriter(str(Path(config.out, "tensorboard")), purge_step=start + 1)
    held.callback(writer.close)

    def write(figures: Mapping[str, float], step: int) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, step)

    return write


def _wandb(config: LoopConfig, stage: str, start: int, held: ExitStack):
    """Log to a run of the project `llmcore`; WANDB_MODE=offline keeps it on this machine."""
    import wandb

    run = wandb.init(
        project="llmcore", name=Path(config.out).name, job_type=stage, dir=config.out, config=dataclasses.asdict(config)
    )
    held.callback(run.finish)
    return lambda figures, step: run.log(dict(figures), step=step)


# name -> the module that it needs, the function that opens it, and the extra that installs it
_KINDS = {"tensorboard": ("tensorboardX", _tensorboard, "tensorboard"), "wandb": ("wandb", _wandb, "wandb")}
