"""Proximal policy optimisation (Schulman et al. 2017) of a language model (Stiennon et al. 2020): a model writes answers, a
value head learns to predict their rewards, and tokens that turn out better than predicted become more likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import autograd, losses, nn, ops
from llmcore._tensor import Tensor
from llmcore.data.evaluation import IGNORED
from llmcore.generate import LanguageModel
from llmcore.models import CausalLM
from llmcore.nn import Parameter
from llmcore.train import defaults, loop
from llmcore.train.config import PPOConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.policy import PolicyStage
from llmcore.train.stages.rewards import RewardFunction
from llmcore.train.stages.rollouts import Rollouts, Task, fixed_logps, rollouts_of, token_logps


@loop.on_config_device
def ppo(
    config: PPOConfig,
    resume: bool = False,
    report: Report | None = None,
    overwrite: bool = False,
    rewards: Mapping[str, RewardFunction] | None = None,
) -> LanguageModel:
    """Train config.model by rewarding its answers, and return it; rows and rewards are those of `grpo`. The value head is
    saved in checkpoints only."""
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
        reference = finetune.reference_of(config, lm)
    with report.working("reading prompts"):
        stage = PPOStage(config, lm, reference, report, rewards)
    defaults.set_length(config, len(stage.train.tasks), stage.train.steps_per_epoch * config.updates, report)
    report.note(stage.described())
    loop.run(stage, config, report, resume)
    return lm


class Experience(NamedTuple):
    """Answers and what is known of them, (N, T) each; float32, except the tokens."""

    inputs: np.ndarray
    targets: np.ndarray
    old: np.ndarray  # log-probabilities of the tokens when they were sampled
    values: np.ndarray  # the value predicted before each token
    advantages: np.ndarray
    returns: np.ndarray


class Batch(NamedTuple):
    """A micro-batch of answers."""

    rows: Rollouts
    old: np.ndarray
    values: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray


class PPOStage(PolicyStage):
    """The PPO stage: every `updates` updates, new prompts are answered."""

    name = "ppo"
    config: PPOConfig
    reference: CausalLM
    experience: Experience | None = None
    experience_type = Experience

    def __init__(
        self,
        config: PPOConfig,
        lm: LanguageModel,
        reference: CausalLM,
        report: Report,
        rewards: Mapping[str, RewardFunction] | None = None,
    ):
        super().__init__(config, lm, reference, report, rewards)
        self._head = nn.Linear(lm.config.width, 1)  # zeros: it predicts no reward

    def trainable(self) -> dict[str, Parameter]:
        assert self._head.bias is not None
        return self.model.trainable() | {"value.weight": self._head.weight, "value.bias": self._head.bias}

    def batches(self, step: int) -> Sequence[Batch]:
        if step % self.config.updates == 0:
            self.experience = self._answered(self.train.batch(step // self.config.updates), step)
        e, n, found = self.experience, self.config.batch_size, []
        assert e is not None
        rows = Rollouts(e.inputs, e.targets)
        for start in range(0, len(e.inputs), n):
            part = rows.part(start, start + n)
            at = slice(start, start + n), slice(part.inputs.shape[1])
            found.append(Batch(part, e.old[at], e.values[at], e.advantages[at], e.returns[at]))
        return found

    def _answered(self, tasks: Sequence[Task], step: int) -> Experience:
        c = self.config
        found, scores = self.answered(tasks, 1, step)
        rows = rollouts_of(tasks, found, 1)
        rows.targets[np.isnan(scores)] = IGNORED  # answers without a reward are not learned from
        mask = rows.mask
        old = fixed_logps(self.model, rows, c.temperature, c.batch_size)
        reference = fixed_logps(self.reference, rows, c.temperature, c.batch_size)
        values = self._fixed_values(rows)
        kl = (
            (old - reference) * mask
            if c.kl_estimator == "k1"
            else (np.exp(reference - old) - 1 - reference + old) * mask
        )
        rewards = -c.kl * kl
        for r in np.flatnonzero(mask.any(axis=1)):
            rewards[r, np.flatnonzero(mask[r])[-1]] += scores[r]
        advantages, returns = losses.gae(rewards, values, mask, c.gamma, c.lam)
        known = mask.any(axis=1)
        per_answer = max(int(known.sum()), 1)
        self.note("objective/kl", float(kl.sum() / per_answer))
        self.note("objective/entropy", float(-old.sum() / per_answer))
        self.note("objective/non_score_reward", float(-c.kl * kl.sum() / per_answer))
        self.note("objective/scores", float(scores[known].mean()) if known.any() else 0.0)
        self.note("objective/rlhf_reward", float(rewards.sum() / per_answer))
        arrays = (old, values, losses.whiten(advantages, mask), returns)
        return Experience(rows.inputs, rows.targets, *(a.astype(np.float32) for a in arrays))

    def _values(self, hidden: Tensor) -> Tensor:
        """(N, T, width) -> (N, T) float32"""
        values = ops.linear(hidden, self._head.weight, self._head.bias, out_dtype="float32")
        return values.reshape(hidden.shape[0], hidden.shape[1])

    def _fixed_values(self, rows: Rollouts) -> np.ndarray:
        found = np.zeros(rows.inputs.shape, np.float32)
        size = self.config.batch_size
        with autograd.no_grad():
            for start in range(0, len(found), size):
                part = rows.part(start, start + size)
                values = self._values(self.model.hidden(part.inputs)).numpy()
                found[start : start + size, : part.inputs.shape[1]] = values * part.mask
        return found

    def tokens(self, batch: Batch) -> int:
        return int(batch.rows.inputs.size)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        c, mask = self.config, batch.rows.mask
        count = int(mask.sum())
        hidden = self.model.hidden(batch.rows.inputs)
        logps = token_logps(self.model, batch.rows, c.temperature, hidden)
        values = self._values(hidden)
        value = losses.ppo(
            logps, batch.old, batch.advantages, mask, values, batch.values, batch.returns, c.clip, c.value_clip,
            c.value_weight,
        )  # fmt: skip
        change = (np.array(logps.numpy(), np.float64) - batch.old) * mask
        ratio, n = np.exp(change), max(count, 1)
        error = (np.array(values.numpy(), np.float64) - batch.returns) * mask
        self.note("policy/approxkl_avg", float(0.5 * (change**2).sum() / n), n)
        self.note("policy/clipfrac_avg", float(((np.abs(ratio - 1) > c.clip) & mask).sum() / n), n)
        self.note("val/ratio", float((ratio * mask).sum() / n), n)
        self.note("loss/value_avg", float(0.5 * (error**2).sum() / n), n)
        # Each micro-batch's mean counts by its tokens, which gives the mean of the whole update.
        return ops.mul(value, float(count)), count
