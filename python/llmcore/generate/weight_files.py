"""The files of a folder that hold weights: one, or shards with or without an index. Pickle is never opened."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from llmcore._files import read_json
from llmcore.errors import Error, MissingFileError
from llmcore.formats import safetensors

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_SHARD = re.compile(r"model-(\d{1,9})-of-(\d{1,9})\.safetensors")
_PICKLED = ("*.bin", "*.pth", "*.pt", "*.ckpt")


def read_weights(folder: Path) -> Mapping[str, np.ndarray]:
    """Map the tensors of a folder by name: those of model.safetensors, else of the shards that its index names, else of
    all shards there. FileNotFoundError names what is missing, ValueError a tensor that two shards hold differently."""
    if _is_there(folder / WEIGHTS):
        return safetensors.load_file(folder / WEIGHTS)[0]
    names = _index(folder / INDEX) if _is_there(folder / INDEX) else None
    files = sorted(set(names.values())) if names is not None else _shards(folder)
    tensors: dict[str, np.ndarray] = {}
    found: dict[str, str] = {}
    for file in files:
        if not _is_there(folder / file):
            raise MissingFileError("load", expected=f"{folder / file}, which is not there")
        for name, tensor in safetensors.load_file(folder / file)[0].items():
            if name in found and not _same(tensors[name], tensor):
                raise Error(
                    "load", folder / file, expected=f"one tensor {name!r:.100}", got=f"another in {found[name]}"
                )
            tensors[name], found[name] = tensor, file
    for name, file in (names or {}).items():
        if name not in tensors:
            raise Error("load", folder / file, expected=f"a tensor {name!r:.100}", got="none")
    return tensors


def _is_there(path: Path) -> bool:
    """Return whether a file exists. FileNotFoundError for a link to nothing, as a download that was cut leaves it."""
    if path.is_symlink() and not path.exists():
        raise MissingFileError(
            "load", path, expected="a file", got="a link to one that is not there: download it again"
        )
    return path.is_file()


def _index(path: Path) -> dict[str, str]:
    names = read_json(path, "load").get("weight_map")
    if not isinstance(names, dict) or not all(isinstance(part, str) for part in names.values()):
        raise Error("load", path, expected="weight_map an object of file names")
    for part in names.values():
        # Nothing outside the folder may be read.
        if Path(part).name != part or not part.isprintable() or not part.endswith(".safetensors"):
            raise Error("load", path, expected="weight_map of .safetensors files in the folder", got=f"{part!r:.100}")
    return names


def _shards(folder: Path) -> list[str]:
    """Return the names of all shards of a folder without an index."""
    matches = [m for m in (_SHARD.fullmatch(path.name) for path in sorted(folder.iterdir())) if m]
    if not matches:
        raise _nothing(folder)
    first = matches[0]
    count = int(first[2])
    if other := next((m[0] for m in matches if m[2] != first[2]), None):
        raise Error("load", folder, expected="shards of one model", got=f"{first[0]} and {other}")
    there = {int(m[1]): m[0] for m in matches}
    for i in range(1, count + 1):
        if i not in there:
            name = f"model-{i:0{len(first[1])}}-of-{first[2]}.safetensors"
            raise MissingFileError("load", expected=f"{folder / name}, which is not there")
    if len(matches) != count:
        raise Error("load", folder, expected=f"{count} shards", got=f"{len(matches)}")
    return list(there.values())


def _nothing(folder: Path) -> Error:
    pickled = sorted(path.name for pattern in _PICKLED for path in folder.glob(pattern) if path.name.isprintable())
    if pickled:
        return Error(
            "load",
            folder,
            expected="weights in safetensors",
            got=f"{pickled[0]} in pickle, which could run any code and is never opened: save the model again with "
            "transformers' save_pretrained, or take a revision with model.safetensors",
        )
    others = sorted(path.name for path in folder.glob("*.safetensors") if path.name.isprintable())
    there = f" (there is {others[0]}, a name that transformers does not read either)" if others else ""
    return MissingFileError("load", expected=f"{folder / WEIGHTS}, which is not there{there}")


def _same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
