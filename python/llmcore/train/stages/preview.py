"""What a stage would learn of each row, without training: for people to look at."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from llmcore.data.examples import Example
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel, load
from llmcore.train.config import DPOConfig, FinetuneConfig, KTOConfig, PolicyConfig, RewardConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune, kto, pairs, rollouts, sft
from llmcore.train.stages.learning import Learning


class Shown(NamedTuple):
    """An example of a row, and what it is: "chosen", "rejected", "" for the only kind."""

    kind: str
    example: Example


class Preview(NamedTuple):
    """The examples of each row with where it stands, the model, and what is worth knowing about all rows."""

    rows: list[tuple[str, list[Shown]]]
    lm: LanguageModel
    notes: list[str]


def preview(stage: str, config: FinetuneConfig, report: Report) -> Preview:
    """Return what a run of a stage with this configuration would learn, of all rows. Raises the errors of the run about its
    rows."""
    lm = load(config.model, device="cpu")  # only its tokenizer is used
    finetune.set_context(config, lm)
    finetune.prepare(lm, config.chat_template)
    config.validation_fraction = 0.0  # all rows, in their order
    learning = Learning(lm, config)
    read = _reader(config, learning)
    rows = finetune.read(config, stage, lambda row: (row.where, list(read(row))), report)
    return Preview(rows.train, lm, learning.notes())


def _reader(config: FinetuneConfig, learning: Learning) -> Callable[[Row], Iterator[Shown]]:
    """Return what makes the examples of a row."""

    def read(row: Row) -> Iterator[Shown]:
        if isinstance(config, (DPOConfig, RewardConfig)):
            pair = pairs.pair_of(learning, row, config)
            yield from (Shown("chosen", pair.chosen), Shown("rejected", pair.rejected))
        elif isinstance(config, KTOConfig):
            yield from (Shown("good" if a.good else "bad", a.example) for a in kto.labelled_of(learning, row, config))
        elif isinstance(config, PolicyConfig):
            ids = np.array(rollouts.task_of(learning.lm, row, config).ids, np.int32)
            yield Shown("prompt", Example(ids, np.zeros(len(ids), bool)))
        else:
            yield from (Shown("", e) for e in sft.examples_of(learning, row, config))

    return read
