"""Pretraining: next-token prediction on raw text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmcore import autograd, data, models
from llmcore._tensor import Tensor
from llmcore.documents.separators import told
from llmcore.errors import Error
from llmcore.generate import LanguageModel, load
from llmcore.runtime import default_dtype
from llmcore.tokenizer import Tokenizer
from llmcore.train import defaults, loop
from llmcore.train.config import PretrainConfig
from llmcore.train.report import Report
from llmcore.train.stage import Stage
from llmcore.train.stages.finetune import CONTEXT
from llmcore.train.stages.texts import HeldOut, Marks, Text, encoded, open_held_out, open_texts, warn_of_overlap

STEPS = 1000  # the default, and the most updates of continued training by default


@loop.on_config_device
def pretrain(
    config: PretrainConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train a language model on config.data and return it: a new one, or config.model.

    Writes to config.out: config.json, model.safetensors and tokenizer.json (the model, which `llmcore.load` opens),
    log.jsonl (one line per update) and checkpoints/ (from which `resume=True` continues bit for bit). An earlier run there
    is refused with FileExistsError, or replaced with `overwrite=True` once everything else has been checked. Raises
    ValueError for unusable text or settings, `CheckpointError` if saving fails, `TrainingError` if the loss is not finite.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    base = None if config.model is None else open_base(config, report)
    given = base.tokenizer if base is not None else _given_tokenizer(config, resume)
    with report.working("reading text"):
        texts = open_texts(config, given, report)
    tokenizer = given or _tokenizer(config, texts, report)
    marks = Marks.of(tokenizer, () if base is None else base.end_ids)
    for text in texts:
        spelled = text.marks(tokenizer) if isinstance(text, data.Corpus) else None
        if spelled:
            report.note(told(spelled))
    with report.working("encoding text"):
        held_out = open_held_out(config, tokenizer, marks, report) if config.validation else None
        stage = PretrainStage(config, texts, tokenizer, held_out, base)
    if held_out:
        warn_of_overlap(config, texts, report)
    c = stage.model.config
    report.note(
        f"{', '.join(t.name for t in texts)}: {sum(t.train_bytes for t in texts) / 1e6:.2f} MB to learn from "
        f"({stage.tokens_to_learn:,} tokens), {stage.validation_bytes / 1e6:.2f} MB held out; {c.model_type} of "
        f"{stage.model.num_parameters / 1e6:.2f}M parameters, vocabulary {c.vocab_size}, {stage.model.dtype}"
    )
    if base is not None:
        stage.set_length(report)
    loop.run(stage, config, report, resume)
    return stage.language_model


def open_base(config: PretrainConfig, report: Report) -> LanguageModel:
    """Load the model that is trained on, all of whose weights become float32; adapters that it had are merged."""
    assert config.model is not None
    if Path(config.out).resolve() == Path(config.model).resolve():
        raise Error("train", expected="another --out than the --model", got=config.out)
    with report.working(f"loading {config.model}"):
        lm = load(config.model, config.dtype, quantize="none").merged()
    for note in lm.notes:
        report.note(note)
    lm.add_tokens(config.add_tokens, special=False)
    limit = lm.config.context
    config.context = config.context or min(CONTEXT, limit)
    if config.context > limit:
        raise Error("pretrain", expected=f"a context of at most {limit} (the model's)", got=config.context)
    config.lr = config.lr or defaults.learning_rate(config.base_lr, lm.config.width, lora=False)
    return lm


def _given_tokenizer(config: PretrainConfig, resume: bool) -> Tokenizer | None:
    if resume and Path(config.out, "tokenizer.json").is_file():
        return Tokenizer.load(config.out)
    return None if config.tokenizer is None else Tokenizer.load(config.tokenizer)


def _tokenizer(config: PretrainConfig, texts: list[Text], report: Report) -> Tokenizer:
    for text in texts:
        if not isinstance(text, data.Corpus):
            return text.tokenizer
    assert config.pattern is not None
    with report.working(f"training a tokenizer of {config.vocab_size} tokens"):
        documents = (d for text in texts if isinstance(text, data.Corpus) for d in text.train)
        return Tokenizer.train(documents, config.vocab_size, pattern=config.pattern)


def build_model(config: PretrainConfig, vocab_size: int) -> models.CausalLM:
    """Return the model that a configuration describes, with new random weights."""
    sizes = {name: getattr(config, name) for name in ("context", "width", "layers", "heads")}
    sizes["vocab_size"] = vocab_size
    dtype = config.dtype or default_dtype()
    if config.architecture == "llama":
        return models.Llama(models.LlamaConfig(**sizes, kv_heads=config.kv_heads), dtype, config.seed)  # type: ignore[arg-type]
    return models.GPT2(models.GPT2Config(**sizes), dtype, config.seed)


class Batch(NamedTuple):
    """int32 (B, T) each. starts: where in its row the document of each token starts, if documents are kept apart."""

    inputs: np.ndarray
    targets: np.ndarray
    starts: np.ndarray | None


class PretrainStage(Stage):
    """The pretraining stage: windows of token streams, and the loss of each token given those before it."""

    name = "pretrain"
    prefetch = True
    resizable = True

    def __init__(
        self,
        config: PretrainConfig,
        texts: Sequence[Text],
        tokenizer: Tokenizer,
        held_out: Sequence[HeldOut] | None = None,
        base: LanguageModel | None = None,
    ):
        """held_out: text to evaluate in place of what the texts hold out. base: the model to train on, in place of a new one."""
        self.config, self.texts = config, texts
        self.marks = Marks.of(tokenizer, () if base is None else base.end_ids)
        if config.isolate and self.marks.first is None:
            raise Error("data", expected="a tokenizer with an end-of-text token where documents are kept apart")
        streams = [encoded(text, tokenizer, self.marks) for text in texts]
        self.tokens_to_learn = sum(len(tokens) for tokens, _ in streams)
        each = [data.TokenBatches(tokens, 1, config.context, config.seed) for tokens, _ in streams]
        self.windows_per_epoch = sum(text.windows_per_epoch for text in each)
        self.train_batches = data.MixedBatches(each, config.weights, config.seed) if config.weights else each[0]
        if held_out is None:
            pairs = zip(texts, streams, strict=True)
            held_out = [HeldOut(t.name, np.asarray(s[1]), t.validation_bytes, "") for t, s in pairs]
        self.held_out = held_out
        self.windows = [
            data.evaluation_windows(part.tokens, config.context, self.marks.end, self.marks.begin) for part in held_out
        ]
        self.language_model = base or LanguageModel(build_model(config, tokenizer.vocab_size), tokenizer)
        self.model = self.language_model.model
        if base is not None:
            self._check_rows([s for pair in streams for s in pair] + [part.tokens for part in held_out])
            config.batch_size = config.batch_size or defaults.batch_size(self.windows_per_epoch, config.accumulation)

    def _check_rows(self, streams: Sequence[data.TokenBatches]) -> None:
        """Raise ValueError for a text with a token that the model has no row for."""
        if self.language_model.tokenizer.vocab_size > self.model.config.vocab_size:
            for stream in streams:
                self.language_model.checked(np.unique(np.asarray(stream)).tolist())

    def set_length(self, report: Report) -> None:
        """Set the steps of continued training where they are open, and say what the run will do."""
        config = self.config
        passes = defaults.epochs(self.windows_per_epoch)
        together = config.batch_size * config.accumulation
        asked = bool(config.steps)
        config.steps = config.steps or min(STEPS, math.ceil(passes * self.windows_per_epoch / together))
        passes = config.steps * together / self.windows_per_epoch
        report.note(f"{config.steps:,} updates, {passes:.3g} epochs, at a learning rate of up to {config.lr:g}")
        if not asked and config.steps < defaults.HANDFUL:
            report.warn(f"{config.steps} updates are a handful, from which a model learns little: give more text")

    @property
    def validation_bytes(self) -> int:
        return sum(part.bytes for part in self.held_out)

    def batches(self, step: int) -> Sequence[Batch]:
        n = self.config.accumulation
        rows = self.config.batch_size * n
        inputs, targets = self.train_batches.rows(self.first_row + step * rows, rows)
        return [self._batch(*part) for part in zip(np.split(inputs, n), np.split(targets, n), strict=True)]

    def _batch(self, inputs: np.ndarray, targets: np.ndarray) -> Batch:
        starts = data.document_starts(inputs, self.marks.first) if self.config.isolate else None  # type: ignore[arg-type]
        return Batch(inputs, targets, starts)

    def tokens(self, batch: Batch) -> int:
        return batch.inputs.size

    def watched(self) -> Sequence[Mapping[str, Sequence[float]]]:
        table, encode = self.model.tokens.weight.array.numpy(), self.language_model.tokenizer.encode_ordinary
        groups = [group.split() for group in self.config.watch]
        return [{w: _rounded(table[encode(f" {w}")].mean(axis=0)) for w in words} for words in groups]

    def flops_per_token(self) -> float:
        return self.model.training_flops(self.config.context)

    def loss(self, batch: Batch) -> tuple[Tensor, int]:
        return self.model.loss(batch.inputs, batch.targets, "sum", batch.starts), batch.targets.size

    def evaluate(self) -> Mapping[str, float]:
        nats = []
        with autograd.no_grad():
            for windows in self.windows:
                parts = (self._batch(*part) for part in windows.batches(self.config.batch_size))
                nats.append(sum(self.model.loss(b.inputs, b.targets, "sum", b.starts).item() for b in parts))
        figures = {
            "val/loss": sum(nats) / sum(w.predicted for w in self.windows),
            "val/bpb": data.bits_per_byte(sum(nats), self.validation_bytes),
        }
        if len(self.held_out) > 1:
            for n, part in zip(nats, self.held_out, strict=True):
                figures[f"val/bpb/{part.name}"] = data.bits_per_byte(n, part.bytes)
        return figures

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        prompts = self.config.sample_prompts
        if not prompts or self.config.context < 2:
            return []
        # Only the end of a prompt is read, so that there is room to write.
        room = max(1, self.config.context // 2)
        ids = [self.language_model.prompt_ids(p)[-room:] for p in prompts]
        done = self.language_model.generate(ids, self.config.sample_tokens, temperature=0.8, seed=self.config.seed)
        return [(p, str(c)) for p, c in zip(prompts, done, strict=True)]

    def state(self) -> Mapping[str, object]:
        corpus = " ".join([*(t.digest for t in self.texts), *(part.digest for part in self.held_out if part.digest)])
        return {"corpus": corpus, "vocab_size": self.model.config.vocab_size}

    def begin(self, directory: Path) -> None:
        self.language_model.tokenizer.save(directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)


def _rounded(vector: np.ndarray) -> list[float]:
    return [round(x, 5) for x in vector.tolist()]
