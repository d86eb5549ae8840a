"""Direct preference optimisation and related losses: a model learns which of two answers is better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from llmcore import autograd, losses, ops
from llmcore._tensor import Tensor
from llmcore.data.evaluation import IGNORED
from llmcore.data.examples import ExampleBatch
from llmcore.generate import LanguageModel
from llmcore.losses.names import REFERENCE_FREE_LOSSES
from llmcore.losses.pointwise import sequence_logps, total
from llmcore.train import defaults, loop
from llmcore.train.config import DPOConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.pairs import Figures, PairBatches, PairStage


@loop.on_config_device
def dpo(
    config: DPOConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train config.model on pairs and return it.

    Rows have `prompt`, `chosen` and `rejected` (texts, or lists of messages; without a prompt, whole conversations with the
    same beginning). The log-probabilities under the starting model are computed once, before the first update. The log
    uses TRL's names. Raises the same errors as `sft`.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
    with report.working("reading pairs and computing reference log-probabilities"):
        stage = DPOStage(config, lm, report)
    defaults.set_length(config, len(stage.train.pairs), stage.train.steps_per_epoch, report)
    report.note(
        f"{len(stage.train.pairs):,} pairs to learn from, {len(stage.held_out.pairs):,} held out; "
        f"{finetune.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return lm


class PairBatch(NamedTuple):
    """2B rows, the chosen ones first, and the log-probability (2B) of each under the reference model."""

    rows: ExampleBatch
    reference: np.ndarray


def logps(lm: LanguageModel, batch: ExampleBatch) -> Tensor:
    """Return the log-probability (B) of the targets of each row."""
    return sequence_logps(lm.model.loss(batch.inputs, batch.targets, "none", batch.starts))


class DPOStage(PairStage):
    """The DPO stage: a batch is pairs and their reference log-probabilities."""

    name = "dpo"

    def __init__(self, config: DPOConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm, report)
        self.config = config
        self.prompts = [p.chosen.prompt for p in self.held_out.pairs]
        self._reference = [self._of_reference(pairs) for pairs in (self.train, self.held_out)]

    def _of_reference(self, pairs: PairBatches) -> np.ndarray:
        """Return the log-probability of each example under the starting model."""
        found = np.zeros(2 * len(pairs.pairs), np.float32)
        if self.config.loss_type not in REFERENCE_FREE_LOSSES:
            with autograd.no_grad():
                for numbers in pairs.in_order(self.config.batch_size):
                    found[pairs.rows(numbers)] = logps(self.language_model, pairs.of(numbers)).numpy()
        return found

    def batches(self, step: int) -> Sequence[PairBatch]:
        return [self._batch(self.train, self._reference[0], numbers) for numbers in self.train.numbers(step)]

    def _batch(self, pairs: PairBatches, reference: np.ndarray, numbers: Sequence[int]) -> PairBatch:
        return PairBatch(pairs.of(numbers), reference[pairs.rows(numbers)])

    def tokens(self, batch: PairBatch) -> int:
        return int(batch.rows.inputs.size)

    def loss(self, batch: PairBatch) -> tuple[Tensor, int]:
        values, figures = self._losses(batch)
        self._seen.append(figures)
        return total(values), len(batch.reference) // 2

    def held_out_losses(self, numbers: Sequence[int]) -> tuple[Tensor, Figures]:
        return self._losses(self._batch(self.held_out, self._reference[1], numbers))

    def _losses(self, batch: PairBatch) -> tuple[Tensor, Figures]:
        c, n = self.config, len(batch.reference) // 2
        policy = logps(self.language_model, batch.rows)
        chosen, rejected = ops.split(policy, [n, n], dim=0)
        lengths = (batch.rows.targets != IGNORED).sum(axis=1).astype(np.float32)
        n_c, n_r = lengths[:n], lengths[n:]
        reference_c, reference_r = batch.reference[:n], batch.reference[n:]
        if c.loss_type == "simpo":
            values = losses.simpo(chosen, rejected, n_c, n_r, c.beta, c.gamma)
        elif c.loss_type == "orpo":
            values = losses.orpo(chosen, rejected, n_c, n_r, c.beta)
        else:
            values = losses.dpo(
                chosen, rejected, reference_c, reference_r, c.beta, c.loss_type, c.label_smoothing, n_c, n_r
            )
        p_c, p_r = np.array(chosen.numpy()), np.array(rejected.numpy())
        scale = (1 / n_c, 1 / n_r) if c.loss_type in REFERENCE_FREE_LOSSES else (1.0, 1.0)
        rewards_c, rewards_r = c.beta * scale[0] * (p_c - reference_c), c.beta * scale[1] * (p_r - reference_r)
        return values, {
            "rewards/chosen": rewards_c,
            "rewards/rejected": rewards_r,
            "rewards/accuracies": (rewards_c > rewards_r).astype(np.float64),
            "rewards/margins": rewards_c - rewards_r,
            "logps/chosen": p_c,
            "logps/rejected": p_r,
        }
