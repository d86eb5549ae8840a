"""Pretraining: next-token prediction on raw text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from llmcore import autograd, data, models
from llmcore._tensor import Tensor
from llmcore.generate import LanguageModel
from llmcore.runtime import default_dtype
from llmcore.tokenizer import Tokenizer
from llmcore.train import loop
from llmcore.train.config import PretrainConfig
from llmcore.train.report import Report, TerminalReport


def pretrain(
    config: PretrainConfig, resume: bool = False, report: Report | None = None, overwrite: bool = False
) -> LanguageModel:
    """Train a language model on config.data and return it.

    Writes to config.out: config.json, model.safetensors and tokenizer.json (the model, which `llmcore.load` opens),
    log.jsonl (one line an update), checkpoints/ (from which `resume=True` continues bit for bit). An earlier run
    there is refused with FileExistsError, or replaced with `overwrite=True` once all else is in order. Raises ValueError
    for text or settings that cannot be used, `CheckpointError` where saving fails, `TrainingError` where the loss is no
    number.
    """
    report = TerminalReport() if report is None else report
    loop.check_out(config, resume, overwrite)
    with report.working("reading text"):
        corpus = _corpus(config)
    tokenizer = _tokenizer(config, corpus, resume, report)
    with report.working("encoding text"):
        stage = Pretraining(config, corpus, tokenizer)
    c = stage.model.config
    report.note(
        f"{corpus.name}: {corpus.train_bytes / 1e6:.2f} MB to learn from ({len(stage.train_batches.tokens):,} tokens), "
        f"{corpus.validation_bytes / 1e6:.2f} MB held out; {config.architecture} of {stage.model.num_parameters / 1e6:.2f}M "
        f"parameters, vocabulary {c.vocab_size}, {stage.model.dtype}"
    )
    loop.run(stage, config, report, resume)
    return stage.language_model


def _corpus(config: PretrainConfig) -> data.Corpus | data.ShardSet:
    sources = [config.data] if isinstance(config.data, str) else config.data
    if any(map(data.is_shard_set, sources)):
        if len(sources) > 1:
            raise ValueError(f"[data] expected one directory of shards, got it beside others: {', '.join(sources)}")
        return data.ShardSet(sources[0], config.validation_fraction)
    return data.read_corpus(sources, config.validation_fraction, config.field)


def _tokenizer(config: PretrainConfig, corpus: data.Corpus | data.ShardSet, resume: bool, report: Report) -> Tokenizer:
    if resume and Path(config.out, "tokenizer.json").is_file():
        return Tokenizer.load(config.out)
    if config.tokenizer is not None:
        return Tokenizer.load(config.tokenizer)
    if isinstance(corpus, data.ShardSet):
        return corpus.tokenizer
    with report.working(f"training a tokenizer of {config.vocab_size} tokens"):
        return Tokenizer.train(iter(corpus.train), config.vocab_size, pattern=config.pattern)


def build_model(config: PretrainConfig, vocab_size: int) -> models.CausalLM:
    """The model that a configuration describes, with fresh weights."""
    sizes = {name: getattr(config, name) for name in ("context", "width", "layers", "heads")}
    sizes["vocab_size"] = vocab_size
    dtype = config.dtype or default_dtype()
    if config.architecture == "llama":
        return models.Llama(models.LlamaConfig(**sizes, kv_heads=config.kv_heads), dtype, config.seed)  # type: ignore[arg-type]
    return models.GPT2(models.GPT2Config(**sizes), dtype, config.seed)


class Pretraining(loop.Stage):
    """The stage (see `loop.Stage`): windows of a token stream, each token's loss given those before it."""

    name = "pretrain"

    def __init__(self, config: PretrainConfig, corpus: data.Corpus | data.ShardSet, tokenizer: Tokenizer):
        self.config, self.corpus = config, corpus
        tokens, held_out = corpus.encode(tokenizer)
        rows = config.batch_size * config.accumulation
        self.train_batches = data.TokenBatches(tokens, rows, config.context, config.seed)
        self.windows = data.evaluation_windows(np.asarray(held_out), config.context, tokenizer.end_of_text)
        self.model = build_model(config, tokenizer.vocab_size)
        self.language_model = LanguageModel(self.model, tokenizer)

    def batches(self, step: int) -> Sequence[tuple[np.ndarray, np.ndarray]]:
        inputs, targets = self.train_batches.batch(step)
        n = self.config.accumulation
        return list(zip(np.split(inputs, n), np.split(targets, n), strict=True))

    def tokens(self, batch) -> int:
        return batch[0].size

    def loss(self, batch) -> tuple[Tensor, int]:
        inputs, targets = batch
        return self.model.loss(inputs, targets, reduction="sum"), targets.size

    def evaluate(self) -> Mapping[str, float]:
        nats = 0.0
        with autograd.no_grad():
            for inputs, targets in self.windows.batches(self.config.batch_size):
                nats += self.model.loss(inputs, targets, reduction="sum").item()
        return {
            "val/loss": nats / self.windows.predicted,
            "val/bpb": data.bits_per_byte(nats, self.corpus.validation_bytes),
        }

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        prompts = self.config.sample_prompts
        if not prompts or self.config.context < 2:
            return []
        # A prompt that leaves no room to write in is read from its end only.
        room = max(1, self.config.context // 2)
        ids = [self.language_model.tokenizer.encode_ordinary(p)[-room:] for p in prompts]
        done = self.language_model.generate(ids, self.config.sample_tokens, temperature=0.8, seed=self.config.seed)
        return [(p, str(c)) for p, c in zip(prompts, done, strict=True)]

    def state(self) -> Mapping[str, object]:
        return {"corpus": self.corpus.digest, "vocab_size": self.model.config.vocab_size}

    def begin(self, directory: Path) -> None:
        self.language_model.tokenizer.save(directory)

    def save(self, directory: Path) -> None:
        self.language_model.save(directory)
