"""Files written whole or not at all, directories with one writer each, names that last, and JSON read."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcore.errors import Error, ExistingFileError


@contextmanager
def alone_in(folder: Path, where: str, taken: str) -> Iterator[None]:
    """Hold a directory as its only writer, because two would remove each other's files: the second gets an
    ExistingFileError(where, taken.format(folder)). The directory is made if need be; the lock ends with the process,
    however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ExistingFileError(where, taken.format(folder)) from None
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(handle)


def read_json(path: Path, where: str, kind: type[Error] = Error) -> dict[str, Any]:
    """Read a file that holds a JSON object. OSError as the system says, or an error of `kind` for anything else in it."""
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise kind(where, path, expected="JSON", got=error) from None
    if not isinstance(value, dict):
        raise kind(where, path, expected="an object", got=type(value).__name__)
    return value


def sync_folder(folder: Path) -> None:
    """Flush a directory to the disk, so that the names of its files outlive a power failure as their contents do."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file as a whole or not at all. OSError names it, also where the system does not (a full disk), and refuses
    what is no file: a device would be gone for everybody."""
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise FileExistsError(errno.EEXIST, "This is not a file that can be replaced", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:  # a full disk
            error.filename = str(path)
        raise
