"""Pretraining: next-token prediction on raw text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from llmcore import autograd, data, models
from llmcore._tensor import Tensor
from llmcore.documents.separators import told
from llmcore.errors import Error
from llmcore.generate import LanguageModel
from llmcore.runtime import default_dtype
from llmcore.tokenizer import Tokenizer
from llmcore.train import loop
from llmcore.train.config import PretrainConfig
from llmcore.train.report import Report
from llmcore.train.stage import Stage


@loop.on_config_device
def pretrain(
    config: PretrainConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train a language model on config.data and return it.

    Writes to config.out: config.json, model.safetensors and tokenizer.json (the model, which `llmcore.load` opens),
    log.jsonl (one line per update) and checkpoints/ (from which `resume=True` continues bit for bit). An earlier run there
    is refused with FileExistsError, or replaced with `overwrite=True` once everything else has been checked. Raises
    ValueError for unusable text or settings, `CheckpointError` if saving fails, `TrainingError` if the loss is not finite.
    """
    report = loop.prepare_run(config, report, resume, overwrite)
    with report.working("reading text"):
        texts = _texts(config, resume)
    tokenizer = _tokenizer(config, texts, resume, report)
    for text in texts:
        marks = text.marks(tokenizer) if isinstance(text, data.Corpus) else None
        if marks:
            report.note(told(marks))
    with report.working("encoding text"):
        stage = PretrainStage(config, texts, tokenizer)
    c = stage.model.config
    report.note(
        f"{', '.join(t.name for t in texts)}: {sum(t.train_bytes for t in texts) / 1e6:.2f} MB to learn from "
        f"({stage.tokens_to_learn:,} tokens), {stage.validation_bytes / 1e6:.2f} MB held out; {config.architecture} of "
        f"{stage.model.num_parameters / 1e6:.2f}M parameters, vocabulary {c.vocab_size}, {stage.model.dtype}"
    )
    loop.run(stage, config, report, resume)
    return stage.language_model


Text = data.Corpus | data.ShardSet | data.TokenFile


def _texts(config: PretrainConfig, resume: bool) -> list[Text]:
    """Return a text for each of config.weights; without weights, one text of all sources."""
    sources = [config.data] if isinstance(config.data, str) else config.data
    apart = [[s] for s in sources] if config.weights else [sources]
    return [_text(some, config, resume) for some in apart]


def _text(sources: list[str], config: PretrainConfig, resume: bool) -> Text:
    tokens = [s for s in sources if data.is_shard_set(s) or data.is_token_file(s)]
    if not tokens:
        return data.read_corpus(sources, config.validation_fraction, config.field, config.separators)
    if len(sources) > 1:
        raise Error(
            "data",
            expected="tokens by themselves, or --weights for each",
            got=f"{tokens[0]} beside others: {', '.join(sources)}",
        )
    if data.is_shard_set(tokens[0]):
        return data.ShardSet(tokens[0], config.validation_fraction)
    given = _given_tokenizer(config, resume)
    if given is None:
        raise Error("data", expected=f"the --tokenizer that {tokens[0]} was made with", got="none")
    return data.TokenFile(tokens[0], given, config.validation_fraction, config.token_dtype)


def _given_tokenizer(config: PretrainConfig, resume: bool) -> Tokenizer | None:
    if resume and Path(config.out, "tokenizer.json").is_file():
        return Tokenizer.load(config.out)
    return None if config.tokenizer is None else Tokenizer.load(config.tokenizer)


def _tokenizer(config: PretrainConfig, texts: list[Text], resume: bool, report: Report) -> Tokenizer:
    given = _given_tokenizer(config, resume)
    if given is not None:
        return given
    for text in texts:
        if not isinstance(text, data.Corpus):
            return text.tokenizer
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

    def __init__(self, config: PretrainConfig, texts: Sequence[Text], tokenizer: Tokenizer):
        self.config, self.texts = config, texts
        self.end_of_text = tokenizer.end_of_text
        if config.isolate and self.end_of_text is None:
            raise Error("data", expected="a tokenizer with an end-of-text token where documents are kept apart")
        streams = [text.encode(tokenizer) for text in texts]
        self.tokens_to_learn = sum(len(tokens) for tokens, _ in streams)
        each = [data.TokenBatches(tokens, 1, config.context, config.seed) for tokens, _ in streams]
        self.train_batches = data.MixedBatches(each, config.weights, config.seed) if config.weights else each[0]
        self.windows = [
            data.evaluation_windows(np.asarray(held_out), config.context, self.end_of_text) for _, held_out in streams
        ]
        self.model = build_model(config, tokenizer.vocab_size)
        self.language_model = LanguageModel(self.model, tokenizer)

    @property
    def validation_bytes(self) -> int:
        return sum(text.validation_bytes for text in self.texts)

    def batches(self, step: int) -> Sequence[Batch]:
        n = self.config.accumulation
        rows = self.config.batch_size * n
        inputs, targets = self.train_batches.rows(self.first_row + step * rows, rows)
        return [self._batch(*part) for part in zip(np.split(inputs, n), np.split(targets, n), strict=True)]

    def _batch(self, inputs: np.ndarray, targets: np.ndarray) -> Batch:
        starts = data.document_starts(inputs, self.end_of_text) if self.config.isolate else None  # type: ignore[arg-type]
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
        if len(self.texts) > 1:
            for n, text in zip(nats, self.texts, strict=True):
                figures[f"val/bpb/{text.name}"] = data.bits_per_byte(n, text.validation_bytes)
        return figures

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        prompts = self.config.sample_prompts
        if not prompts or self.config.context < 2:
            return []
        # Only the end of a prompt is read, so that there is room to write.
        room = max(1, self.config.context // 2)
        ids = [self.language_model.tokenizer.encode_ordinary(p)[-room:] for p in prompts]
        done = self.language_model.generate(ids, self.config.sample_tokens, temperature=0.8, seed=self.config.seed)
        return [(p, str(c)) for p, c in zip(prompts, done, strict=True)]

    def state(self) -> Mapping[str, object]:
        return {"corpus": " ".join(t.digest for t in self.texts), "vocab_size": self.model.config.vocab_size}

    def begin(self, directory: Path) -> None:
        self.language_model.tokenizer.save(directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)


def _rounded(vector: np.ndarray) -> list[float]:
    return [round(x, 5) for x in vector.tolist()]
