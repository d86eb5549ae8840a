"""The text model's part of a config.json: all of it, or what a model that sees or hears says of its text part."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmcore import models
from llmcore.errors import Error

_FIELDS = ("text_config", "llm_config", "language_config")
# Text parts that compute what an architecture here computes, as long as no image is among the tokens: the three positions
# of a token (time, height, width) are then one.
_SAME = {
    "qwen2_vl": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl": "qwen3",
    "qwen3_vl_text": "qwen3",
}
_TEXT_OF = {"gemma3": "gemma3_text", "llava": "llama", "mistral3": "mistral"}  # where the text part does not say
# The values of transformers' classes (5.24), which text parts leave out.
_LLAMA = {
    "vocab_size": 32000, "max_position_embeddings": 2048, "hidden_size": 4096, "num_hidden_layers": 32,
    "num_attention_heads": 32, "intermediate_size": 11008, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
    "tie_word_embeddings": False,
}  # fmt: skip
DEFAULTS: Mapping[str, Mapping[str, Any]] = {
    "llama": _LLAMA,
    "mistral": {
        **_LLAMA, "max_position_embeddings": 131072, "intermediate_size": 14336, "num_key_value_heads": 8,
        "sliding_window": 4096,
    },
    "qwen2": {
        **_LLAMA, "vocab_size": 151936, "max_position_embeddings": 32768, "intermediate_size": 22016,
        "num_key_value_heads": 32,
    },
    "gemma3_text": {
        "vocab_size": 262208, "max_position_embeddings": 131072, "hidden_size": 2304, "num_hidden_layers": 26,
        "num_attention_heads": 8, "num_key_value_heads": 4, "intermediate_size": 9216, "head_dim": 256,
        "rms_norm_eps": 1e-6, "tie_word_embeddings": True, "sliding_window": 4096, "query_pre_attn_scalar": 256,
    },
}  # fmt: skip
# Said of the whole model, beside the text part or in it.
_OF_ALL = ("tie_word_embeddings", "eos_token_id", "bos_token_id", "quantization_config", "quantization")


def text_config(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the config of the text model, whose model_type is one of `models.ARCHITECTURES`. ValueError if there is none,
    or if the weights are quantized in a way that is not supported."""
    kind, classes = config.get("model_type"), config.get("architectures")
    if kind is None and isinstance(classes, list):  # files of a few tools name the class alone
        by_class = {m.config_class.hf_class: name for name, m in models.ARCHITECTURES.items()}
        kind = next((by_class[c] for c in classes if isinstance(c, str) and c in by_class), None)
    if not isinstance(kind, str):
        raise Error("load", path, expected="an object with a model_type")
    field = next((name for name in _FIELDS if isinstance(config.get(name), dict)), None)
    if kind in models.ARCHITECTURES or field is None:
        ends = config[field].get("eos_token_id") if field is not None else None
        found = {"eos_token_id": ends, **config, "model_type": _SAME.get(kind, kind)}
    else:
        inner = config[field]
        own = inner.get("model_type") or _TEXT_OF.get(kind, kind)
        name = _SAME.get(own, own) if isinstance(own, str) else kind
        found = {**DEFAULTS.get(name, {}), **inner, **{f: config[f] for f in _OF_ALL if config.get(f) is not None}}
        found["model_type"] = name
    if found["model_type"] not in models.ARCHITECTURES:
        known = ", ".join(sorted({*models.ARCHITECTURES, *_SAME, *_TEXT_OF}))
        inside = f" with {field} {found['model_type']!r:.60}" if field is not None else ""
        raise Error("load", path, expected=f"model_type one of {known}", got=f"{kind!r:.60}{inside}")
    for name in ("quantization_config", "quantization", "compression_config"):
        if found.get(name):
            how = found[name].get("quant_method", name) if isinstance(found[name], dict) else name
            raise Error(
                "load",
                f"{path}: {name}",
                expected="none: take the model's bfloat16 weights, or a .gguf of it",
                got=f"{how!r:.60}, a quantized format that is not supported",
            )
    return found
