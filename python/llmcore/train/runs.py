"""Runs that have not finished, as models: what their newest checkpoint holds."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import _device, hub, train
from llmcore._names import known_arguments
from llmcore.errors import MissingFileError
from llmcore.generate import LanguageModel, loader
from llmcore.nn.module import assign
from llmcore.tokenizer import Tokenizer
from llmcore.train import checkpoint
from llmcore.train.config import FinetuneConfig, PretrainConfig
from llmcore.train.report import Report

_SAVED = ("config.json", "adapter_config.json")  # a model that was saved has one of these

_CONFIGS = {"pretrain": "PretrainConfig", "reward": "RewardConfig"}
_CONFIGS |= {name: f"{name.upper()}Config" for name in ("sft", "dpo", "kto", "ppo", "grpo")}


@known_arguments
def load(
    path: str | os.PathLike, dtype: str | None = None, quantize: str | None = None, device: str | None = None
) -> LanguageModel:
    """Load a model: a folder with config.json, model.safetensors (or its shards and their index) and tokenizer.json (or
    tokenizer.model), a single `.gguf` file, the name of a model that `llmcore pull` has fetched, a folder with an adapter in
    PEFT's format, which names its base, or the folder of a run that is running or was stopped: then its newest checkpoint,
    which `notes` names.

    dtype: "float32" or "bfloat16", the compute dtype; by default float32 if weights are quantized (their products use
    integers), else bfloat16 if the processor has instructions for it.
    quantize: "int8" or "int4" keeps matrices quantized in memory; "none" turns matrices that are quantized in the file
    into float32; by default they stay as they are there. Files are memory-mapped and read as their parts are used.
    device: "cpu" or "cuda", where the model is stored and computes; by default `llmcore.device()`.
    FileNotFoundError or ValueError, one line, for what is missing, broken or not supported; RuntimeError if "cuda" is not
    available.
    """
    folder = hub.resolve(path)
    if not is_unfinished(folder):
        return loader.load(path, dtype, quantize, device)
    loader.check_kinds(dtype, quantize)
    with _device.on(device):
        return _load(folder, dtype, quantize)


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder is that of a run whose model is not saved yet, or older than its checkpoints."""
    if (folder / checkpoint.UNFINISHED).is_file():
        return True
    return not any((folder / name).is_file() for name in _SAVED) and any(folder.glob("checkpoints/step-*"))


def _load(folder: Path, dtype: str | None, quantize: str | None) -> LanguageModel:
    warnings: list[str] = []
    found = checkpoint.read_newest(folder, warnings.append)
    if found is None:
        if any((folder / name).is_file() for name in _SAVED):  # continued, and not yet saved again
            return loader.load(folder, dtype, quantize)
        raise MissingFileError(
            "load", f"{folder} is a run that has saved no checkpoint yet: wait for the first (see --save-minutes)"
        )
    path, tensors, state = found
    stage, values = state.get("stage"), state.get("config")
    if stage not in _CONFIGS or not isinstance(values, dict):
        raise checkpoint.CheckpointError("load", path, expected="the checkpoint of a run", got="another")
    config = getattr(train, _CONFIGS[stage]).from_mapping(
        {**values, "out": str(folder), "device": None, "dtype": dtype or values.get("dtype")}
    )
    lm = _opened(config, folder, quantize)
    trainable = lm.model.trainable()
    assign(trainable, {name: _values(name, tensors, path) for name in trainable})
    if not getattr(config, "lora_rank", 0):
        lm.model.quantize(quantize)
        lm.source = folder.absolute()
        if dtype is None and lm.model.output_weight().quantized is not None:
            lm.model.dtype = "float32"
    lm.notes = (
        *lm.notes,
        *warnings,
        f"{folder} is a run that has not finished: this is its checkpoint of step {state.get('step')} of {config.steps}, "
        f"{_minutes_old(path):.0f} minutes old",
    )
    return lm


def _minutes_old(path: Path) -> float:
    try:
        return max(0.0, time.time() - path.stat().st_mtime) / 60
    except OSError:  # the run has removed it, because newer ones have come
        return 0.0


def _opened(config: FinetuneConfig | PretrainConfig, folder: Path, quantize: str | None) -> LanguageModel:
    """Return the model that a run started from, with the run's tokenizer."""
    if config.model is not None and not Path(config.model).exists() and (folder.parent / config.model).exists():
        config.model = str(folder.parent / config.model)  # the run began in the folder that it lies in
    if isinstance(config, FinetuneConfig):
        from llmcore.train.stages import finetune

        if config.lora_rank and quantize is not None:
            config.quantize = quantize
        lm = finetune.open_model(config, Report())
        finetune.prepare(lm, config.chat_template)
        return lm
    from llmcore.train.stages.pretrain import build_model, open_base

    if config.model is not None:
        return open_base(config, Report())
    tokenizer = Tokenizer.load(folder)
    return LanguageModel(build_model(config, tokenizer.vocab_size), tokenizer)


def _values(name: str, tensors: dict[str, Any], path: Path) -> np.ndarray:
    """Return the values of a parameter, averaged where the run averages them."""
    for prefix in ("ema.", "model."):
        if f"{prefix}{name}" in tensors:
            return tensors[f"{prefix}{name}"]
    raise checkpoint.CheckpointError("load", path, expected=f"a tensor model.{name}", got="none")
