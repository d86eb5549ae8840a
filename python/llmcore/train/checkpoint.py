"""Checkpoints that survive a kill, a full disk and a flipped bit.

A checkpoint is a folder `RUN/checkpoints/step-00000100/` with `tensors.safetensors` and `state.json`. It is
written under a temporary name, flushed to the disk and renamed, so a folder of that name is always whole.
`state.json` holds the SHA-256 of the tensors and of the state, so that later damage is detected on loading.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from llmcore._files import sync_folder
from llmcore.errors import FAILED, ArgumentTypeError, Error
from llmcore.formats import safetensors

FORMAT = "llmcore-checkpoint"
VERSION = 1
_TENSORS = "tensors.safetensors"
_STATE = "state.json"
_STEP_NAME = re.compile(r"step-(\d{8,18})")
UNFINISHED = "checkpoints/unfinished"  # there from a run's first update, or the first after it is resumed, to its end
_ATTEMPTS = 5
_MAX_STATE_BYTES = 64 << 20
# What a kill can leave behind: an unfinished checkpoint, one being deleted, one being replaced by its own
# step.
_UNFINISHED, _DELETED, _REPLACED = ".unfinished-", ".deleted-", ".replaced-"


class CheckpointError(Error):
    """A checkpoint that could not be written or read. The line names the file and the reason."""


class CheckpointSaveError(CheckpointError):
    """A checkpoint that could not be written."""

    exit_code = FAILED


def save_checkpoint(
    run_dir: str | os.PathLike, step: int, tensors: Mapping[str, np.ndarray], state: dict, keep: int = 2
) -> Path:
    """Write a checkpoint of `step` (state["step"] is set to it) and return its folder.

    Afterwards only the `keep` newest up to this step remain; later ones, left by a run that went back, stay
    until their step comes again. JSON must be able to hold `state`. On any failure the checkpoints that were
    there are untouched, what was written is removed and `CheckpointSaveError` says why. One process at a time may
    save to a run.
    """
    if keep < 1:
        raise Error("checkpoint", expected="keep of at least 1", got=keep)
    folder = Path(run_dir, "checkpoints")
    final = folder / f"step-{step:08d}"
    if step < 0 or not _STEP_NAME.fullmatch(final.name):
        raise Error("checkpoint", expected="a step from 0 to 10^18 - 1", got=step)
    temporary = folder / (_UNFINISHED + final.name)
    encoded = _encode_state({**state, "step": step})
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _clean(folder)
        temporary.mkdir()
        with (temporary / _TENSORS).open("wb") as file:
            hashing = _HashingFile(file)
            safetensors.write(hashing, tensors, {"format": FORMAT, "step": str(step)})
            _flush(file)
        record = {
            "format": FORMAT,
            "version": VERSION,
            "tensors": {"bytes": hashing.size, "sha256": hashing.digest.hexdigest()},
            "state_sha256": hashlib.sha256(encoded.encode()).hexdigest(),
        }
        with (temporary / _STATE).open("wb") as file:
            file.write((json.dumps(record, indent=1)[:-2] + f',\n "state": {encoded}\n}}\n').encode())
            _flush(file)
        sync_folder(temporary)
        if final.exists():
            final.rename(folder / (_REPLACED + final.name))
        temporary.rename(final)
        sync_folder(folder)
        sync_folder(folder.parent)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        _restore_replaced(folder)
        if isinstance(error, OSError):
            raise CheckpointSaveError("checkpoint", _save_problem(final, error)) from error
        raise
    old = [path for path in _checkpoints(folder) if _step(path) <= step]
    for path in old[keep:]:
        # Renamed first: a kill while deleting must not leave half a checkpoint under a good name.
        doomed = folder / (_DELETED + path.name)
        try:
            path.rename(doomed)
        except OSError as error:
            raise CheckpointSaveError(
                "checkpoint", f"{final.name} is saved, but {path} cannot be removed: {error}"
            ) from error
    _clean(folder)
    return final


def load_checkpoint(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict]:
    """Return `(tensors, state)` of one checkpoint folder; the arrays are private views of its mapped file.

    Raises `CheckpointError` naming the file if anything is missing, truncated, changed, or of another
    version.
    """
    path = Path(path)
    record = _read_record(path)
    expected = record["tensors"]
    file_path = path / _TENSORS
    try:
        size = file_path.stat().st_size
        if size != expected["bytes"]:
            raise CheckpointError(
                "checkpoint", f"{file_path} is damaged", expected=f"{expected['bytes']} bytes", got=size
            )
        if _file_sha256(file_path) != expected["sha256"]:
            raise CheckpointError("checkpoint", f"{file_path} is damaged: its SHA-256 is not the one in {_STATE}")
        tensors, _ = safetensors.load_file(file_path)
    except OSError as error:
        raise CheckpointError("checkpoint", f"cannot read {file_path}: {error.strerror}") from error
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError("checkpoint", Error.of(error).message) from error
    return tensors, record["state"]


def latest_checkpoint(run_dir: str | os.PathLike, warn: Callable[[str], object] = warnings.warn) -> Path | None:
    """Return the newest checkpoint of a run that is whole, or None if the run has no checkpoint.

    Each newer one that is broken is reported through `warn`, a line each. If all are, `CheckpointError`: a
    run must not silently start from scratch.
    """
    folder = Path(run_dir, "checkpoints")
    _restore_replaced(folder)
    paths = _checkpoints(folder)
    problems = []
    for path in paths:
        try:
            load_checkpoint(path)
        except CheckpointError as error:
            problems.append(error)
            continue
        for problem in problems:
            warn(f"{problem}; falling back to {path.name}")
        return path
    if problems:
        raise CheckpointError(
            "checkpoint", f"{problems[0].message} (and no other of the {len(paths)} in {folder} is whole)"
        )
    return None


def read_newest(
    run_dir: str | os.PathLike, warn: Callable[[str], object]
) -> tuple[Path, dict[str, np.ndarray], dict] | None:
    """Return the newest whole checkpoint of a run, which may be running: its folder, tensors and state; None if there is
    none. Nothing is changed there. Raises `CheckpointError` if all are broken."""
    folder = Path(run_dir, "checkpoints")
    for attempt in range(_ATTEMPTS):
        problems = []
        for path in _checkpoints(folder):
            try:
                tensors, state = load_checkpoint(path)
            except CheckpointError as error:
                problems.append((path, error))
                continue
            for _, problem in problems:
                warn(f"{problem.message}; {path.name} is read instead")
            return path, tensors, state
        # Those that the run has removed in the meantime were followed by newer ones.
        if all(path.exists() for path, _ in problems) or attempt == _ATTEMPTS - 1:
            break
    if problems:
        raise problems[0][1]
    return None


def replace_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Replace a folder, whole or not at all, by what `save` writes to the path that it is given."""
    made, old = (folder.with_name(f".{folder.name}-{name}") for name in ("unfinished", "replaced"))
    for path in (made, old):
        shutil.rmtree(path, ignore_errors=True)
    try:
        save(made)
        if folder.exists():
            folder.rename(old)
        made.rename(folder)
    finally:
        if old.exists() and not folder.exists():
            old.rename(folder)
        for path in (made, old):
            shutil.rmtree(path, ignore_errors=True)


