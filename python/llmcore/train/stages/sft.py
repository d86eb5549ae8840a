"""Supervised fine-tuning: a model learns to answer from conversations, prompts with completions, or texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmcore._tensor import Tensor
from llmcore.data.conversations import said
from llmcore.data.examples import Example, ExampleBatch, ExampleBatches, parts_of
from llmcore.data.rows import Row
from llmcore.evaluate.likelihood import target_logprobs
from llmcore.generate import LanguageModel
from llmcore.train import defaults, loop
from llmcore.train.config import FinetuneConfig, SFTConfig
from llmcore.train.report import Report
from llmcore.train.stages import finetune
from llmcore.train.stages.learning import Learning


@loop.on_config_device
def sft(
    config: SFTConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Fine-tune config.model on config.data and return it.

    Rows have `messages` ([{"role", "content"}, ...]), or `prompt` and `completion` (texts, or lists of messages), or
    `text`; beside them `tools`, `documents` and `chat_template_kwargs` for the chat template. The targets are what the assistant says, or the
    completion, each with the token that ends it (a model that never saw that token would not stop), or all of a text; or what
    config.learn says. Control tokens that a text spells are tokens, those that a message spells are not. Writes to config.out what `pretrain` writes, and the chat template.

    Raises ValueError, one line, for rows with nothing to learn, and the same errors as `pretrain`.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working(f"loading {config.model}"):
        lm = finetune.open_model(config, report)
    with report.working("reading examples"):
        stage = SFTStage(config, lm, report)
    defaults.set_length(config, stage.train_count, stage.train.steps_per_epoch, report)
    report.note(
        f"{stage.train_count:,} examples in {len(stage.train.bins):,} rows to learn from, {stage.held_out_count:,} held out; "
        f"{finetune.described(lm)}"
    )
    finetune.say(report, stage.learning.notes())
    loop.run(stage, config, report, resume)
    return lm


def examples_of(learning: Learning, row: Row, config: FinetuneConfig | None = None) -> list[Example]:
    """Return the examples of a row: one, or several where its template wants that. Raises ValueError for a malformed row."""
    what = said(row.fields)
    if isinstance(what, str):
        return [learning.text(what)]
    return learning.conversation(what.messages, what.first, finetune.chat_options(learning.lm, row.fields, config))


class SFTStage(finetune.FinetuneStage):
    """The supervised fine-tuning stage: rows of examples, and the loss of their targets."""

    name = "sft"

    def __init__(self, config: SFTConfig, lm: LanguageModel, report: Report):
        super().__init__(config, lm)
        self.config, self.learning = config, Learning(lm, config)
        rows = finetune.read(config, self.name, lambda row: examples_of(self.learning, row, config), report)
        self.digest = rows.digest
        train, held_out = ([e for examples in part for e in examples] for part in (rows.train, rows.held_out))
        self.prompts = [e.prompt for e in held_out]
        self.train_count, self.held_out_count = len(train), len(held_out)
        together = config.batch_size * config.accumulation
        if config.packing is None:
            packed = ExampleBatches(train, together, config.context, True, config.seed)
            config.packing = defaults.packs(len(packed.bins), config.accumulation)
        self.train = ExampleBatches(train, together, config.context, config.packing, config.seed)
        self.held_out = ExampleBatches(held_out, together, config.context, config.packing, config.seed)

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
