"""The names of tensors in Hugging Face files: what tools put before them, what stands beside a model's own, and the formats
that they give away."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from llmcore.errors import Error
from llmcore.models.weights import Layout

# What torch.compile, data parallelism, PEFT and TRL put before the names of the modules that they wrap.
_WRAPPED = re.compile(r"^(?:(?:_orig_mod|module|base_model\.model|pretrained_model)\.)+")
_WRAPPED_INSIDE = re.compile(r"(?<=\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer)\.")
# The text part of models that see or hear, by its prefix, and what it is called in a model of text alone.
_TEXT_PARTS = {
    "language_model.model.": "model.",
    "language_model.lm_head.": "lm_head.",
    "model.language_model.": "model.",
    "model.text_model.": "model.",
    "language_model.": "model.",
}
_OTHER_PARTS = re.compile(
    r"(?:model\.)?(visual|vision_tower|vision_model|vision_embed_tokens|multi_modal_projector|mm_projector|audio_tower"
    r"|audio_projector|connector|image_newline)(?:\.|$)"
)
# Caches that older files hold: they follow from the config.
_CACHES = re.compile(
    r"(?:^|\.)(?:rotary_emb\.(?:inv_freq|cos_cached|sin_cached)|rotary_pos_emb\.inv_freq|masked_bias|position_ids)$"
)
_MASK = re.compile(r"(?:^|\.)(?:attn|attention)\.bias$")  # of four dimensions: which positions see which
_OTHER_HEADS = re.compile(r"^(?:score|classifier|v_head|value_head|reward_head|qa_outputs|classification_head)\.")

_FORMATS = (
    (re.compile(r"\.lora_(?:A|B|embedding_A|embedding_B|magnitude_vector)(?:\.|$)"), "of an adapter (LoRA), not merged"),
    (re.compile(r"\.weight_scale_inv$"), "of FP8, with scales of blocks"),
    (re.compile(r"\.weight\.(?:absmax|quant_map|nested_\w+|quant_state\.\w+)$|\.(?:SCB|weight_format)$"), "of bitsandbytes"),
    (re.compile(r"\.(?:qweight|qzeros|g_idx)$"), "of GPTQ or AWQ"),
    (re.compile(r"\.(?:weight_packed|weight_zero_point|weight_global_scale|weight_g_idx)$"), "of compressed-tensors"),
    (re.compile(r"\.(?:weight|input|output|k|v)_scale$"), "of FP8 or INT8, with scales"),
    (re.compile(r"\.scales$"), "of a quantized format, with scales"),
    (re.compile(r"_(?:blocks|scales)$"), "of MXFP4"),
)  # fmt: skip


def check_format(tensors: Mapping[str, np.ndarray]) -> None:
    """Raise ValueError for tensors of quantized formats, and for those of adapters that were not merged."""
    for name in tensors:
        for pattern, what in _FORMATS:
            if pattern.search(name):
                raise _unsupported(f"{name!r:.150} {what}")
    for name, tensor in tensors.items():  # scales say more about the format than the type
        if tensor.dtype.itemsize == 1 and tensor.dtype.name.startswith("float8"):
            raise _unsupported(f"{name!r:.150} of FP8 ({tensor.dtype})")


def _unsupported(what: str) -> Error:
    hint = "merge it" if "LoRA" in what else "take the model's bfloat16 weights or a .gguf of it"
    return Error("load", expected=f"weights in float32, float16 or bfloat16 ({hint})", got=what)


def of_text(tensors: Mapping[str, np.ndarray], base: str, layout: Layout) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the tensors of the text model under its own names, and notes on the parts that were left out.

    base: the name of its module without the head ("model"), which files of that module alone do not write. ValueError for
    two tensors of one name."""
    found: dict[str, np.ndarray] = {}
    names: dict[str, str] = {}
    left: dict[str, int] = {}
    own_parts = (part.hf.partition(".") for _, parts in layout for part in parts)
    children = {rest.partition(".")[0] for first, _, rest in own_parts if first == base}
    for name, tensor in tensors.items():
        own = _WRAPPED_INSIDE.sub("", _WRAPPED.sub("", name))
        if other := _OTHER_PARTS.match(own):
            left[other[1]] = left.get(other[1], 0) + 1
            continue
        for prefix, plain in _TEXT_PARTS.items():
            if own.startswith(prefix):
                own = plain + own.removeprefix(prefix)
                break
        if own.partition(".")[0] in children:
            own = f"{base}.{own}"
        if own in found:
            raise Error("load", expected=f"one tensor {own}", got=f"{names[own]!r:.100} and {name!r:.100}")
        found[own], names[own] = tensor, name
    count = sum(left.values())
    notes = [f"only the text part is used: {count} tensors of {', '.join(sorted(left))} are left out"] if left else []
    return found, notes


def check_leftovers(tensors: Mapping[str, np.ndarray], layout: Layout, kind: str) -> list[str]:
    """Return notes on the tensors that a model does not use. ValueError names one that could change what it computes."""
    notes, heads, unknown = [], set(), []
    for name in tensors.keys() - {part.hf for _, parts in layout for part in parts}:
        if _OTHER_HEADS.match(name):
            heads.add(name)
        elif not (_CACHES.search(name) or (_MASK.search(name) and tensors[name].ndim == 4)):
            unknown.append(name)
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise Error(
            "load", expected=f"the tensors of {kind} with this config.json only", got=f"{min(unknown)!r:.150}{more}"
        )
    if heads:
        notes.append(f"{', '.join(sorted(heads))}: left out, a head that takes no part in predicting tokens")
    return notes


def equal(a: Any, b: Any) -> bool:
    """Return whether two tensors hold the same bits, without a copy of either."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return a.shape == b.shape and bool(np.array_equal(a.astype(np.float32), b.astype(np.float32)))
    rows = max(1, (16 << 20) // max(1, a[:1].nbytes)) if a.ndim else 1
    return all(a[i : i + rows].tobytes() == b[i : i + rows].tobytes() for i in range(0, len(a), rows))
