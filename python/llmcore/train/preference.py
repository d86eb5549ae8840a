"""Preference optimisation: a model learns which of two answers is the better one (DPO and its relatives)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmcore import autograd, losses, ops
from llmcore._tensor import Tensor
from llmcore.data.errors import CorpusError
from llmcore.data.evaluation import IGNORED
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, is_held_out
from llmcore.data.rows import Row, read_rows
from llmcore.generate import LanguageModel
from llmcore.generate.chat import supervised_chat
from llmcore.losses.pointwise import sequence_logps, total
from llmcore.train import loop, tuning
from llmcore.train.config import DPOConfig
from llmcore.train.report import Report, TerminalReport
from llmcore.train.supervised import digest_of

LOSSES = (
    "sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
    "discopop", "sigmoid_norm", "simpo", "orpo",
)  # fmt: skip
_WITHOUT_REFERENCE = ("simpo", "orpo")
_SAMPLES = 3


def dpo(
    config: DPOConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train config.model on pairs and return it.

    Rows have `prompt`, `chosen` and `rejected` (texts, or lists of messages; without a prompt, whole conversations that
    begin alike). The log-probabilities of the model to begin with are computed once, before the first update. The log has
    TRL's names. Raises as `sft` does.
    """
    report = TerminalReport() if report is None else report
    if config.loss_type not in LOSSES:
        raise ValueError(f"[dpo] expected loss_type one of {', '.join(LOSSES)}, got {config.loss_type!r}")
    loop.check_out(config, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = tuning.open_model(config)
    with report.working("reading pairs, and what the model thinks of them"):
        stage = Preference(config, lm)
    if config.epochs > 0:
        config.steps = max(1, math.ceil(config.epochs * stage.train.batches.steps_per_epoch))
    report.note(
        f"{len(stage.train.pairs):,} pairs to learn from, {len(stage.held_out.pairs):,} held out; "
        f"{tuning.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return lm


class Pair(NamedTuple):
    """Two answers to a prompt, each with it."""

    chosen: Example
    rejected: Example


def pair_of(lm: LanguageModel, row: Row) -> Pair:
    """CorpusError, one line, names a row that cannot be used."""
    fields, where = row
    try:
        prompt, answers = _messages_of(fields)
        assert lm.chat_template is not None
        both = [supervised_chat(lm.chat_template, lm.tokenizer, prompt + a, lm.end_ids, len(prompt)) for a in answers]
    except (ValueError, TypeError) as error:
        raise CorpusError(f"[dpo] {where}: {' '.join(str(error).split())}") from None
    chosen, rejected = (Example(np.array(ids, np.int32), np.array(learned, bool)) for ids, learned in both)
    for name, e in (("chosen", chosen), ("rejected", rejected)):
        if not e.learned[1:].any():
            raise CorpusError(f"[dpo] {where}: expected an answer of the assistant in {name}, got none")
    return Pair(chosen, rejected)


def _messages_of(fields: Mapping[str, Any]) -> tuple[list, list[list]]:
    """The messages before the answers, and those of the chosen and the rejected one."""
    if "chosen" not in fields or "rejected" not in fields:
        names = ", ".join(list(map(str, fields))[:6]) or "none"
        raise ValueError(f"expected prompt, chosen and rejected; the fields are: {names}"[:200])
    answers = [fields["chosen"], fields["rejected"]]
    prompt = fields.get("prompt")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if all(isinstance(a, str) for a in answers):
        answers = [[{"role": "assistant", "content": a}] for a in answers]
    if not all(isinstance(a, list) for a in answers) or not isinstance(prompt, (list, type(None))):
        raise ValueError("expected prompt, chosen and rejected as texts, or as lists of messages")
    if prompt is None:  # two conversations that begin alike
        same = 0
        for a, b in zip(*answers, strict=False):
            if a != b:
                break
            same += 1
        prompt, answers = answers[0][:same], [a[same:] for a in answers]
    if not prompt:
        raise ValueError("expected a prompt, got none")
    return prompt, answers


class Pairs:
    """Pairs in batches; the examples are numbered chosen, rejected, chosen, rejected, ..."""

    def __init__(self, lm: LanguageModel, pairs: Sequence[Pair], config: DPOConfig):
        self.pairs = pairs
        examples = [e for p in pairs for e in p]
        self.examples = ExampleBatches(examples, 1, config.context, False, config.seed)
        together = config.batch_size * config.accumulation
        self.batches = ExampleBatches([p.chosen for p in pairs], together, config.context, False, config.seed)
        self.reference = np.zeros(len(examples), np.float32)
        if config.loss_type not in _WITHOUT_REFERENCE:
            for start in range(0, len(examples), 2 * config.batch_size):
                numbers = list(range(start, min(start + 2 * config.batch_size, len(examples))))
                with autograd.no_grad():
                    self.reference[numbers] = logps(lm, self.examples.of([[i] for i in numbers])).numpy()

    def of(self, numbers: Sequence[int]) -> PairBatch:
        """Of the pairs with these numbers: the chosen answers, then the rejected ones."""
        rows = [2 * i for i in numbers] + [2 * i + 1 for i in numbers]
        return PairBatch(self.examples.of([[i] for i in rows]), self.reference[rows])


class PairBatch(NamedTuple):
    """2B rows, the chosen ones first, and the reference's log-probability (2B) of each."""

    rows: ExampleBatch
    reference: np.ndarray


def logps(lm: LanguageModel, batch: ExampleBatch) -> Tensor:
    """The log-probability (B) of the learned tokens of each row."""
    return sequence_logps(lm.model.loss(batch.inputs, batch.targets, "none", batch.starts))


class Preference:
    """The stage (see `loop.Stage`): pairs, the loss of each."""

    name = "dpo"

    def __init__(self, config: DPOConfig, lm: LanguageModel):
        self.config, self.language_model, self.model = config, lm, lm.model
        tuning.check_context(self.name, config, lm)
        tuning.prepare(lm)
        rows = read_rows(config.data)
        self._digest = digest_of(rows)
        train: list[Pair] = []
        held_out: list[Pair] = []
        for row in rows:
            pair = Pair(*(e.cut(config.context + 1) for e in pair_of(lm, row)))
            if not all(e.learned[1:].any() for e in pair):
                continue  # an answer lies behind the context
            held = is_held_out(str(row.fields.get("group", row.fields)), config.validation_fraction)
            (held_out if held else train).append(pair)
        if not train:
            source = config.data if isinstance(config.data, str) else ", ".join(config.data)
            raise CorpusError(f"[dpo] {source}: expected pairs to learn from, got none that fit the context")
        self.train, self.held_out = Pairs(lm, train, config), Pairs(lm, held_out, config)
        self._seen: list[dict[str, np.ndarray]] = []

    def batches(self, step: int) -> Sequence[PairBatch]:
        tuning.begin_update(self.language_model, step)
        numbers = [row[0] for row in self.train.batches.numbers(step)]
        n = len(numbers) // self.config.accumulation
        return [self.train.of(numbers[i : i + n]) for i in range(0, len(numbers), n)]

    def tokens(self, batch: PairBatch) -> int:
        return int(batch.rows.inputs.size)

    def loss(self, batch: PairBatch) -> tuple[Tensor, int]:
        values, figures = self._losses(batch)
        self._seen.append(figures)
        return total(values), len(batch.reference) // 2

    def _losses(self, batch: PairBatch) -> tuple[Tensor, dict[str, np.ndarray]]:
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
        scale = (1 / n_c, 1 / n_r) if c.loss_type in ("simpo", "orpo") else (1.0, 1.0)
        rewards_c, rewards_r = c.beta * scale[0] * (p_c - reference_c), c.beta * scale[1] * (p_r - reference_r)
        return values, {
            "rewards/chosen": rewards_c,
            "rewards/rejected": rewards_r,
            "rewards/accuracies": (rewards_c > rewards_r).astype(np.float64),
            "rewards/margins": rewards_c - rewards_r,
            "logps/chosen": p_c,
            "logps/rejected": p_r,
        }

    def figures(self) -> Mapping[str, float]:
        seen, self._seen = self._seen, []
        return _means(seen)

    def evaluate(self) -> Mapping[str, float]:
        seen, values = [], []
        pairs, n = len(self.held_out.pairs), self.config.batch_size
        with autograd.no_grad():
            for start in range(0, pairs, n):
                loss, figures = self._losses(self.held_out.of(range(start, min(start + n, pairs))))
                seen.append(figures)
                values.append(loss.numpy())
        if not values:
            return {}
        return {"val/loss": float(np.concatenate(values).mean())} | {f"val/{k}": v for k, v in _means(seen).items()}

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        examples = [p.chosen for p in self.held_out.pairs[:_SAMPLES]]
        prompts = [e.ids[: int(np.flatnonzero(e.learned)[0])].tolist() for e in examples]
        if not prompts:
            return []
        answers = self.language_model.generate(prompts, self.config.sample_tokens, temperature=0)
        text = self.language_model.tokenizer.decode
        return [(text(p), str(a)) for p, a in zip(prompts, answers, strict=True)]

    def state(self) -> Mapping[str, object]:
        return {"pairs": self._digest, "vocab_size": self.model.config.vocab_size}

    def begin(self, directory: Path) -> None:
        tuning.begin(self.language_model, directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)


def _means(seen: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    return {k: float(np.concatenate([s[k] for s in seen]).mean()) for k in seen[0]} if seen else {}
