"""Opened files, their lines, and rows with the places where they stand."""

from __future__ import annotations

import codecs
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llmcore.documents.decompress import open_decompressed
from llmcore.errors import CorpusError

LONGEST_LINE = 1 << 28
_WIDE = {codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


class Row(NamedTuple):
    """The fields of a row, and where it stands, for errors. number: of the line (the first of several) or row, from 1."""

    fields: dict[str, Any]
    where: str
    number: int = 0


@contextmanager
def opened(path: Path, op: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed, and name it in what goes wrong while it is read. A byte order mark is left out, and what
    it says to be UTF-16 or UTF-32 becomes UTF-8."""
    try:
        with open_decompressed(path) as file:
            yield _as_utf8(file)
    except UnicodeError as error:
        raise CorpusError(op, f"cannot read {path} as its byte order mark says: {error}") from None
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(op, f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def lines_of(path: Path, file: BinaryIO, op: str) -> Iterator[tuple[int, bytes]]:
    """Read the lines that are not blank, with their numbers, from 1."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise CorpusError(op, f"{path}:{number}", expected=f"lines of less than {LONGEST_LINE >> 20} MiB")
        if line.strip():
            yield number, line


def _as_utf8(file: BinaryIO) -> BinaryIO:
    head = file.peek(4)[:4]  # type: ignore[attr-defined]  # all that open_decompressed gives have it
    if head.startswith(codecs.BOM_UTF8):
        file.read(len(codecs.BOM_UTF8))
        return file
    encoding = next((name for mark, name in _WIDE.items() if head.startswith(mark)), None)
    return file if encoding is None else io.BufferedReader(_Recoded(file, encoding), 1 << 20)


class _Recoded(io.RawIOBase):
    """A text file in another encoding, as UTF-8."""

    def __init__(self, file: BinaryIO, encoding: str):
        self._text = io.TextIOWrapper(file, encoding, newline="")
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = memoryview(self._text.read(1 << 16).encode("utf-8", "surrogatepass"))
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
