"""PEFT's adapter_config.json: which of its fields are used, which say nothing about the result, and which are refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore.errors import Error, MissingFileError

CONFIG = "adapter_config.json"
ALL_LINEAR = "all-linear"

USED = frozenset(
    [
        "peft_type",
        "base_model_name_or_path",
        "r",
        "lora_alpha",
        "lora_dropout",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "init_lora_weights",
        "bias",
        "lora_bias",
        "use_dora",
        "modules_to_save",
    ]
)
# About where an adapter comes from, how it began (its tensors say what became of that) and how it is trained.
NO_MATTER = frozenset(
    [
        "task_type",
        "auto_mapping",
        "peft_version",
        "revision",
        "inference_mode",
        "fan_in_fan_out",
        "megatron_core",
        "loftq_config",
        "eva_config",
        "corda_config",
        "lora_ga_config",
        "velora_config",
        "qalora_group_size",
        "runtime_config",
        "ensure_weight_tying",
        "transformers_version",
        "unsloth_version",
        "unsloth_fixed",
    ]
)
# They change what is computed, unless they are null, false or empty.
UNSUPPORTED = frozenset(
    [
        "megatron_config",
        "trainable_token_indices",
        "alora_invocation_tokens",
        "use_qalora",
        "monteclora_config",
        "layer_replication",
        "target_parameters",
        "use_bdlora",
        "arrow_config",
        "kasa_config",
    ]
)
# Beginnings that took a part out of the base. The others leave it as it is: their tensors are all there is to know.
_CHANGED_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")
_BEGINNINGS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
_LAYER = r".*?\.[^.]*\.(\d+)\."


def read_config(folder: Path) -> dict[str, Any]:
    """Read and check adapter_config.json. ValueError names a field that is not supported."""
    path = folder / CONFIG
    try:
        config = read_json(path, "lora")
    except FileNotFoundError:
        raise MissingFileError("lora", expected=f"{path}, which is not there") from None
    if config.get("peft_type") != "LORA":
        raise Error("lora", path, expected="peft_type LORA", got=f"{config.get('peft_type')!r:.50}")
    _check_beginning(config, path)
    if config.get("lora_bias"):
        raise Error("lora", path, expected="lora_bias false", got=f"{config['lora_bias']!r:.50}")
    if config.get("bias") not in (None, "none", "all", "lora_only"):  # biases are read where the file holds some
        raise Error("lora", path, expected="bias none, all or lora_only", got=f"{config['bias']!r:.50}")
    for field in sorted(config.keys() - USED - NO_MATTER):
        if config[field]:
            what = "which is not supported" if field in UNSUPPORTED else "which is unknown"
            hint = f"no {field:.60}, {what} (merge the adapter with PEFT, where it can be)"
            raise Error("lora", path, expected=hint, got=f"{config[field]!r:.50}")
    for field in ("lora_alpha", "r"):
        _check_number(path, field, config.get(field, 8 if field == "r" else None))
    for field in ("alpha_pattern", "rank_pattern"):
        pattern = config.get(field) or {}
        if not isinstance(pattern, dict):
            raise Error("lora", path, expected=f"{field} an object of numbers", got=f"{pattern!r:.50}")
        for value in pattern.values():
            _check_number(path, f"{field} an object of numbers", value)
    if not _is_list_of(config.get("modules_to_save") or [], str):
        got = f"{config['modules_to_save']!r:.50}"
        raise Error("lora", path, expected="modules_to_save a list of names", got=got)
    for field in ("target_modules", "exclude_modules"):
        value = config.get(field)
        if value is not None and not isinstance(value, str) and not _is_list_of(value, str):
            raise Error("lora", path, expected=f"{field} a list of names or an expression", got=f"{value!r:.50}")
        try:
            re.compile(value if isinstance(value, str) else "")
        except re.error as error:
            what = f"a regular expression for {field}"
            raise Error("lora", path, expected=what, got=f"{value!r:.50} ({error})") from None
    for field, kind in (("layers_to_transform", int), ("layers_pattern", str)):
        value = config.get(field)
        if value is not None and not isinstance(value, kind) and not _is_list_of(value, kind):
            raise Error("lora", path, expected=f"{field} one or a list of {kind.__name__}", got=f"{value!r:.50}")
    rate = config.get("lora_dropout") or 0.0
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
        raise Error("lora", path, expected="lora_dropout in [0, 1)", got=f"{rate!r:.50}")
    return config


def _check_beginning(config: Mapping, path: Path) -> None:
    how = config.get("init_lora_weights")
    if isinstance(how, str) and how.lower().startswith(_CHANGED_BASE):
        raise Error(
            "lora",
            path,
            expected="an adapter of the base as it is published (PEFT converts one that began otherwise: "
            "save_pretrained(..., path_initial_model_for_weight_conversion=...), or merge it there)",
            got=f"init_lora_weights {how!r:.50}, which changed the base before training",
        )
    if not isinstance(how, (bool, str, type(None))) or how not in _BEGINNINGS:
        raise Error("lora", path, expected=f"init_lora_weights one of {_BEGINNINGS}", got=f"{how!r:.50}")


def _check_number(path: Path, field: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) <= 1e30:
        what = field if " " in field else f"{field} a number"
        raise Error("lora", path, expected=what, got=f"{value!r:.50}")


def _is_list_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(v, kind) and not isinstance(v, bool) for v in value)


def is_target(name: str, targets: str | Sequence[str]) -> bool:
    """Return whether a layer is one of the targets: last parts of names, or an expression for a whole one."""
    if targets in (ALL_LINEAR, [ALL_LINEAR]):
        return True
    if isinstance(targets, str):
        try:
            return re.fullmatch(targets, name) is not None
        except re.error as error:
            raise Error("lora", expected="targets a regular expression", got=f"{targets!r:.100} ({error})") from None
    return any(name == t or name.endswith(f".{t}") for t in targets)


def should_have(config: Mapping, name: str) -> bool:
    """Return whether an adapter of this config has tensors for a layer, as PEFT chooses them."""
    targets, excluded, layers = (config.get(f) for f in ("target_modules", "exclude_modules", "layers_to_transform"))
    if targets is None or (excluded and is_target(name, excluded)) or not is_target(name, targets):
        return False
    if layers is None or layers == [] or isinstance(targets, str):
        return True
    patterns = config.get("layers_pattern") or []
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        if found := re.match(rf"(?:^|.*?\.){re.escape(pattern)}\.(\d+)\.", name):
            break
    else:
        found = None if patterns else re.match(_LAYER, name)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def match_pattern(pattern: Mapping[str, Any] | None, name: str, default: float) -> float:
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
