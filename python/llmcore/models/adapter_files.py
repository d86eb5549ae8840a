"""Adapters in PEFT's format (adapter_config.json, adapter_model.safetensors), so that adapters trained here work there and
vice versa."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import nn
from llmcore._files import write_atomically
from llmcore.errors import Error, MissingFileError
from llmcore.formats import safetensors
from llmcore.models import names
from llmcore.models.adapter_config import CONFIG, match_pattern, read_config, should_have
from llmcore.models.adapters import (
    Site,
    attach,
    dropout_of,
    has_lora,
    head_part,
    owner,
    replace,
    sites,
    untie,
)
from llmcore.models.base import CausalLM
from llmcore.models.weights import Part, rows_of_parts
from llmcore.nn.lora import Dropout, EmbeddingLoRA, LoRA

WEIGHTS, PICKLED = "adapter_model.safetensors", "adapter_model.bin"
_PREFIX, _OWN = "base_model.model.", "llmcore"
_HEADS = ("score", "classifier")  # of other tasks: no part of a language model
_MATRICES = {nn.Linear: ("lora_A.weight", "lora_B.weight"), nn.Embedding: ("lora_embedding_A", "lora_embedding_B")}

# ---- saving ----


def save_adapter(model: CausalLM, folder: Path, base: str, about: Mapping[str, Any] | None = None) -> Path:
    """Write the adapters in PEFT's format: adapter_config.json, which names the base, and adapter_model.safetensors. Those of
    several runs become one, whose rank is the sum of theirs; a layer that an earlier run trained as a whole is kept as one,
    its adapters merged. about: what else to keep, beside `runs`."""
    tensors: dict[str, np.ndarray] = {}
    ranks, alphas, last, transposed = {}, {}, set(), False
    found = [(site, site.adapters()) for site in sites(model)]
    if not any(lows for _, lows in found):
        raise Error("lora", expected="a model with adapters", got="one without")
    found = [(site, lows) for site, lows in found if lows and site.path not in model.replaced]
    stabilised = all(low.stabilised for _, lows in found for low in lows)
    dora = any(low.magnitude is not None for _, lows in found for low in lows)
    for site, lows in found:
        name, (a, b, alpha) = _name(site), _joined(lows, stabilised)
        kind = type(site.module)
        for suffix, values in zip(_MATRICES[kind], (a, _in_file_order(site.part, b)), strict=True):
            tensors[f"{_PREFIX}{name}.{suffix}"] = values
        if dora:
            tensors[f"{_PREFIX}{name}.lora_magnitude_vector"] = _in_file_order(site.part, _magnitude(site, lows))
        ranks[name], alphas[name] = b.shape[1], alpha
        last.add(name.rpartition(".")[2])
        transposed = transposed or site.part.hf_transposed
    saved, whole = _replaced_tensors(model, set(ranks))
    tensors |= {f"{_PREFIX}{name}": values for name, values in saved.items()}
    rank, alpha = _most_common(ranks.values() or [1]), _most_common(alphas.values() or [1])
    dropout = dropout_of(model)
    exact = {_name(s) for s in sites(model) if _name(s).rpartition(".")[2] in last} == set(ranks)
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
        "use_dora": dora,
        "modules_to_save": whole or None,
        "fan_in_fan_out": transposed,
        "bias": "lora_only" if any(name.endswith(".bias") for name in saved) else "none",
        "inference_mode": True,
    }
    folder.mkdir(parents=True, exist_ok=True)
    own = {**(about or {}), "runs": list(model.runs)}
    safetensors.save_file(tensors, folder / WEIGHTS, {"format": "pt", _OWN: json.dumps(own)})
    write_atomically(folder / CONFIG, (json.dumps(config, indent=2) + "\n").encode())
    return folder


def _name(site: Site) -> str:
    """Return a site's name in PEFT: since transformers 5, every output layer is called lm_head."""
    return "lm_head" if site.part.hf == site.model.hf_head else site.name


