"""Texts and files to the trainer in C++."""

from __future__ import annotations

import glob
import mmap
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from llmcore.errors import ArgumentTypeError, MissingFileError

_BATCH_BYTES = 1 << 23  # of texts that are handed over together


def feed(trainer: Any, source: Any, field: str) -> None:
    """Count the pieces of what `Tokenizer.train` takes."""
    if isinstance(source, bytes):
        raise ArgumentTypeError("train", expected="files or an iterator of texts", got="bytes; pass iter([text])")
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    if isinstance(source, (list, tuple)):
        for path in [path for entry in source for path in _files(entry)]:
            _feed_file(trainer, path, field)
    elif isinstance(source, Iterable):
        _feed_texts(trainer, source)
    else:
        raise ArgumentTypeError("train", expected="files or an iterator of texts", got=type(source).__name__)


def replace_surrogates(text: str | bytes) -> str | bytes:
    """Return a str in which pairs of surrogates are the character that they mean, and lone ones are U+FFFD."""
    if isinstance(text, bytes):
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _files(path: Any) -> list[Path]:
    from llmcore.documents.files import find_files  # here, so that importing llmcore stays quick

    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentTypeError(
            "train", expected="paths in a list", got=f"{type(path).__name__}; pass texts as iter(texts)"
        )
    name = os.fspath(path)
    if isinstance(name, str) and not glob.has_magic(name) and not os.path.exists(name):
        shown = repr(name)
        shown = shown if len(shown) <= 100 else shown[:100] + "..."
        raise MissingFileError(
            "train", expected="a file", got=f"{shown}, which does not exist; pass texts as iter(texts)"
        )
    return find_files(path)


def _feed_file(trainer: Any, path: Path, field: str) -> None:
    from llmcore.documents.files import is_plain_text
    from llmcore.documents.texts import read_parts

    if not is_plain_text(path):
        _feed_texts(trainer, (part.data for part in read_parts(path, field, whole=not trainer.ends_at_line_ends)))
    elif path.stat().st_size:  # an empty file cannot be mapped
        with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:

            def let_go(done: int, size: int) -> None:  # else the whole file would count as ours
                data.madvise(mmap.MADV_DONTNEED, 0, done // mmap.PAGESIZE * mmap.PAGESIZE)

            trainer.feed_buffer(data, let_go)


def _feed_texts(trainer: Any, texts: Iterable[str | bytes]) -> None:
    batch: list[str | bytes] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text) + 64 if isinstance(text, (str, bytes)) else 0  # other types are refused there
        if size >= _BATCH_BYTES:
            _feed_batch(trainer, batch)
            batch, size = [], 0
    _feed_batch(trainer, batch)


def _feed_batch(trainer: Any, batch: list[str | bytes]) -> None:
    try:
        trainer.feed(batch)
    except UnicodeEncodeError:
        trainer.feed([replace_surrogates(text) for text in batch])
