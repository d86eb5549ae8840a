"""The settings that all stages share, and how settings are checked and read."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore import _device
from llmcore._fields import checked, either, one_of, option
from llmcore._names import KnownFields
from llmcore.errors import Error, MissingFileError
from llmcore.train.schedule import SCHEDULES

OPTIMIZERS = ("adamw", "muon", "lion", "sgd")


@dataclass
class LoopConfig(metaclass=KnownFields):
    """The settings that all stages share: where to write, how long, how fast, how often."""

    default_warmup: ClassVar[int] = 50
    at_least_one: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "accumulation", "keep")

    out: str = option("run", "Directory of the run: model, tokenizer, log and checkpoints.")
    steps: int = option(1000, "Number of parameter updates.")
    batch_size: int = option(16, "Sequences per micro-batch.")
    accumulation: int = option(1, "Micro-batches per update; gradients are normalised by the number of tokens.")
    lr: float = option(1e-3, "Peak learning rate.")
    min_lr_ratio: float = option(0.1, "Final learning rate as a fraction of the peak.")
    warmup: int | None = option(
        None,
        "Updates of linear warm-up before the schedule; by default 50 for pretraining, 5 for training with rewards, else 10, "
        "but at most half of the run.",
    )
    schedule: str = option("cosine", f"Learning-rate schedule: {either(SCHEDULES)} (warm-up, stable, decay).")
    decay: float = option(0.2, "Fraction of all updates in which wsd decays, at the end of the run.")
    optimizer: str = option(
        "adamw", "Optimizer: adamw, muon (for the matrices in the blocks, adamw for the rest), lion or sgd."
    )
    weight_decay: float = option(0.1, "Weight decay of matrices; multiplied by the learning rate.")
    beta1: float = option(0.9, "First beta of AdamW and Lion.")
    beta2: float = option(0.95, "Second beta of AdamW and Lion.")
    momentum: float = option(0.95, "Momentum of Muon and SGD.")
    ema: float = option(
        0.0,
        "Decay of an exponential moving average of the weights (such as 0.999), which is evaluated and saved instead of them; "
        "0 disables it.",
    )
    recompute: bool = option(
        False, "Keep only the input of each block and recompute the rest for gradients: less memory, more time."
    )
    grad_clip: float = option(1.0, "Maximum global gradient norm; 0 disables clipping.")
    max_minutes: float = option(
        0.0,
        "Time limit in minutes, all sessions of a resumed run included; the learning rate decays to fit it. 0 disables it.",
    )
    seed: int = option(0, "Random seed of weights, batches and samples.")
    eval_every: int = option(200, "Updates between evaluations on held-out data; 0 evaluates at the end only.")
    save_every: int = option(200, "Updates between checkpoints; 0 saves at the end only.")
    save_minutes: float = option(
        1.0,
        "Minutes between checkpoints besides, or fifty times what one takes if that is longer; 0 saves none by time.",
    )
    keep: int = option(2, "Number of checkpoints to keep.")
    keep_best: bool = option(False, "Also keep the model with the lowest held-out loss, in best/.")
    patience: int = option(
        0,
        "Stop after so many evaluations in a row without a better held-out figure, and keep the best model, not the last, "
        "as the result; 0 trains to the end and keeps the last.",
    )
    log_to: list[str] = option([], "Also send the log to tensorboard or wandb.")
    sample_every: int = option(200, "Updates between printed samples; 0 prints none.")
    dtype: str | None = option(
        None, "Compute in float32 or bfloat16; by default whichever is faster on this processor."
    )
    device: str | None = option(None, "cpu or cuda; by default the value of LLMCORE_DEVICE, else cpu.")
    threads: int | None = option(
        None, "Number of threads; by default all that the process may use. Results do not depend on it."
    )

    def __post_init__(self):
        for f in dataclasses.fields(self):
            setattr(self, f.name, checked(f.name, getattr(self, f.name), f.type))
        self._derive()
        for name in (f.name for f in dataclasses.fields(self)):
            value = getattr(self, name)
            if name in self.at_least_one and value < 1:
                raise Error("config", expected=f"{name} >= 1", got=value)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if isinstance(value, float) and not math.isfinite(value):
                    raise Error("config", expected=f"{name} a finite number", got=value)
                if value < 0:
                    raise Error("config", expected=f"{name} >= 0", got=value)
                if isinstance(value, int) and value >= 2**63:
                    raise Error("config", expected=f"{name} below 2^63", got="a larger number")
        for name in ("beta1", "beta2", "momentum", "ema"):
            if getattr(self, name) >= 1:
                raise Error("config", expected=f"{name} < 1", got=getattr(self, name))
        if self.decay > 1:
            raise Error("config", expected="decay in [0, 1]", got=self.decay)
        if self.patience and not self.eval_every:
            raise Error("config", expected="eval_every > 0 with patience", got=0)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        for name in self.log_to:
            one_of("log_to", name, ("tensorboard", "wandb"))
        if self.min_lr_ratio > 1:
            raise Error("config", expected="min_lr_ratio <= 1", got=self.min_lr_ratio)
        if self.dtype not in (None, "float32", "bfloat16"):
            raise Error("config", expected="dtype 'float32' or 'bfloat16'", got=repr(self.dtype))
        if self.device is not None:
            self.device = _device.named(self.device)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise Error("config", expected="threads from 1 to 1024", got=self.threads)

    def _derive(self) -> None:
        """Set the fields that follow from others."""

    def warmup_updates(self) -> int:
        """Return `warmup`, or its default for the present number of steps."""
        return min(self.default_warmup, self.steps // 2) if self.warmup is None else self.warmup

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]):
        """Return the configuration with these values. Raises ValueError for an unknown name."""
        return cls(**values)

    @classmethod
    def read_yaml(cls, path: str | os.PathLike) -> dict[str, Any]:
        """Return the names and values of a YAML file; dashes in names count as underscores."""
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except FileNotFoundError:
            raise MissingFileError("config", expected="a YAML file", got=f"{path}, which does not exist") from None
        except RecursionError:
            raise Error("config", path, expected="YAML", got="one that is nested too deeply") from None
        except (yaml.YAMLError, ValueError, OSError) as e:  # ValueError: not UTF-8, a date or a number that cannot be
            raise Error("config", path, expected="YAML", got=" ".join(str(e).split())) from None
        if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
            raise Error("config", path, expected="names with values", got=type(values).__name__)
        return {k.replace("-", "_"): v for k, v in values.items()}