def _joined(lows: Sequence[LoRA], stabilised: bool) -> tuple[np.ndarray, np.ndarray, float]:
    """Return a, b and alpha of one adapter that adds what several add, as files have them."""
    embedding = isinstance(lows[0], EmbeddingLoRA)
    a = np.concatenate([low.a.array.numpy().T if embedding else low.a.array.numpy() for low in lows])
    scale = lows[-1].scale
    b = np.concatenate([low.b.array.numpy() * np.float32(low.scale / scale) for low in lows], axis=1)
    if len(lows) == 1 and lows[0].stabilised == stabilised:
        return a, b, lows[0].alpha
    return a, b, scale * (math.sqrt(len(a)) if stabilised else len(a))


def _magnitude(site: Site, lows: Sequence[LoRA]) -> np.ndarray:
    """Return the lengths that a layer's rows are given, or those that they have."""
    given = [low.magnitude for low in lows if low.magnitude is not None]
    if given:
        return given[-1].array.numpy()
    module = site.layer()
    assert module.lora is not None
    return module.lora.lengths(module.weight)[lows[-1].start : lows[-1].end]


def _replaced_tensors(model: CausalLM, adapted: set[str]) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the tensors of parameters that took the place of the base's, with their adapters merged, by the names that PEFT
    knows, and the modules of which there are all: PEFT's modules_to_save. adapted: modules that keep adapters."""
    layout = [(path, list(parts)) for path, parts in model.layout(model.config)]
    parts = [(path, part, start, end) for path, parts in layout for part, start, end in rows_of_parts(parts)]
    if model.head is None:
        parts.append(("tokens.weight", head_part(model), 0, model.config.vocab_size))

    def split(part: Part) -> tuple[str, str]:
        name, _, kind = ("lm_head.weight" if part.hf == model.hf_head else part.hf).rpartition(".")
        return name, kind

    modules = {split(part)[0] for path, part, _, _ in parts if path in model.replaced}
    found = {}
    for path, part, start, end in parts:
        name, kind = split(part)
        if name in adapted and path in model.replaced:  # a bias
            found[f"{name}.base_layer.{kind}"] = part.to_hf(_whole(model, path)[start:end])
        elif name in modules - adapted:
            tied = (
                model.head is None and part.hf == model.hf_head
            )  # adapters of the embedding are none of the output layer
            found[f"{name}.{kind}"] = part.to_hf(_whole(model, path, adapted=not tied)[start:end])
    return found, sorted(modules - adapted)


def _whole(model: CausalLM, path: str, adapted: bool = True) -> np.ndarray:
    """Return a parameter's values, float32, with what its layer's adapters add."""
    module, name = owner(model, path)
    lora = module.lora if adapted and isinstance(module, (nn.Linear, nn.Embedding)) and name == "weight" else None
    return np.array(getattr(module, name).stored(), np.float32) if lora is None else lora.merged(getattr(module, name))


# ---- loading ----


def load_adapter(model: CausalLM, folder: Path) -> list[str]:
    """Attach the adapters of a folder; return notes. ValueError, one line, for missing tensors, other shapes, and anything
    beyond LoRA, DoRA and whole modules."""
    if has_lora(model):
        raise Error("lora", expected="a model without adapters", got="one that has some: merge them first")
    config = read_config(folder)
    head = model.hf_head.removesuffix("weight")
    tensors = {name.replace("lm_head.", head, 1) if name.startswith("lm_head.") else name: values
               for name, values in read_tensors(folder).items()}  # fmt: skip  # as transformers 5 calls every one
    notes = [f"{name}.weight is left out: it is no part of a language model" for name in _HEADS
             if tensors.pop(f"{name}.weight", None) is not None]  # fmt: skip
    _replace_whole(model, config, tensors, folder / WEIGHTS)
    chosen = []
    for site in list(sites(model)):
        low = _low(site, config, tensors, f"{folder / WEIGHTS}: {site.name}")
        if low is not None:
            chosen.append((site, low))
    if tensors:
        raise Error(
            "lora", folder / WEIGHTS, expected="adapters of this model's layers", got=f"{_PREFIX + min(tensors)!r:.150}"
        )
    if not chosen and not model.replaced:
        raise Error("lora", folder / WEIGHTS, expected="adapters", got="none")
    for p in model.parameters():
        p.requires_grad = False
    attach(model, chosen, Dropout(0.0, 0))  # what training dropped, a trained model has
    runs = about(folder).get("runs")
    kinds = [word for word, field in (("DoRA", "use_dora"), ("rsLoRA", "use_rslora")) if config.get(field)]
    known = isinstance(runs, list) and runs and all(isinstance(r, str) and r.isprintable() for r in runs)
    model.runs = tuple(runs) if known else (", ".join([f"rank {config.get('r', 8)}", *kinds]),)  # type: ignore[arg-type]
    return notes


