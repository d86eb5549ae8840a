"""What the stages share in which a model writes answers and learns from their rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from llmcore.errors import Error
from llmcore.generate import LanguageModel
from llmcore.models import CausalLM
from llmcore.train.config import PolicyConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune, rollouts
from llmcore.train.stages.rewards import RewardFunction, Rewards, open_rewards
from llmcore.train.stages.rollouts import Answer, Task, TaskBatches


class PolicyStage(finetune.FinetuneStage):
    """A stage that learns from rewards: it samples answers, rewards them, and logs figures about both. `experience`: the
    answers to learn from, arrays in a named tuple of `experience_type`, which checkpoints hold if they serve several
    updates."""

    experience: Any = None
    experience_type: ClassVar[type]
    config: Any
    reference: CausalLM | None

    def __init__(
        self,
        config: PolicyConfig,
        lm: LanguageModel,
        reference: CausalLM | None,
        report: Report,
        rewards: Mapping[str, RewardFunction] | None = None,
    ):
        super().__init__(config, lm)
        self.config, self.reference, self.report = config, reference, report
        functions = open_rewards(config.rewards) if rewards is None else dict(rewards)
        self._rewards = Rewards(functions, config.reward_weights, config.bad_rows, report)
        rows = finetune.read(config, self.name, lambda row: rollouts.task_of(lm, row, config), report)
        self.digest = rows.digest
        names = {name for task in (*rows.train, *rows.held_out) for name in task.fields}
        for task in (*rows.train, *rows.held_out):  # rewards get None for what a row does not have
            task.fields.update(dict.fromkeys(names - set(task.fields)))
        self.train = TaskBatches(rows.train, config.prompts, config.seed)
        self.held_out: list[Task] = rows.held_out
        self._figures: dict[str, list[tuple[float, float]]] = {}
        self._shown: list[tuple[str, str]] = []

    def described(self) -> str:
        return (
            f"{len(self.train.tasks):,} prompts to learn from, {len(self.held_out):,} held out, rewards: "
            f"{', '.join(self._rewards.functions)}; {finetune.described(self.language_model)}"
        )

    def answered(self, tasks: Sequence[Task], n: int, number: int) -> tuple[list[Answer], np.ndarray]:
        """Return n answers to each task and their rewards, NaN for answers to skip; note the figures about them."""
        found = rollouts.answers(self.language_model, tasks, n, self.config, number)
        owners = [t for t in tasks for _ in range(n)]
        rewards, each = self._rewards(
            [t.prompt for t in owners], [a.text for a in found], [t.fields for t in owners], [t.where for t in owners]
        )
        for name, values in each.items():
            self.note(f"rewards/{name}/mean", float(np.nanmean(values)) if np.isfinite(values).any() else 0.0)
            self.note(f"rewards/{name}/std", float(np.nanstd(values)) if np.isfinite(values).any() else 0.0)
        known = rewards[~np.isnan(rewards)]
        self.note("reward", float(known.mean()) if known.size else 0.0)
        self.note("rewards/failed", float(np.isnan(rewards).sum() - self._rewards.unrewarded))
        self.note("rewards/none", float(self._rewards.unrewarded))
        lengths = np.array([len(a.tokens) for a in found])
        self.note("completions/mean_length", float(lengths.mean()))
        self.note("completions/max_length", float(lengths.max()))
        self.note("completions/clipped_ratio", float(np.mean([not a.ended for a in found])))
        decode = self.language_model.tokenizer.decode
        self._shown = [(decode(owners[i].ids), f"{found[i].text} → {rewards[i]:.2f}") for i in range(0, len(found), n)][
            : finetune.SAMPLES
        ]
        return found, rewards

    def kept(self) -> Mapping[str, np.ndarray]:
        if self.config.updates == 1 or self.experience is None:
            return {}
        return self.experience._asdict()

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        fields = self.experience_type._fields  # type: ignore[attr-defined]
        if kept and set(kept) != set(fields):
            raise Error("resume", expected=", ".join(fields), got=", ".join(sorted(kept)))
        if kept:
            self.experience = self.experience_type(**{name: np.array(values) for name, values in kept.items()})

    def note(self, name: str, value: float, weight: float = 1.0) -> None:
        """Note a value for the log of this update, which gets the weighted mean of all of them."""
        self._figures.setdefault(name, []).append((float(value), float(weight)))

    def figures(self) -> Mapping[str, float]:
        seen, self._figures = self._figures, {}
        return {
            name: sum(v * w for v, w in values) / max(sum(w for _, w in values), 1e-12) for name, values in seen.items()
        }

    def evaluate(self) -> Mapping[str, float]:
        """Return the mean reward of one greedy answer to each held-out prompt."""
        if not self.held_out:
            return {}
        tasks = self.held_out[:_HELD_OUT]
        done = self.language_model.generate([t.ids for t in tasks], self.config.max_tokens, temperature=0)
        rewards, _ = self._rewards(
            [t.prompt for t in tasks], [str(c) for c in done], [t.fields for t in tasks], [t.where for t in tasks]
        )
        known = rewards[~np.isnan(rewards)]
        return {"val/reward": float(known.mean())} if known.size else {}

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        """Return answers of the last update, with their rewards."""
        return self._shown


_HELD_OUT = 200  # most prompts that an evaluation answers
