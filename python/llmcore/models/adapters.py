"""Low-rank adapters of a model (LoRA): attached by layer name, merged, and stored in PEFT's format, so that adapters trained
here work there and vice versa."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import nn
from llmcore._files import write_atomically
from llmcore.errors import Error, MissingFileError
from llmcore.formats import safetensors
from llmcore.models.adapter_config import ALL_LINEAR, CONFIG, is_target, read_config, should_have
from llmcore.models.base import CausalLM
from llmcore.models.weights import Part, rows_of_parts
from llmcore.nn.lora import Dropout, LoRA, LoRALinear

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoRAConfig:
    """rank and alpha of every adapter; dropout of their inputs. targets: last parts of the layers' names in the Hugging Face
    format ("q_proj"), a regular expression for whole names, or "all-linear"."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL_LINEAR

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise Error("lora", expected="rank >= 1", got=self.rank)
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise Error("lora", expected="alpha > 0", got=self.alpha)
        if not 0 <= self.dropout < 1:
            raise Error("lora", expected="dropout in [0, 1)", got=self.dropout)
        if not isinstance(self.targets, str) and not self.targets:
            raise Error("lora", expected="some targets", got="none")


def attach_lora(model: CausalLM, config: LoRAConfig, seed: int = 0) -> None:
    """Freeze the model and attach new adapters to its layers. They change nothing yet: a is drawn uniformly from
    ±1/√inputs and b is 0, as PEFT initialises them. ValueError if the model has adapters, or if no layer is one of the targets."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    chosen: dict[int, tuple[nn.Linear, list[LoRA]]] = {}
    names = []
    for linear, part, start in _layers(model):
        name = _name(part)
        names.append(name)
        if is_target(name, config.targets):
            outputs, inputs = part.shape
            a = rng.uniform(-1, 1, (config.rank, inputs)).astype(np.float32) / np.float32(math.sqrt(inputs))
            b = np.zeros((outputs, config.rank), np.float32)
            chosen.setdefault(id(linear), (linear, []))[1].append(LoRA(a, b, start, config.alpha))
    each = config.targets if not isinstance(config.targets, str) else ()
    if not chosen or not all(any(is_target(name, [t]) for name in names) for t in each):
        known = ", ".join(sorted({n.rpartition(".")[2] for n in names}))
        raise Error("lora", expected=f"targets among {known}", got=config.targets)
    _attach(model, list(chosen.values()), Dropout(config.dropout, seed))


def has_lora(model: nn.Module) -> bool:
    """Return whether any layer has an adapter."""
    return any(isinstance(m, LoRALinear) for _, m in model.modules())


def dropout_of(model: nn.Module) -> Dropout | None:
    """Return the dropout that the adapters share, or None for a model without adapters."""
    return next((m.dropout for _, m in model.modules() if isinstance(m, LoRALinear)), None)


def base_model(model: CausalLM) -> CausalLM:
    """Return a model of the same weights without the adapters."""
    other = model.shared_copy()
    for _, module in list(other.modules()):
        if isinstance(module, nn.Linear) and module.lora is not None:
            del module.lora
    return other


def merge(model: CausalLM) -> None:
    """Add the adapters' changes to the weights and detach the adapters. Quantized weights become float32."""
    for _, module in list(model.modules()):
        if isinstance(module, nn.Linear) and module.lora is not None:
            values = np.array(module.weight.stored(), np.float32)
            for low in module.lora.parts:
                values[low.start : low.end] += low.delta()
            module.weight = nn.Parameter(values)  # a new one: others may share the old one
            del module.lora
    for p in model.parameters():
        p.requires_grad = not isinstance(p, nn.QuantizedWeight)


def save_adapter(model: CausalLM, folder: Path, base: str) -> Path:
    """Write the adapters in PEFT's format: adapter_config.json, which names the base, and adapter_model.safetensors."""
    tensors: dict[str, np.ndarray] = {}
    ranks, alphas, last, transposed, stabilised = {}, {}, set(), False, False
    for part, low in _adapters(model):
        name = _name(part)
        b = low.b.array.numpy()
        tensors[f"{_PREFIX}{name}.lora_A.weight"] = low.a.array.numpy()
        tensors[f"{_PREFIX}{name}.lora_B.weight"] = b if part.hf_rows is None else _in_file_order(part, b)
        ranks[name], alphas[name] = low.rank, low.alpha
        last.add(name.rpartition(".")[2])
        transposed, stabilised = transposed or part.hf_transposed, low.stabilised
    if not tensors:
        raise Error("lora", expected="a model with adapters", got="one without")
    rank, alpha = _most_common(ranks.values()), _most_common(alphas.values())
    dropout = dropout_of(model)
    every = {name for name, _ in _names(model)}
    exact = {n for n in every if n.rpartition(".")[2] in last} == set(ranks)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": int(alpha) if float(alpha).is_integer() else alpha,
        "lora_dropout": dropout.rate if dropout else 0.0,
        "target_modules": sorted(last) if exact else sorted(ranks),
        "rank_pattern": {n: r for n, r in ranks.items() if r != rank},
        "alpha_pattern": {n: a for n, a in alphas.items() if a != alpha},
        "use_rslora": stabilised,
        "fan_in_fan_out": transposed,
        "bias": "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.save_file(tensors, folder / WEIGHTS, {"format": "pt"})
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return folder


