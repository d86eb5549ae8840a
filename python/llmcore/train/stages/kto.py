"""Preference optimisation from single answers labelled good or bad (KTO, Ethayarajh et al. 2024)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import autograd, losses
from llmcore._tensor import Tensor
from llmcore.data.conversations import labelled
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, parts_of
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel
from llmcore.losses.pointwise import total
from llmcore.train import defaults, loop
from llmcore.train.config import FinetuneConfig, KTOConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.dpo import logps
from llmcore.train.stages.learning import Learning


@loop.on_config_device
def kto(
    config: KTOConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train config.model on answers labelled desirable or not, and return it.

    Rows have `prompt`, `completion` and `label` (true or false), or, as for `dpo`, `prompt`, `chosen` and `rejected`, which
    make two answers. The log uses TRL's names. Raises the same errors as `sft`.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
    with report.working("reading answers and computing reference log-probabilities"):
        stage = KTOStage(config, lm, report)
    defaults.set_length(config, len(stage.train.examples), stage.train.steps_per_epoch, report)
    report.note(
        f"{len(stage.train.examples):,} answers to learn from ({stage.train.good.mean():.0%} good), "
        f"{len(stage.held_out.examples):,} held out; {finetune.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return lm


class Labelled(NamedTuple):
    """A prompt with an answer, and whether it is good."""

    example: Example
    good: bool


def labelled_of(learning: Learning, row: Row, config: FinetuneConfig | None = None) -> list[Labelled]:
    """Return the answer of a row, or the two of a pair. Raises ValueError for a malformed row."""
    options = finetune.chat_options(learning.lm, row.fields, config)
    return [
        # Of a whole conversation the last message is what was judged.
        Labelled(learning.answer(what.messages, what.first or len(what.messages) - 1, options), good)
        for what, good in labelled(row.fields)
    ]


class KTOBatches:
    """Batches of answers, and of mismatched answers (each after another one's prompt), from which the distance to the
    reference is estimated."""

    def __init__(self, lm: LanguageModel, labelled: Sequence[Labelled], config: KTOConfig):
        self.examples = [a.example for a in labelled]
        self.good = np.array([a.good for a in labelled], bool)
        # The partner is half the list away: neighbours may have the same prompt.
        half = max(1, len(self.examples) // 2)
        self.strangers = [
            answer_after(e.prompt, self.examples[(i + half) % len(self.examples)], config.context)
            for i, e in enumerate(self.examples)
        ]
        together = config.batch_size * config.accumulation
        self.batches = ExampleBatches(self.examples, together, config.context, False, config.seed)
        self._mismatched = ExampleBatches(self.strangers, together, config.context, False, config.seed)
        self.reference, self.stranger_reference = (
            _known(lm, batches, config.batch_size) for batches in (self.batches, self._mismatched)
        )

    @property
    def steps_per_epoch(self) -> int:
        return self.batches.steps_per_epoch

    def kl(self, lm: LanguageModel, numbers: Sequence[int], size: int) -> float:
        """Return the mean log-ratio of the mismatched answers, at least 0."""
        found = _known(lm, self._mismatched, size, numbers)
        return max(0.0, float((found - self.stranger_reference[list(numbers)]).mean()))


def answer_after(prompt: Sequence[int], other: Example, context: int) -> Example:
    """Return a prompt followed by another example's answer."""
    first = len(other.prompt)
    ids = np.array([*prompt, *other.ids[first:]], np.int32)
    mask = np.concatenate([np.zeros(len(prompt), bool), other.mask[first:]])
    return Example(ids, mask).cut(context + 1)


def _known(lm: LanguageModel, batches: ExampleBatches, size: int, numbers: Sequence[int] | None = None) -> np.ndarray:
    """Return the log-probability of each answer, or of those with these numbers, without gradients."""
    numbers = range(len(batches.examples)) if numbers is None else numbers
    found = np.zeros(len(numbers), np.float32)
    with autograd.no_grad():
        for start in range(0, len(numbers), size):
            part = [[i] for i in numbers[start : start + size]]
            found[start : start + size] = logps(lm, batches.of(part)).numpy()
    return found


class Batch(NamedTuple):
    """Answers, which of them are good, their reference log-probabilities, and the estimated distance to the reference."""

    rows: ExampleBatch
    good: np.ndarray
    reference: np.ndarray
    kl: float


class KTOStage(finetune.FinetuneStage):
    """The KTO stage: a batch is answers with their labels and reference log-probabilities."""

    name = "kto"

    def __init__(self, config: KTOConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm)
        self.config = config
        learning = Learning(lm, config)
        rows = finetune.read(config, self.name, lambda row: labelled_of(learning, row, config), report)
        finetune.say(report, learning.notes())
        self.digest = rows.digest
        train, held_out = ([a for answers in part for a in answers] for part in (rows.train, rows.held_out))
        self.train, self.held_out = KTOBatches(lm, train, config), KTOBatches(lm, held_out, config)
        self.prompts = [a.example.prompt for a in held_out]
        self._seen: list[dict[str, tuple[float, int]]] = []

    def batches(self, step: int) -> Sequence[Batch]:
        numbers = [row[0] for row in self.train.batches.numbers(step)]
        kl = self.train.kl(self.language_model, numbers, self.config.batch_size)  # for the whole update
        parts = parts_of(len(numbers), self.config.accumulation)
        return [self._batch(self.train, numbers[part], kl) for part in parts]

    def _batch(self, answers: KTOBatches, numbers: Sequence[int], kl: float) -> Batch:
        at = list(numbers)
        return Batch(answers.batches.of([[i] for i in at]), answers.good[at], answers.reference[at], kl)

    def tokens(self, batch: Batch) -> int:
        return int(batch.rows.inputs.size)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        values, figures = self._losses(batch)
        self._seen.append(figures)
        return total(values), len(batch.good)

    def _losses(self, batch: Batch) -> tuple[Tensor, dict[str, tuple[float, int]]]:
        """Return the loss of each answer, and sums and counts of the figures."""
        c, good = self.config, batch.good
        policy = logps(self.language_model, batch.rows)
        values = losses.kto(policy, batch.reference, good, batch.kl, c.beta, c.desirable_weight, c.undesirable_weight)
        p = np.array(policy.numpy(), np.float64)
        rewards = c.beta * (p - batch.reference)
        figures = {"kl": (batch.kl * len(good), len(good))}
        for name, which in (("chosen", good), ("rejected", ~good)):
            figures[f"rewards/{name}"] = (float(rewards[which].sum()), int(which.sum()))
            figures[f"logps/{name}"] = (float(p[which].sum()), int(which.sum()))
        return values, figures

    def figures(self) -> Mapping[str, float]:
        seen, self._seen = self._seen, []
        return _means(seen)

    def evaluate(self) -> Mapping[str, float]:
        held = self.held_out
        if not held.examples:
            return {}
        numbers, n = list(range(len(held.examples))), self.config.batch_size
        kl = held.kl(self.language_model, numbers, n)
        seen, value = [], 0.0
        with autograd.no_grad():
            for start in range(0, len(numbers), n):
                losses_of, figures = self._losses(self._batch(held, numbers[start : start + n], kl))
                seen.append(figures)
                value += float(losses_of.numpy().sum())
        return {"val/loss": value / len(numbers)} | {f"val/{k}": v for k, v in _means(seen).items()}


def _means(seen: Sequence[Mapping[str, tuple[float, int]]]) -> dict[str, float]:
    """Return the means of the figures that have values, and the margin between good and bad answers."""
    names = seen[0] if seen else ()
    sums = {name: (sum(s[name][0] for s in seen), sum(s[name][1] for s in seen)) for name in names}
    found = {name: total / count for name, (total, count) in sums.items() if count}
    if "rewards/chosen" in found and "rewards/rejected" in found:
        found["rewards/margins"] = found["rewards/chosen"] - found["rewards/rejected"]
    return found
