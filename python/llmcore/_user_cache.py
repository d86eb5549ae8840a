"""The user's cache folder: what can be made again, and which model was made last."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """$LLMCORE_CACHE, else $XDG_CACHE_HOME/llmcore, else ~/.cache/llmcore; it may not exist yet."""
    folder = os.environ.get("LLMCORE_CACHE") or ""
    if not folder:
        base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
        folder = os.path.join(base, "llmcore")
    return Path(folder)


def write_cache(path: Path, content: bytes) -> None:
    """Write a file beside its place and rename it, so that a reader sees all or nothing. Failing to cache is not an error."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=path.name + ".", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except OSError:
        if temporary:
            Path(temporary).unlink(missing_ok=True)
