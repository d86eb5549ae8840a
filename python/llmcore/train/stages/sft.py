"""Supervised fine-tuning: a model learns to answer from conversations, prompts with completions, or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from llmcore._tensor import Tensor
from llmcore.data.conversations import Said, said
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, parts_of
from llmcore.data.rows import Row
from llmcore.evaluate.likelihood import target_logprobs
from llmcore.generate import LanguageModel
from llmcore.generate.chat.prompt import supervised_chat
from llmcore.generate.chat.template import ChatOptions
from llmcore.train import defaults, loop
from llmcore.train.config import FinetuneConfig, SFTConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune


@loop.on_config_device
def sft(
    config: SFTConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Fine-tune config.model on config.data and return it.

    Rows have `messages` ([{"role", "content"}, ...]), or `prompt` and `completion` (texts, or lists of messages), or
    `text`; beside them `tools`, `documents` and `chat_template_kwargs` for the chat template. The targets are what the assistant says, or the completion, or all of a text, with the token that ends it: a
    model that never saw that token would not stop. Writes to config.out what `pretrain` writes, and the chat template.

    Raises ValueError, one line, for rows with nothing to learn, and the same errors as `pretrain`.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
    with report.working("reading examples"):
        stage = SFTStage(config, lm, report)
    defaults.set_length(config, stage.train_count, stage.train.steps_per_epoch, report)
    report.note(
        f"{stage.train_count:,} examples in {len(stage.train.bins):,} rows to learn from, {stage.held_out_count:,} held out"
        + (f", {stage.cut:,} cut to {config.context} tokens" if stage.cut else "")
        + f"; {finetune.described(lm)}"
    )
    loop.run(stage, config, report, resume)
    return lm


def example_of(lm: LanguageModel, row: Row, config: FinetuneConfig | None = None) -> Example:
    """Return the tokens of a row and their loss mask. Raises ValueError for a malformed row."""
    return example_said(lm, said(row.fields), row, config)


def example_said(lm: LanguageModel, what: Said | str, row: Row, config: FinetuneConfig | None = None) -> Example:
    """Return the tokens of what a row says and their loss mask. Raises ValueError for what cannot be learned."""
    ids, mask = _tokens_of(lm, what, finetune.chat_options(lm, row.fields, config))
    e = Example(np.array(lm.checked(ids), np.int32), np.array(mask, bool))
    if not e.mask[1:].any():
        raise ValueError("expected something to learn, got no token of an assistant or a completion")
    return e


def _tokens_of(lm: LanguageModel, row: Said | str, options: ChatOptions) -> tuple[list[int], list[bool]]:
    if isinstance(row, Said):
        assert lm.chat_template is not None
        return supervised_chat(lm.chat_template, lm.tokenizer, row.messages, lm.end_ids, row.first, options)
    ids = lm.prompt_ids(row) + list(lm.end_ids[:1])
    start = len(lm.tokenizer.begin)
    return ids, [i >= start for i in range(len(ids))]


class SFTStage(finetune.FinetuneStage):
    """The supervised fine-tuning stage: rows of examples, and the loss of their targets."""

    name = "sft"

    def __init__(self, config: SFTConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm)
        self.config, self.cut = config, 0
        train, held_out, self.digest = finetune.read(config, self.name, self._example, report)
        self.prompts = [e.prompt for e in held_out]
        self.train_count, self.held_out_count = len(train), len(held_out)
        together = config.batch_size * config.accumulation
        if config.packing is None:
            packed = ExampleBatches(train, together, config.context, True, config.seed)
            config.packing = defaults.packs(len(packed.bins), config.accumulation)
        self.train = ExampleBatches(train, together, config.context, config.packing, config.seed)
        self.held_out = ExampleBatches(held_out, together, config.context, config.packing, config.seed)

    def _example(self, row: Row) -> Example:
        """Return the example of a row, cut to the context."""
        whole = example_of(self.language_model, row, self.config)
        short = whole.cut(self.config.context + 1)
        if not short.mask[1:].any():
            raise ValueError(
                f"expected something to learn in the first {self.config.context} tokens, got it after them"
            )
        self.cut += short is not whole
        return short

    def batches(self, step: int) -> Sequence[ExampleBatch]:
        whole = self.train.batch(step)
        parts = parts_of(len(whole.inputs), self.config.accumulation)
        return [p for p in (ExampleBatch(*(a[part] for a in whole)) for part in parts) if p.target_count]

    def tokens(self, batch: ExampleBatch) -> int:
        return int(batch.inputs.size)

    def loss(self, batch: ExampleBatch) -> tuple[Tensor, int]:
        return self.model.loss(batch.inputs, batch.targets, "sum", batch.starts), batch.target_count

    def evaluate(self) -> Mapping[str, float]:
        nats, right, count = 0.0, 0, 0
        for batch in self.held_out.in_order(self.config.batch_size) if self.held_out.bins else ():
            n, r, c = token_figures(self.language_model, batch)
            nats, right, count = nats + n, right + r, count + c
        return {"val/loss": nats / count, "val/mean_token_accuracy": right / count} if count else {}


def token_figures(lm: LanguageModel, batch: ExampleBatch) -> tuple[float, int, int]:
    """Return the loss of the targets in nats, how many of them are the most likely token, and their number."""
    logprobs, greedy = target_logprobs(lm.model, batch.inputs, batch.targets, batch.starts)
    return -float(logprobs.sum()), int(greedy.sum()), len(greedy)
