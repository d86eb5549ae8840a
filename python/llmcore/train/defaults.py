"""What a fine-tuning run does where its settings leave it open: learning rate, batch, epochs and what is held out follow
from the model and the number of rows."""

from __future__ import annotations

import math

from llmcore.train.config import FinetuneConfig
from llmcore.train.report import Report

HANDFUL = 20  # updates: fewer teach next to nothing
_UPDATES_PER_EPOCH = 16  # few rows are not thrown together into few updates
_MOST_ROWS = 8  # per micro-batch
_HOLDS_OUT_FROM, _HELD_OUT = 100, 0.05  # rows, and the fraction of them
_LORA_RATE = 10.0  # times that of all weights, whatever the rank: adapters are scaled by alpha / rank
_WIDTH, _WIDTH_EXPONENT = 4096, 0.781


def validation_fraction(config: FinetuneConfig, rows: int) -> float:
    """Return the fraction of the rows to hold out: of fewer than 100 none, because each of them is needed."""
    if config.validation_fraction is None:
        config.validation_fraction = _HELD_OUT if rows >= _HOLDS_OUT_FROM else 0.0
    return config.validation_fraction


def learning_rate(base: float, width: int, lora: bool) -> float:
    """Return the peak learning rate for a model of this width. base: that of a model 4096 wide, all of whose weights are
    trained.

    Narrower models take higher rates, and adapters ten times as high ones, as "LoRA Without Regret" measured (Schulman and
    Thinking Machines Lab 2025).
    """
    rate = base * (_WIDTH / width) ** _WIDTH_EXPONENT * (_LORA_RATE if lora else 1.0)
    return float(f"{rate:.2g}")


def batch_size(rows: int, accumulation: int) -> int:
    """Return the rows per micro-batch: at most 8, and so few that an epoch has about 16 updates, if there are 16 rows."""
    return max(1, min(_MOST_ROWS, rows // (_UPDATES_PER_EPOCH * accumulation)))


def packs(packed_rows: int, accumulation: int) -> bool:
    """Return whether packing leaves enough rows for 16 updates of whole batches."""
    return packed_rows >= _UPDATES_PER_EPOCH * _MOST_ROWS * accumulation


def epochs(rows: int) -> float:
    """Return the passes over the rows: 3, more if that makes fewer than 100 rows in all (at most 25), fewer if it makes more
    than 25,000 (at least 1). OpenAI's fine-tuning guide chooses by this rule."""
    return float(max(1, min(3, 25_000 // rows)) if 3 * rows >= 100 else min(25, 100 // rows))


def set_length(config: FinetuneConfig, rows: int, updates_per_epoch: float, report: Report) -> None:
    """Set epochs and steps where they are open, and say what the run will do. rows: those to learn from."""
    asked = bool(config.steps)
    if not asked:
        config.epochs = config.epochs or epochs(rows)
        config.steps = max(1, math.ceil(config.epochs * updates_per_epoch))
    passes = config.steps / updates_per_epoch
    report.note(f"{config.steps:,} updates, {passes:.3g} epochs, at a learning rate of up to {config.lr:g}")
    if not asked and config.steps < HANDFUL:
        report.warn(
            f"{config.steps} updates are a handful, from which a model learns little: give more rows, or more --epochs, or "
            "a smaller --batch-size"
        )
