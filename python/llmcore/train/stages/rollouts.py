"""Rollouts: the answers of the current weights, sampled by the engine that serves every other request too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from llmcore import autograd, ops
from llmcore._tensor import Tensor
from llmcore.data.batches import mix, permute
from llmcore.data.conversations import question
from llmcore.data.evaluation import IGNORED
from llmcore.data.rows import Row
from llmcore.generate import LanguageModel
from llmcore.models import CausalLM
from llmcore.train.config import PolicyConfig
from llmcore.train.stages import finetune


@dataclass(frozen=True)
class Task:
    """A row to answer: its prompt, the prompt's tokens, its fields, and where the row stands."""

    prompt: Any
    ids: list[int]
    fields: dict[str, Any]
    where: str


def task_of(lm: LanguageModel, row: Row, config: PolicyConfig) -> Task:
    """Return the task of a row. Raises ValueError for a row that cannot be answered."""
    prompt, messages = question(row.fields)
    options = finetune.chat_options(lm, row.fields, config)._asdict()
    begun = messages[-1].get("role") == "assistant"  # then it is the beginning of the answer
    ids = lm.chat_prompt(messages, continue_final_message=begun, **options)
    if len(ids) + config.max_tokens > config.context:
        raise ValueError(
            f"expected a prompt of at most {config.context - config.max_tokens} tokens (context - max_tokens), got {len(ids)}"
        )
    return Task(prompt, ids, row.fields, row.where)


class TaskBatches:
    """Batches of `together` tasks, each a function of its number alone; every epoch has all of them once. A batch may span
    the end of an epoch, and one of few tasks has some several times: their answers differ."""

    def __init__(self, tasks: Sequence[Task], together: int, seed: int):
        self.tasks, self._together, self._seed = tasks, together, seed

    @property
    def steps_per_epoch(self) -> float:
        return len(self.tasks) / self._together

    def batch(self, number: int) -> list[Task]:
        chosen = []
        for row in range(number * self._together, (number + 1) * self._together):
            epoch, place = divmod(row, len(self.tasks))
            at = permute(np.array([place], np.uint64), len(self.tasks), mix(mix(mix(0, self._seed), epoch), 3))
            chosen.append(self.tasks[int(at[0])])
        return chosen


class Answer(NamedTuple):
    """One answer: its text, its tokens with the one that ended it, and the log-probabilities with which they were sampled,
    if the temperature is 1."""

    text: str
    tokens: list[int]
    ended: bool
    logprobs: list[float] | None


def answers(lm: LanguageModel, tasks: Sequence[Task], n: int, config: PolicyConfig, number: int) -> list[Answer]:
    """Return n answers to each task, those of a task together; number and seed determine them."""
    seed = mix(mix(mix(0, config.seed), number), 5) >> 2
    options = {"temperature": config.temperature, "top_k": config.top_k, "top_p": config.top_p, "logprobs": True}
    found = lm.generate([t.ids for t in tasks], config.max_tokens, n=n, seed=seed, **options)
    out = []
    for c in (c for group in found for c in group):
        end = [c.stop_reason] if isinstance(c.stop_reason, int) else []
        out.append(Answer(c.text, c.tokens + end, bool(end), c.logprobs))
    return out


class Rollouts(NamedTuple):
    """Prompts with answers as the model reads them, (N, T) int32 each: inputs, and targets, which are −1 outside the
    answers."""

    inputs: np.ndarray
    targets: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        return self.targets != IGNORED

    def part(self, start: int, end: int) -> Rollouts:
        """Return some of the rows, cut to the longest of them."""
        written = np.flatnonzero((self.targets[start:end] != IGNORED).any(axis=0))
        T = int(written[-1]) + 1 if len(written) else 1
        return Rollouts(self.inputs[start:end, :T], self.targets[start:end, :T])


def rollouts_of(tasks: Sequence[Task], found: Sequence[Answer], n: int) -> Rollouts:
    """Return n answers to each task as rollouts."""
    rows = [(tasks[i // n].ids, a.tokens) for i, a in enumerate(found)]
    T = max(len(p) + len(a) for p, a in rows) - 1
    inputs, targets = np.zeros((len(rows), T), np.int32), np.full((len(rows), T), IGNORED, np.int32)
    for r, (prompt, answer) in enumerate(rows):
        ids = np.array([*prompt, *answer], np.int32)
        inputs[r, : len(ids) - 1] = ids[:-1]
        targets[r, len(prompt) - 1 : len(ids) - 1] = ids[len(prompt) :]
    return Rollouts(inputs, targets)


def token_logps(model: CausalLM, rows: Rollouts, temperature: float, hidden: Tensor | None = None) -> Tensor:
    """Return the log-probability (N, T) of every token of the answers, 0 elsewhere."""
    h = model.hidden(rows.inputs) if hidden is None else hidden
    return ops.mul(model.loss_of(h, rows.targets, "none", temperature), -1.0)


def fixed_logps(model: CausalLM, rows: Rollouts, temperature: float, size: int) -> np.ndarray:
    """Return the same without gradients, `size` rows at a time."""
    found = np.zeros(rows.inputs.shape, np.float32)
    with autograd.no_grad():
        for start in range(0, len(found), size):
            part = rows.part(start, start + size)
            found[start : start + size, : part.inputs.shape[1]] = token_logps(model, part, temperature).numpy()
    return found


def agreement(found: Sequence[Answer], logps: np.ndarray, mask: np.ndarray) -> Mapping[str, float]:
    """Measure how far the log-probabilities of training are from those of the engine."""
    differences = [
        np.abs(np.asarray(a.logprobs) - logps[r][mask[r]][: len(a.logprobs)]) for r, a in enumerate(found) if a.logprobs
    ]
    every = np.concatenate(differences) if differences else np.zeros(1)
    return {
        "sampling/sampling_logp_difference/mean": float(every.mean()),
        "sampling/sampling_logp_difference/max": float(every.max()),
    }