def load_adapter(model: CausalLM, folder: Path) -> None:
    """Attach the adapters of a folder. ValueError, one line, for missing tensors, other shapes, and anything beyond LoRA."""
    config = read_config(folder)
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            what = f"{WEIGHTS} (load the adapter with PEFT and save it again)"
            raise Error("lora", folder, expected=what, got=f"{PICKLED}, which is pickled and could run any code")
        raise MissingFileError("lora", expected=f"{folder / WEIGHTS}, which is not there")
    tensors = dict(safetensors.load_file(folder / WEIGHTS)[0])
    chosen: dict[int, tuple[nn.Linear, list[LoRA]]] = {}
    for linear, part, start in _layers(model):
        name, (outputs, inputs) = _name(part), part.shape
        a = tensors.pop(f"{_PREFIX}{name}.lora_A.weight", None)
        b = tensors.pop(f"{_PREFIX}{name}.lora_B.weight", None)
        where = f"{folder / WEIGHTS}: {name}"
        if a is None and b is None:
            if should_have(config, name):
                raise Error("lora", where, expected="lora_A and lora_B, as target_modules says", got="neither")
            continue
        if a is None or b is None:
            raise Error("lora", where, expected="lora_A and lora_B", got="one of them")
        rank = a.shape[0] if a.ndim == 2 else 0
        if rank < 1 or a.shape != (rank, inputs) or b.shape != (outputs, rank):
            expected = f"lora_A (rank, {inputs}) and lora_B ({outputs}, rank)"
            raise Error("lora", where, expected=expected, got=f"{a.shape} and {b.shape}")
        stated = _match_pattern(config.get("rank_pattern"), name, config.get("r") or rank)
        if rank != stated:
            raise Error("lora", where, expected=f"rank {stated}, as {CONFIG} says", got=rank)
        a, b = a.astype(np.float32), b.astype(np.float32)
        b = b if part.hf_rows is None else b[part.hf_rows]
        alpha = _match_pattern(config.get("alpha_pattern"), name, config["lora_alpha"])
        low = LoRA(a, b, start, float(alpha), bool(config.get("use_rslora")))
        chosen.setdefault(id(linear), (linear, []))[1].append(low)
    if tensors:
        raise Error("lora", folder / WEIGHTS, expected="adapters of this model's layers", got=f"{min(tensors)!r:.150}")
    if not chosen:
        raise Error("lora", folder / WEIGHTS, expected="adapters", got="none")
    _attach(model, list(chosen.values()), Dropout(float(config.get("lora_dropout") or 0.0), 0))


def _layers(model: CausalLM) -> Iterator[tuple[nn.Linear, Part, int]]:
    """Yield the linear layers that can have adapters: (layer, part of it that has a name in files, the part's first output)."""
    modules = dict(model.modules())
    for path, parts in model.layout(model.config):
        module = modules.get(path.removesuffix(".weight"))
        if (
            not path.endswith(".weight")
            or not isinstance(module, nn.Linear)
            or path.endswith(("head.weight", "router.weight"))
        ):
            continue
        for part, start, _ in rows_of_parts(parts):
            yield module, part, start


def _names(model: CausalLM) -> Iterator[tuple[str, Part]]:
    for _, part, _ in _layers(model):
        yield _name(part), part


def _adapters(model: CausalLM) -> Iterator[tuple[Part, LoRA]]:
    for linear, part, start in _layers(model):
        for low in linear.lora.parts if linear.lora is not None else ():
            if low.start == start:
                yield part, low


def _attach(model: CausalLM, chosen: Sequence[tuple[nn.Linear, list[LoRA]]], dropout: Dropout) -> None:
    if has_lora(model):
        raise Error("lora", expected="a model without adapters", got="one that has some: merge them first")
    for p in model.parameters():
        p.requires_grad = False
    for linear, parts in chosen:
        linear.lora = LoRALinear(parts, linear.weight.shape[0], dropout)


def _name(part: Part) -> str:
    return part.hf.removesuffix(".weight")


def _match_pattern(pattern: Mapping[str, Any] | None, name: str, default: float) -> float:
    """Look up a name as PEFT does: keys are regular expressions for the ends of names."""
    for key, value in (pattern or {}).items():
        try:
            found = re.fullmatch(rf"(.*\.)?({key})", name)
        except re.error as error:
            raise Error(
                "lora", "alpha_pattern", expected="a regular expression", got=f"{key!r:.50} ({error})"
            ) from None
        if found:
            return value
    return default


def _in_file_order(part: Part, rows: np.ndarray) -> np.ndarray:
    out = np.empty_like(rows)
    out[part.hf_rows] = rows
    return out


def _most_common(values) -> Any:
    values = list(values)
    return max(sorted(set(values)), key=values.count)