def read_tensors(folder: Path) -> dict[str, np.ndarray]:
    """Return the tensors of an adapter by their names in the base model."""
    if not (folder / WEIGHTS).is_file():
        if (folder / PICKLED).is_file():
            what = f"{WEIGHTS} (load the adapter with PEFT and save it again)"
            raise Error("lora", folder, expected=what, got=f"{PICKLED}, which is pickled and could run any code")
        raise MissingFileError("lora", expected=f"{folder / WEIGHTS}, which is not there")
    found = {}
    for key, values in safetensors.load_file(folder / WEIGHTS)[0].items():
        name = key.removeprefix(_PREFIX)
        if name == key or name in found:
            raise Error(
                "lora", folder / WEIGHTS, expected=f"one tensor {_PREFIX}..., as PEFT writes", got=f"{key!r:.150}"
            )
        found[name.removesuffix(".weight") if name.endswith("lora_magnitude_vector.weight") else name] = values
    return found


def about(folder: Path) -> dict[str, Any]:
    """Return what `save_adapter` kept beside an adapter; nothing for one that others saved."""
    if not (folder / WEIGHTS).is_file():
        return {}
    try:
        own = json.loads(safetensors.load_file(folder / WEIGHTS)[1].get(_OWN, "{}"))
    except (ValueError, RecursionError):
        return {}
    return own if isinstance(own, dict) else {}


def _low(site: Site, config: Mapping[str, Any], tensors: dict[str, np.ndarray], where: str) -> LoRA | None:
    """Take the adapter of a place from the tensors."""
    name, part = site.name, site.part
    embedding = isinstance(site.module, nn.Embedding)
    suffixes = _MATRICES[nn.Embedding if embedding else nn.Linear]
    a, b = (tensors.pop(f"{name}.{suffix}", None) for suffix in suffixes)
    first, second = (suffix.removesuffix(".weight") for suffix in suffixes)
    if a is None and b is None:
        if should_have(config, name) and site.is_target(config["target_modules"]):
            raise Error("lora", where, expected=f"{first} and {second}, as target_modules says", got="neither")
        return None
    if a is None or b is None:
        raise Error("lora", where, expected=f"{first} and {second}", got="one of them")
    outputs, inputs = part.shape[::-1] if embedding else part.shape
    rank = a.shape[0] if a.ndim == 2 else 0
    if rank < 1 or a.shape != (rank, inputs) or b.shape != (outputs, rank):
        expected = f"{first} (rank, {inputs}) and {second} ({outputs}, rank)"
        raise Error("lora", where, expected=expected, got=f"{a.shape} and {b.shape}")
    stated = match_pattern(config.get("rank_pattern"), name, config.get("r") or rank)
    if rank != stated:
        raise Error("lora", where, expected=f"rank {stated}, as {CONFIG} says", got=rank)
    magnitude = tensors.pop(f"{name}.lora_magnitude_vector", None) if config.get("use_dora") else None
    if config.get("use_dora") and (magnitude is None or magnitude.size != outputs):
        got = "none" if magnitude is None else magnitude.shape
        raise Error("lora", where, expected=f"lora_magnitude_vector ({outputs}), as use_dora says", got=got)
    a, b = a.astype(np.float32), _in_our_order(part, b.astype(np.float32))
    if magnitude is not None:
        magnitude = _in_our_order(part, magnitude.astype(np.float32).reshape(outputs))
    alpha = float(match_pattern(config.get("alpha_pattern"), name, config["lora_alpha"]))
    kind = EmbeddingLoRA if embedding else LoRA
    return kind(a.T if embedding else a, b, site.start, alpha, bool(config.get("use_rslora")), magnitude)


