"""Supervised fine-tuning: a model learns to answer, from conversations, prompts with completions, or texts."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import autograd, ops
from llmcore._tensor import Tensor
from llmcore.data.errors import CorpusError
from llmcore.data.evaluation import IGNORED
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, is_held_out
from llmcore.data.rows import Row, read_rows
from llmcore.generate import LanguageModel
from llmcore.generate.chat import supervised_chat
from llmcore.train import loop, tuning
from llmcore.train.config import SFTConfig
from llmcore.train.report import Report, TerminalReport

_ROWS = 256  # of hidden states whose logits exist at a time
_SAMPLES = 3


def sft(
    config: SFTConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Fine-tune config.model on config.data and return it.

    Rows have `messages` ([{"role", "content"}, ...]), or `prompt` and `completion` (texts, or lists of messages), or
    `text`. Learned is what the assistant says, or the completion, or all of a text, with the token that ends it: a model
    that never saw it would not stop. Writes to config.out what `pretrain` writes, and the chat template.

    Raises ValueError, one line, for rows that hold nothing to learn, and as `pretrain` does.
    """
    report = TerminalReport() if report is None else report
    loop.check_out(config, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = tuning.open_model(config)
    with report.working("reading examples"):
        stage = SupervisedFineTuning(config, lm)
    if config.epochs > 0:
        config.steps = max(1, math.ceil(config.epochs * stage.train.steps_per_epoch))
    report.note(
        f"{stage.train_count:,} examples in {len(stage.train.bins):,} rows to learn from, {stage.held_out_count:,} held out"
        + (f", {stage.cut:,} cut to {config.context} tokens" if stage.cut else "")
        + f"; {tuning.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return lm


def example_of(lm: LanguageModel, row: Row) -> Example:
    """The tokens of a row, and which are learned. ValueError, one line, names a row that cannot be used."""
    fields, where = row
    try:
        ids, learned = _tokens_of(lm, fields)
    except (ValueError, TypeError) as error:
        raise CorpusError(f"[sft] {where}: {' '.join(str(error).split())}") from None
    e = Example(np.array(ids, np.int32), np.array(learned, bool))
    if not e.learned[1:].any():
        raise CorpusError(f"[sft] {where}: expected something to learn, got no token of an assistant or a completion")
    return e


def _tokens_of(lm: LanguageModel, fields: Mapping[str, Any]) -> tuple[list[int], list[bool]]:
    if "messages" in fields:
        assert lm.chat_template is not None
        return supervised_chat(lm.chat_template, lm.tokenizer, fields["messages"], lm.end_ids)
    if "prompt" in fields and "completion" in fields:
        prompt, completion = fields["prompt"], fields["completion"]
        if isinstance(prompt, str) and isinstance(completion, str):
            prompt = [{"role": "user", "content": prompt}]
            completion = [{"role": "assistant", "content": completion}]
        if not isinstance(prompt, list) or not isinstance(completion, list):
            raise ValueError("expected prompt and completion as texts, or as lists of messages")
        assert lm.chat_template is not None
        return supervised_chat(lm.chat_template, lm.tokenizer, prompt + completion, lm.end_ids, len(prompt))
    if isinstance(fields.get("text"), str):
        ids = lm.prompt_ids(fields["text"]) + list(lm.end_ids[:1])
        start = len(lm.tokenizer.begin)
        return ids, [i >= start for i in range(len(ids))]
    names = ", ".join(list(map(str, fields))[:6]) or "none"
    raise ValueError(f"expected messages, prompt and completion, or text; the fields are: {names}"[:200])


class SupervisedFineTuning:
    """The stage (see `loop.Stage`): rows of examples, the loss of the tokens that are learned."""

    name = "sft"

    def __init__(self, config: SFTConfig, lm: LanguageModel):
        self.config, self.language_model, self.model = config, lm, lm.model
        tuning.check_context(self.name, config, lm)
        tuning.prepare(lm)
        train, held_out, self._prompts = [], [], []
        self.cut = 0
        rows = read_rows(config.data)
        self._digest = digest_of(rows)
        for row in rows:
            example = example_of(lm, row)
            short = example.cut(config.context + 1)
            self.cut += short is not example
            if not short.learned[1:].any():
                continue  # its answer lies behind the context
            if is_held_out(str(row.fields.get("group", row.fields)), config.validation_fraction):
                held_out.append(short)
                self._prompts.append(_prompt_of(example))
            else:
                train.append(short)
        if not train:
            source = config.data if isinstance(config.data, str) else ", ".join(config.data)
            raise CorpusError(f"[sft] {source}: expected examples to learn from, got none that fit the context")
        self.train_count, self.held_out_count = len(train), len(held_out)
        together = config.batch_size * config.accumulation
        self.train = ExampleBatches(train, together, config.context, config.packing, config.seed)
        self.held_out = ExampleBatches(held_out, together, config.context, config.packing, config.seed)

    def batches(self, step: int) -> Sequence[ExampleBatch]:
        tuning.begin_update(self.language_model, step)
        whole = self.train.batch(step)
        n = self.config.accumulation
        parts = [ExampleBatch(*p) for p in zip(*(np.split(a, n) for a in whole), strict=True)]
        return [p for p in parts if p.learned]

    def tokens(self, batch: ExampleBatch) -> int:
        return int(batch.inputs.size)

    def loss(self, batch: ExampleBatch) -> tuple[Tensor, int]:
        return self.model.loss(batch.inputs, batch.targets, "sum", batch.starts), batch.learned

    def figures(self) -> Mapping[str, float]:
        return {}

    def evaluate(self) -> Mapping[str, float]:
        nats, right, count = 0.0, 0, 0
        for batch in self.held_out.in_order(self.config.batch_size) if self.held_out.bins else ():
            n, r, c = token_figures(self.language_model, batch)
            nats, right, count = nats + n, right + r, count + c
        return {"val/loss": nats / count, "val/mean_token_accuracy": right / count} if count else {}

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        prompts = [p for p in self._prompts if 0 < len(p) < self.model.config.context][:_SAMPLES]
        if not prompts:
            return []
        answers = self.language_model.generate(prompts, self.config.sample_tokens, temperature=0)
        text = self.language_model.tokenizer.decode
        return [(text(p), str(a)) for p, a in zip(prompts, answers, strict=True)]

    def state(self) -> Mapping[str, object]:
        return {"examples": self._digest, "vocab_size": self.model.config.vocab_size}

    def begin(self, directory: Path) -> None:
        tuning.begin(self.language_model, directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)


def token_figures(lm: LanguageModel, batch: ExampleBatch) -> tuple[float, int, int]:
    """Of the learned tokens: their loss in nats, how many are the likeliest at their place, and how many they are."""
    with autograd.no_grad():
        hidden = lm.model.hidden(batch.inputs, starts=batch.starts)
        at = np.flatnonzero(batch.targets.reshape(-1) != IGNORED).astype(np.int32)
        targets = batch.targets.reshape(-1)[at]
        rows = hidden.reshape(batch.inputs.size, hidden.shape[-1])
        nats, right = 0.0, 0
        for start in range(0, len(at), _ROWS):
            part, wanted = at[start : start + _ROWS], targets[start : start + _ROWS]
            logits = lm.model.logits(ops.gather_rows(rows, part))
            nats += ops.cross_entropy(logits, wanted, "sum").item()
            right += int((logits.numpy().argmax(axis=1) == wanted).sum())
    return nats, right, len(at)


def _prompt_of(example: Example) -> list[int]:
    """What stands before its first answer."""
    return example.ids[: int(np.flatnonzero(example.learned)[0])].tolist()


def digest_of(rows: Sequence[Row]) -> str:
    """32 hex digits that change with any row."""
    digest = hashlib.blake2b(digest_size=16)
    for row in rows:
        digest.update(json.dumps(row.fields, sort_keys=True, default=str).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
