"""Group relative policy optimisation (Shao et al. 2024) and related losses: a model writes several answers to a prompt, and
those with a higher reward than the others become more likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import losses, ops
from llmcore._tensor import Tensor
from llmcore.generate import LanguageModel
from llmcore.losses.names import GRPO_ANSWER_LOSSES
from llmcore.train import defaults, loop
from llmcore.train.config import GRPOConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.policy import PolicyStage
from llmcore.train.stages.rewards import RewardFunction
from llmcore.train.stages.rollouts import Rollouts, Task, agreement, fixed_logps, rollouts_of, token_logps

_CISPO_HIGH = 5.0


@loop.on_config_device
def grpo(
    config: GRPOConfig,
    resume: bool = False,
    report: Report | None = None,
    overwrite: bool = False,
    rewards: Mapping[str, RewardFunction] | None = None,
) -> LanguageModel:
    """Train config.model by rewarding its answers, and return it.

    Rows have `prompt` (a text, or a list of messages); the reward functions get their other fields as columns. rewards:
    functions `reward(prompts, completions, **columns) -> list[float]` by name, used instead of config.rewards. The log uses
    TRL's names. Raises the same errors as `sft`, and CorpusError for a reward function that fails.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
        reference = finetune.reference_of(config, lm) if config.beta else None
    with report.working("reading prompts"):
        stage = GRPOStage(config, lm, reference, report, rewards)
    defaults.set_length(config, len(stage.train.tasks), stage.train.steps_per_epoch * config.updates, report)
    report.note(stage.described())
    loop.run(stage, config, report, resume)
    return lm


class Experience(NamedTuple):
    """Answers and what is known of them, one row each; float32, except the tokens."""

    inputs: np.ndarray
    targets: np.ndarray
    advantages: np.ndarray  # (N)
    old: np.ndarray  # (N, T) log-probabilities of the tokens when they were sampled
    reference: np.ndarray  # (N, T) log-probabilities under the reference model


class Batch(NamedTuple):
    """A micro-batch of answers. fresh: the policy is still the one that wrote them."""

    rows: Rollouts
    advantages: np.ndarray
    old: np.ndarray
    reference: np.ndarray
    fresh: bool


class GRPOStage(PolicyStage):
    """The GRPO stage: every `updates` updates, new prompts are answered."""

    name = "grpo"
    config: GRPOConfig
    experience: Experience | None = None
    experience_type = Experience
    _said = False  # whether it was said that there is nothing to learn from

    def batches(self, step: int) -> Sequence[Batch]:
        fresh = step % self.config.updates == 0
        if fresh:
            self.experience = self._answered(self.train.batch(step // self.config.updates), step)
        e = self.experience
        assert e is not None
        rows, n, found = Rollouts(e.inputs, e.targets), self.config.batch_size, []
        for start in range(0, len(e.inputs), n):
            part, at = rows.part(start, start + n), slice(start, start + n)
            T = part.inputs.shape[1]
            found.append(Batch(part, e.advantages[at], e.old[at, :T], e.reference[at, :T], fresh))
        return found

    def _answered(self, tasks: Sequence[Task], step: int) -> Experience:
        c = self.config
        found, rewards = self.answered(tasks, c.group, step)
        rows = rollouts_of(tasks, found, c.group)
        groups = rewards.reshape(-1, c.group)
        advantages = np.zeros(len(found))
        spread = np.array([np.nanstd(g[~np.isnan(g)]) if (~np.isnan(g)).any() else 0.0 for g in groups])
        for i, g in enumerate(groups):
            known = ~np.isnan(g)
            if known.sum() > 1:
                own = losses.group_advantages(g[known], int(known.sum()), c.loss_type != "dr_grpo")
                advantages[i * c.group : (i + 1) * c.group][known] = own
        zero = float((spread == 0).mean())
        self.note("reward_std", float(spread.mean()))
        self.note("frac_reward_zero_std", zero)
        if zero == 1.0 and not self._said:
            self._said = True
            self.report.note(
                f"step {step + 1}: all answers to each prompt got the same reward, so there is nothing to learn from: the task "
                "may be too hard or too easy, the temperature too low, or the group too small"
            )
        size = c.batch_size
        nothing = np.zeros(rows.inputs.shape, np.float32)
        known_logps = nothing
        if c.updates > 1 or c.temperature == 1.0:
            known_logps = fixed_logps(self.model, rows, c.temperature, size)
        if c.temperature == 1.0:
            for name, value in agreement(found, known_logps, rows.mask).items():
                self.note(name, value)
        reference = nothing
        if self.reference is not None:
            reference = fixed_logps(self.reference, rows, c.temperature, size)
        return Experience(*rows, advantages.astype(np.float32), known_logps, reference)

    def tokens(self, batch: Batch) -> int:
        return int(batch.rows.inputs.size)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        c, mask = self.config, batch.rows.mask
        logps = token_logps(self.model, batch.rows, c.temperature)
        now = np.array(logps.numpy(), np.float64)
        old = now if batch.fresh else batch.old
        high = c.epsilon_high if c.epsilon_high is not None else _CISPO_HIGH if c.loss_type == "cispo" else c.epsilon
        value = losses.grpo(
            logps, old, batch.advantages, mask, c.loss_type, c.epsilon, high, c.beta,
            batch.reference if c.beta else None, max_tokens=c.max_tokens,
        )  # fmt: skip
        self._measured(now, old, batch, mask)
        # Each micro-batch's mean counts by its answers, or tokens, which gives the mean of the whole update.
        count = len(mask) if c.loss_type in GRPO_ANSWER_LOSSES else int(mask.sum())
        return ops.mul(value, float(count)), count

    def _measured(self, now: np.ndarray, old: np.ndarray, batch: Batch, mask: np.ndarray) -> None:
        c, n = self.config, max(int(mask.sum()), 1)
        ratio = np.exp((now - old) * mask)
        high = c.epsilon if c.epsilon_high is None else c.epsilon_high
        a = np.broadcast_to(batch.advantages[:, None], now.shape)
        low_clip, high_clip = (ratio < 1 - c.epsilon) & (a < 0) & mask, (ratio > 1 + high) & (a > 0) & mask
        self.note("clip_ratio/low_mean", low_clip.sum() / n, n)
        self.note("clip_ratio/high_mean", high_clip.sum() / n, n)
        self.note("clip_ratio/region_mean", (low_clip | high_clip).sum() / n, n)
        self.note("entropy", float(-(now * mask).sum() / n), n)  # estimated from the answers themselves
        if c.beta:
            d = (batch.reference - now) * mask
            self.note("kl", float((np.exp(d) - d - 1).sum() / n), n)
