"""Loads a `LanguageModel` from a folder in the Hugging Face format or a single GGUF file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from llmcore import _device, hub, models
from llmcore._files import read_json
from llmcore.errors import Error, MissingFileError
from llmcore.formats.gguf import GGUFFile, load_gguf
from llmcore.generate import adapter_base
from llmcore.generate.chat.files import gguf_chat_template, read_chat_template
from llmcore.generate.chat.template import ChatTemplate
from llmcore.generate.ends import folder_end_ids, gguf_end_ids
from llmcore.generate.language_model import LanguageModel
from llmcore.generate.weight_files import read_weights
from llmcore.models.adapter_config import CONFIG
from llmcore.models.text_config import text_config
from llmcore.runtime import default_dtype
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.gguf import gguf_notes


def load(
    path: str | os.PathLike, dtype: str | None = None, quantize: str | None = None, device: str | None = None
) -> LanguageModel:
    """Load a model that is whole: see `llmcore.load`, which opens runs that have not finished too."""
    check_kinds(dtype, quantize)
    with _device.on(device):
        return _load(hub.resolve(path), dtype, quantize)


def check_kinds(dtype: str | None, quantize: str | None) -> None:
    """Raise ValueError unless these are what `load` takes."""
    if dtype not in (None, "float32", "bfloat16"):
        raise Error("load", expected="dtype 'float32' or 'bfloat16'", got=repr(dtype))
    if quantize not in (None, "none", "int8", "int4"):
        raise Error("load", expected="quantize None, 'none', 'int8' or 'int4'", got=repr(quantize))


def _load(path: Path, dtype: str | None, quantize: str | None) -> LanguageModel:
    if _is_adapter(path):
        return _with_base(path, dtype, quantize)
    read = _from_gguf if path.suffix == ".gguf" and path.is_file() else _from_folder
    try:
        lm = read(path, dtype or default_dtype())
        lm.model.quantize(quantize)
        if dtype is None and lm.model.output_weight().quantized is not None:
            lm.model.dtype = "float32"
        lm.source = path.absolute()
        return lm
    except (OSError, RuntimeError):
        raise
    except (ValueError, TypeError) as error:
        found = Error.of(error)
        message = " ".join(found.message.split())  # names in files may hold line ends
        if str(path) in message:
            raise Error(found.where, message) from None
        problem = message if found.where in ("", "load") else f"[{found.where}] {message}"
        raise Error("load", f"{path}: {problem}") from None


def _with_base(folder: Path, dtype: str | None, quantize: str | None) -> LanguageModel:
    """Load an adapter and the base model that it names. Its tokenizer, ends of a text and chat template count."""
    where, notes = adapter_base.find(folder)
    if _is_adapter(where):
        field = f"{folder / CONFIG}: base_model_name_or_path"
        hint = f"a whole model (in Python load({str(where)!r}).merged().save(...) makes one of an adapter)"
        raise Error("load", field, expected=hint, got=f"an adapter, {where}")
    base = _load(where, dtype, quantize)
    lm = base.with_adapter(folder)
    file = folder / "tokenizer.json"
    if file.is_file() and not _same_file(file, where / file.name):
        lm.tokenizer = Tokenizer.load(folder)
    ends, _ = folder_end_ids(folder, {}, lm.tokenizer, lm.config.vocab_size)
    lm.end_ids = tuple(dict.fromkeys((*(ends or ()), *lm.end_ids)))
    lm.notes = (*lm.notes, *notes)
    lm.chat_template = read_chat_template(folder) or lm.chat_template
    return lm


def _is_adapter(path: Path) -> bool:
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def _same_file(a: Path, b: Path) -> bool:
    return b.is_file() and a.read_bytes() == b.read_bytes()


def _from_folder(folder: Path, dtype: str) -> LanguageModel:
    path = folder / "config.json"
    config = text_config(_read_object(path), path)
    model = models.ARCHITECTURES[config["model_type"]].from_hf(config, read_weights(folder), dtype)
    template = read_chat_template(folder)
    tokenizer = Tokenizer.load(folder)
    ends, notes = folder_end_ids(folder, config, tokenizer, model.config.vocab_size)
    return LanguageModel(model, tokenizer, ends, template, [*model.notes, *notes])


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object. FileNotFoundError or ValueError names the file."""
    if not path.is_file():
        if any(path.parent.glob("checkpoints/step-*")):
            raise MissingFileError(
                "load", f"{path.parent} is a run that has not finished: continue it with --resume --out {path.parent}"
            )
        raise MissingFileError("load", expected=f"{path}, which is not there")
    return read_json(path, "load")


def _from_gguf(path: Path, dtype: str) -> LanguageModel:
    file = load_gguf(path)
    architecture = file.metadata.get("general.architecture")
    if not isinstance(architecture, str) or architecture not in models.GGUF_ARCHITECTURES:
        known = ", ".join(models.GGUF_ARCHITECTURES)
        raise Error("load", path, expected=f"general.architecture one of {known}", got=repr(architecture))
    model = models.GGUF_ARCHITECTURES[architecture].from_gguf(file, dtype)
    tokenizer = Tokenizer.load(path)
    ends, notes = gguf_end_ids(path, file.metadata, tokenizer, model.config.vocab_size)
    notes = [*model.notes, *gguf_notes(file.metadata), *notes]
    return LanguageModel(model, tokenizer, ends, _gguf_template(file, tokenizer), notes)


def _gguf_template(file: GGUFFile, tokenizer: Tokenizer) -> ChatTemplate | None:
    def token(name: str) -> str | None:
        id = file.metadata.get(f"tokenizer.ggml.{name}_token_id")
        if not isinstance(id, int) or not 0 <= id < tokenizer.vocab_size:
            return None
        return tokenizer.token_bytes(id).decode(errors="replace")

    return gguf_chat_template(file.metadata, file.path, token)