class _HashingFile:
    """A file that hashes and counts what is written to it, so that it need not be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: bytes | memoryview) -> int:
        self.digest.update(data)
        self.size += len(data)
        return self.file.write(data)


def _encode_state(state: dict) -> str:
    try:
        # Twice, so that reading it gives the same text again: of the keys 1 and "1" only one survives.
        return json.dumps(json.loads(json.dumps(state)))
    except (TypeError, ValueError, RecursionError) as error:
        raise ArgumentTypeError("checkpoint", expected=f"a state that JSON can hold: {error}") from None


def _read_record(path: Path) -> dict:
    file_path = path / _STATE
    try:
        with file_path.open("rb") as file:
            text = file.read(_MAX_STATE_BYTES + 1)
    except FileNotFoundError as error:
        what = f"{path} has no {_STATE}" if path.is_dir() else f"{path} does not exist"
        raise CheckpointError("checkpoint", what) from error
    except OSError as error:
        raise CheckpointError("checkpoint", f"cannot read {file_path}: {error.strerror}") from error
    if len(text) > _MAX_STATE_BYTES:
        raise CheckpointError("checkpoint", file_path, expected=f"at most {_MAX_STATE_BYTES} bytes")
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError("checkpoint", f"{file_path} is damaged: not valid JSON ({error})") from None
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError("checkpoint", f"{file_path}: format", expected=f'"{FORMAT}"')
    if record.get("version") != VERSION:
        version = str(record.get("version"))[:40]
        raise CheckpointError("checkpoint", f"{file_path}: version", expected=VERSION, got=version)
    tensors, state = record.get("tensors"), record.get("state")
    if not isinstance(tensors, dict) or not {"bytes", "sha256"} <= set(tensors):
        raise CheckpointError("checkpoint", f"{file_path}: tensors", expected="bytes and sha256")
    if not isinstance(state, dict):
        raise CheckpointError("checkpoint", f"{file_path}: state", expected="an object")
    if hashlib.sha256(_encode_state(state).encode()).hexdigest() != record.get("state_sha256"):
        raise CheckpointError("checkpoint", f"{file_path} is damaged: state does not match state_sha256")
    return record


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _step(path: Path) -> int:
    match = _STEP_NAME.fullmatch(path.name)
    return int(match[1]) if match else -1


def _checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the newest first."""
    if not folder.is_dir():
        return []
    return sorted((path for path in folder.iterdir() if _step(path) >= 0), key=_step, reverse=True)


def _clean(folder: Path) -> None:
    """Remove what a kill left, and bring back a checkpoint that was moved aside for one that was never finished."""
    _restore_replaced(folder)
    for path in list(folder.iterdir()):
        if path.name.startswith((_UNFINISHED, _DELETED, _REPLACED)):
            shutil.rmtree(path, ignore_errors=True)


def _restore_replaced(folder: Path) -> None:
    for path in list(folder.glob(_REPLACED + "*")):
        home = folder / path.name.removeprefix(_REPLACED)
        if not home.exists():
            path.rename(home)


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _save_problem(final: Path, error: OSError) -> str:
    reason = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror or str(error)
    return f"cannot save {final}: {reason}; earlier checkpoints are untouched"
