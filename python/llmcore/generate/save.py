"""Saves a model to a folder in the Hugging Face format or to a single GGUF file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from llmcore._files import write_atomically
from llmcore.errors import Error
from llmcore.formats import gguf_writer, safetensors
from llmcore.generate import adapter_base
from llmcore.generate.chat.files import gguf_chat_metadata, save_chat_template
from llmcore.generate.ends import gguf_end_metadata
from llmcore.generate.text_model import TextModel
from llmcore.models import adapter_files
from llmcore.models.base import PartOfModel
from llmcore.models.weights import Part
from llmcore.tokenizer.formats.gguf import gguf_metadata


def save_folder(
    lm: TextModel,
    folder: Path,
    dtype: str | None,
    tensors: Mapping[str, np.ndarray] | None = None,
    config: Mapping[str, Any] | None = None,
) -> Path:
    """See `LanguageModel.save`. tensors, config: further contents of the files."""
    dtype = dtype or "float32"
    if dtype not in ("float32", "bfloat16"):
        raise Error("save", expected="dtype 'float32' or 'bfloat16' for a folder", got=repr(dtype))
    folder.mkdir(parents=True, exist_ok=True)
    stored = safetensors.dtypes()["F32" if dtype == "float32" else "BF16"]
    converted = {part.hf: _Converted(part, values, stored) for part, values in lm.model.parts()}
    safetensors.save_file(converted | dict(tensors or {}), folder / "model.safetensors", {"format": "pt"})
    ids = _save_texts(lm, folder)
    # What is not there, transformers would take from its defaults for the architecture, which are other models' ids.
    pad = lm.tokenizer.special_tokens.get(_named_tokens(lm).get("pad_token", ""))
    all_ids = {"bos_token_id": None, "eos_token_id": None, "pad_token_id": pad} | ids
    _write_json(folder / "config.json", lm.config.to_hf() | {"torch_dtype": dtype} | all_ids | dict(config or {}))
    return folder


def save_adapter(lm: TextModel, folder: Path, dtype: str | None) -> Path:
    """Write the adapter of a model, with its tokenizer and chat template: see `LanguageModel.save`."""
    if dtype not in (None, "float32"):
        raise Error("save", expected="dtype 'float32' for an adapter", got=repr(dtype))
    if lm.source is None:
        raise Error("save", expected="an adapter of a model that was loaded from files: save the base first")
    adapter_files.save_adapter(lm.model, folder, str(lm.source), adapter_base.described(lm.source, folder))
    _save_texts(lm, folder)
    return folder


def _save_texts(lm: TextModel, folder: Path) -> dict[str, Any]:
    """Write the tokenizer, the chat template and what begins and ends a text; return the latter."""
    begin, ends = _begin(lm), list(lm.end_ids)
    ids: dict[str, Any] = {} if begin is None else {"bos_token_id": begin}
    if ends:
        ids["eos_token_id"] = ends if len(ends) > 1 else ends[0]
    lm.tokenizer.save(folder)
    save_chat_template(lm.chat_template, folder)
    _write_json(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", **_named_tokens(lm)})
    _write_json(folder / "generation_config.json", ids)
    return ids


@dataclass(frozen=True)
class _Converted:
    """A tensor of the Hugging Face format, converted only when it is written."""

    part: Part
    values: PartOfModel
    dtype: np.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.part.hf_shape

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.part.to_hf(np.asarray(self.values)).astype(self.dtype, copy=False)


def _begin(lm: TextModel) -> int | None:
    return lm.tokenizer.begin[0] if lm.tokenizer.begin else lm.tokenizer.end_of_text


def _named_tokens(lm: TextModel) -> dict[str, str]:
    """Return bos_token and eos_token under the names that chat templates use."""
    names = {id: text for text, id in lm.tokenizer.special_tokens.items()}
    own, begin = {} if lm.chat_template is None else lm.chat_template.tokens, _begin(lm)
    found = {
        **own,
        "bos_token": own.get("bos_token") or (names.get(begin) if begin is not None else None),
        "eos_token": own.get("eos_token") or next((names[i] for i in lm.end_ids if i in names), None),
    }
    return {name: text for name, text in found.items() if text}


def _write_json(path: Path, value: dict[str, Any]) -> None:
    write_atomically(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


def save_gguf(lm: TextModel, path: Path, type_name: str | None) -> Path:
    """See `LanguageModel.save`."""
    if type_name is not None and type_name not in gguf_writer.TYPES:
        raise Error(
            "save", expected=f"dtype one of {', '.join(gguf_writer.TYPES)} for a .gguf file", got=repr(type_name)
        )
    metadata = lm.config.to_gguf() | {"general.name": path.stem}
    after = lm.tokenizer.end
    eos = after[0] if after else lm.tokenizer.special_tokens.get(_named_tokens(lm).get("eos_token", ""))
    if after and eos not in lm.end_ids:
        raise Error("save", expected="that what comes after a text ends it, for GGUF", got=f"id {eos}, which does not")
    metadata |= gguf_metadata(lm.tokenizer.vocabulary, _begin(lm), lm.config.vocab_size)
    metadata |= gguf_end_metadata(lm.end_ids, lm.tokenizer, eos)
    ids = lm.tokenizer.added_tokens | lm.tokenizer.special_tokens
    for name, key in (("unk_token", "unknown"), ("sep_token", "seperator"), ("pad_token", "padding")):
        if (id := ids.get(_named_tokens(lm).get(name, ""))) is not None:
            metadata.setdefault(f"tokenizer.ggml.{key}_token_id", id)
    metadata |= gguf_chat_metadata(lm.chat_template)
    stacks: dict[str, list[tuple[Part, PartOfModel]]] = {}
    for part, values in lm.model.parts():
        stacks.setdefault(part.gguf, []).append((part, values))
    tensors = [_gguf_tensor(name, parts, type_name) for name, parts in stacks.items()]
    for name, factors in lm.model.gguf_rope_factors().items():
        tensors.append(gguf_writer.Tensor(name, factors.shape, "F32", partial(np.asarray, factors)))
    gguf_writer.save_gguf(path, metadata, tensors)
    return path


def _gguf_tensor(name: str, parts: list[tuple[Part, PartOfModel]], type_name: str | None) -> gguf_writer.Tensor:
    """Make one tensor of the file, or a stack of experts' matrices. Vectors and routers stay float32."""
    part, values = parts[0]
    if part.gguf_index is None:
        shape = part.shape
    else:
        shape = (len(parts), *part.shape)
    piece = values.piece()
    stored = piece.type if piece is not None else None
    matrix = len(part.shape) == 2 and not name.endswith("ffn_gate_inp.weight")
    if type_name is None and matrix and part.gguf_index is None and piece is not None and piece.blocks and stored:
        kept = piece.blocks
        return gguf_writer.Tensor(name, shape, stored, lambda: part.to_gguf_rows(kept()), encoded=True)
    chosen = type_name or (stored if stored in gguf_writer.TYPES else "F32")

    def make() -> np.ndarray:
        rows = [p.to_gguf_rows(np.asarray(v)) for p, v in parts]
        return rows[0] if part.gguf_index is None else np.stack(rows)

    return gguf_writer.Tensor(name, shape, gguf_writer.fitting(chosen, shape) if matrix else "F32", make)
