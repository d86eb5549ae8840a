"""The base of an adapter: where it is, and whether it is still the one that the adapter was trained on."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from llmcore import hub
from llmcore.errors import Error, MissingFileError
from llmcore.formats.gguf import load_gguf
from llmcore.generate.weight_files import read_weights
from llmcore.models import adapter_files
from llmcore.models.adapter_config import CONFIG, read_config

_PIECES, _BYTES = 16, 4096  # of each tensor that are digested


def digest(base: Path) -> str:
    """Return 32 hex digits that change with the weights of a model's files: with every name, type and shape, and with 64 kB
    of each tensor, evenly chosen, which training changes all. Milliseconds for a small model."""
    found = hashlib.blake2b(digest_size=16)
    if base.is_file():
        tensors: dict[str, Any] = dict(load_gguf(base).tensors)
        described = {name: (t.type.name, t.shape, t.data) for name, t in tensors.items()}
    else:
        described = {name: (str(t.dtype), t.shape, t) for name, t in read_weights(base).items()}
    for name in sorted(described):
        kind, shape, values = described[name]
        found.update(f"{name} {kind} {tuple(shape)}\n".encode("utf-8", "surrogatepass"))
        raw = np.asarray(values).reshape(-1).view(np.uint8)
        if raw.size <= _PIECES * _BYTES:
            found.update(raw.tobytes())
        else:
            for i in range(_PIECES):
                at = (raw.size - _BYTES) * i // (_PIECES - 1)
                found.update(raw[at : at + _BYTES].tobytes())
    return found.hexdigest()


def digest_of_model(path: Path) -> str:
    """Return the digest of a model, or of an adapter together with its base."""
    if not (path / adapter_files.WEIGHTS).is_file() or (path / "config.json").is_file():
        return digest(path)
    own = hashlib.blake2b((path / adapter_files.WEIGHTS).read_bytes(), digest_size=16).hexdigest()
    return f"{digest(find(path)[0])} {own}"


def described(base: Path, folder: Path) -> dict[str, Any]:
    """Return what an adapter in a folder keeps of its base."""
    return {"base": digest(base), "place": os.path.relpath(base, folder)}


def is_other(base: Path, folder: Path) -> bool:
    """Return whether the adapter in a folder is known to have been trained on another base."""
    known = adapter_files.about(folder).get("base")
    return isinstance(known, str) and digest(base) != known


def find(folder: Path) -> tuple[Path, list[str]]:
    """Return the base of an adapter and notes: the path or name in adapter_config.json, else the same place as seen from the
    adapter's folder, else a folder or file of that name beside it. FileNotFoundError says where it was and what to do;
    ValueError if it was replaced."""
    field = f"{folder / CONFIG}: base_model_name_or_path"
    name = read_config(folder).get("base_model_name_or_path")
    if not isinstance(name, str) or not name.strip() or not name.isprintable():
        hint = f"the path or name of the base model (or in Python load(base).with_adapter({str(folder)!r}))"
        raise Error("load", field, expected=hint, got=f"{name!r:.100}")
    own = adapter_files.about(folder)
    notes = []
    try:
        base = hub.resolve(name)
    except FileNotFoundError:
        last = Path(name).name
        place = own.get("place")
        near = [folder / place] if isinstance(place, str) and place.isprintable() else []
        near += [folder.parent / last, folder / last] if last else []
        there = next((p for p in near if p.exists() and not p.samefile(folder)), None)
        if there is None:
            pulled = f"run `llmcore pull {name}`, or " if hub.is_hub_name(name) and "base" not in own else ""
            raise MissingFileError(
                "load",
                field,
                expected=f"the base model at {name}, which is not there: {pulled}put it (or a link to it) at "
                f"{folder.absolute().parent / last}, or write the path where it is into base_model_name_or_path",
            ) from None
        base = hub.resolve(there)
        notes.append(f"the base of the adapter is read from {base}: {name} is not there")
    if not (base / CONFIG).is_file() and is_other(base, folder):
        raise Error(
            "load",
            folder,
            expected=f"the base that the adapter was trained on at {base}: put it back there (load({str(base)!r})"
            f".with_adapter({str(folder)!r}) in Python takes the one that is there all the same)",
            got="another model, whose weights differ",
        )
    return base, notes