def _replace_whole(model: CausalLM, config: Mapping[str, Any], tensors: dict[str, np.ndarray], where: Path) -> None:
    """Take whole weights and biases from the tensors: modules_to_save, biases, and embeddings that PEFT saved along."""
    every = {part.hf for _, parts in model.layout(model.config) for part in parts} | {model.hf_head}
    given: dict[str, np.ndarray] = {}
    below = set()  # of layers that have adapters too
    for key in list(tensors):
        name = key.replace(".base_layer.", ".")
        if name not in every:
            continue
        if name in given:
            raise Error("lora", where, expected=f"one tensor {name}", got="two")
        given[name] = tensors.pop(key)
        below |= {name} if name != key else set()
    for module in config.get("modules_to_save") or ():
        module = model.hf_head.removesuffix(".weight") if module == "lm_head" else module
        if module not in _HEADS and not any(name.rpartition(".")[0].endswith(module) for name in given):
            raise Error("lora", where, expected=f"tensors of {module}, as modules_to_save says", got="none")
    embedding, rows = next(iter(model.layout(model.config)))[1][0].hf, model.config.vocab_size
    if embedding in given and given[embedding].ndim == 2 and len(given[embedding]) != rows:
        model.config = dataclasses.replace(model.config, vocab_size=len(given[embedding]))
        if model.head is not None and model.hf_head not in given:
            expected = f"{model.hf_head} of {len(given[embedding])} rows, as {embedding} has"
            raise Error("lora", where, expected=expected, got="none")
    together = rows != model.config.vocab_size or embedding in below  # else PEFT trained the embedding alone
    if model.head is None and model.hf_head in given:
        if embedding in given and names.equal(given[embedding], given[model.hf_head]):
            del given[model.hf_head]
            together = True
        else:
            untie(model)
    changed: dict[str, np.ndarray] = {}
    for path, parts in model.layout(model.config):
        if any(part.hf in given for part in parts):
            module, name = owner(model, path)
            values = _changed(getattr(module, name), parts, given, where)
            changed |= {} if values is None else {path: values}
    if "tokens.weight" in changed and model.head is None and not together:
        untie(model)
    for path, values in changed.items():
        replace(model, path, values)


def _changed(old: nn.Parameter, parts: list[Part], given: Mapping[str, np.ndarray], where: Path) -> np.ndarray | None:
    """Return the values of a parameter with the given parts, float32, or None if they are what it holds."""
    for part in parts:
        if part.hf in given and given[part.hf].shape != part.hf_shape:
            raise Error("lora", where, expected=f"{part.hf} of shape {part.hf_shape}", got=given[part.hf].shape)
    new = [part.from_hf(given[part.hf]) if part.hf in given else None for part in parts]
    own = old.stored()
    spans = rows_of_parts(parts)
    if len(own) == spans[-1][2] and all(
        v is None or names.equal(own[start:end], v) for v, (_, start, end) in zip(new, spans, strict=True)
    ):
        return None
    return np.concatenate(
        [(own[a:b] if v is None else v).astype(np.float32) for v, (_, a, b) in zip(new, spans, strict=True)]
    )


def _in_our_order(part: Part, rows: np.ndarray) -> np.ndarray:
    return rows if part.hf_rows is None else rows[part.hf_rows]


def _in_file_order(part: Part, rows: np.ndarray) -> np.ndarray:
    if part.hf_rows is None:
        return rows
    out = np.empty_like(rows)
    out[part.hf_rows] = rows
    return out


def _most_common(values) -> Any:
    values = list(values)
    return max(sorted(set(values)), key=values.count)
