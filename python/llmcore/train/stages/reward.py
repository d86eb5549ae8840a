"""A reward model: one number per answer, learned from which of two answers is better (Bradley & Terry 1952)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llmcore import autograd, losses, ops
from llmcore._tensor import Tensor
from llmcore.generate import LanguageModel
from llmcore.generate.reward_model import RewardModel, ended, score_head
from llmcore.losses.pointwise import total
from llmcore.nn import Parameter
from llmcore.train import defaults, loop
from llmcore.train.config import RewardConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.pairs import Figures, PairBatches, PairStage


@loop.on_config_device
def reward(
    config: RewardConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> RewardModel:
    """Train config.model with a scalar head on pairs of answers, and return it.

    Rows are those of `dpo`, optionally with `margin`: by how much the chosen answer is better. Raises the same errors as
    `sft`.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
    with report.working("reading pairs"):
        stage = RewardStage(config, lm, report)
    defaults.set_length(config, len(stage.train.pairs), stage.train.steps_per_epoch, report)
    report.note(
        f"{len(stage.train.pairs):,} pairs to learn from, {len(stage.held_out.pairs):,} held out; {finetune.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return stage.reward_model


class RewardStage(PairStage):
    """The reward-model stage: a batch is the numbers of pairs."""

    name = "reward"

    def __init__(self, config: RewardConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm, report)
        self.config = config
        rng = np.random.Generator(np.random.Philox(key=config.seed))
        width = lm.config.width
        head = score_head(lm, config.model)
        if head is None or head.shape != (1, width):
            head = rng.standard_normal((1, width), np.float32) / np.float32(np.sqrt(width))
        else:
            report.note(f"{config.model} is a reward model: its scores are the beginning")
        self.reward_model = RewardModel(lm, head)

    def trainable(self) -> dict[str, Parameter]:
        return self.model.trainable() | {"score.weight": self.reward_model.head.weight}

    def batches(self, step: int) -> Sequence[list[int]]:
        return self.train.numbers(step)

    def _rows(self, pairs: PairBatches, numbers: Sequence[int]) -> list[np.ndarray]:
        """Return the tokens of the chosen answers, then those of the rejected ones."""
        examples = [pairs.examples.examples[i] for i in pairs.rows(numbers)]
        return [ended(e.ids, e.mask) for e in examples]

    def tokens(self, batch: list[int]) -> int:
        return sum(map(len, self._rows(self.train, batch)))

    def loss(self, batch: list[int]) -> tuple[Tensor, int]:
        values, figures = self._losses(self.train, batch)
        self._seen.append(figures)
        return total(values), len(batch)

    def held_out_losses(self, numbers: Sequence[int]) -> tuple[Tensor, Figures]:
        return self._losses(self.held_out, numbers)

    def _losses(self, pairs: PairBatches, numbers: Sequence[int]) -> tuple[Tensor, Figures]:
        rewards = self.reward_model.forward(self._rows(pairs, numbers))
        n = len(numbers)
        chosen, rejected = ops.split(rewards, [n, n], dim=0)
        margins = np.array([pairs.pairs[i].margin for i in numbers])
        values = losses.reward(chosen, rejected, margins, self.config.centering)
        c, r = np.array(chosen.numpy()), np.array(rejected.numpy())
        return values, {
            "accuracy": (c > r).astype(np.float64),
            "margin": c - r,
            "rewards/chosen": c,
            "rewards/rejected": r,
        }

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        """Return held-out answers with their rewards."""
        found = []
        with autograd.no_grad():
            for numbers in self.held_out.in_order(1)[: finetune.SAMPLES]:
                rows = self._rows(self.held_out, numbers)
                for row, value in zip(rows, self.reward_model.forward(rows).numpy(), strict=True):
                    found.append((self.language_model.tokenizer.decode(row.tolist()), f" → {value:.2f}"))
        return found

    def save(self, directory: Path) -> None:
        self.reward_model.save(directory)
