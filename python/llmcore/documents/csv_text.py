"""Rows of CSV and TSV files (RFC 4180): the first line names the columns, an empty cell is null."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from llmcore.documents import reading
from llmcore.errors import CorpusError

_OTHERS = (";", "\t", "|")  # what separates columns where no comma does, as spreadsheets of some countries write


def csv_rows(path: Path, file: BinaryIO, op: str, separator: str) -> Iterator[reading.Row | CorpusError]:
    """Read the rows of a file whose cells are texts."""
    before = csv.field_size_limit(reading.LONGEST_LINE)
    csv.field_size_limit(max(before, reading.LONGEST_LINE))  # it is the process's
    lines = _lines(path, file, op)
    first = next(lines, "")
    if separator == "," and "," not in first:
        separator = next((s for s in _OTHERS if s in first), separator)
    reader = csv.reader(_chain(first, lines), delimiter=separator, strict=True)
    try:
        names = [name.strip() for name in next(reader, [])]
    except csv.Error as error:
        raise CorpusError(op, f"{path}:1: not CSV ({error})") from None
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise CorpusError(op, f"{path}:1", expected="columns with names of their own", got=f"{twice!r:.50} twice")
    while True:
        number = reader.line_num + 1
        where = f"{path}:{number}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield CorpusError(op, f"{where}: not CSV ({error})")
            continue
        if not cells:
            continue
        problem = _problem(cells, names)
        if problem:
            yield CorpusError(op, f"{where}: {problem}")
        else:
            fields = {name: cell or None for name, cell in zip(names, cells, strict=True) if name}
            yield reading.Row(fields, where, number)


def _problem(cells: list[str], names: list[str]) -> str:
    if len(cells) != len(names):
        return f"expected {len(names)} cells, as the first line has, got {len(cells)}"
    if any("\0" in cell for cell in cells):
        return "expected text, got a NUL byte"
    if any("\udc80" <= c <= "\udcff" for cell in cells if not cell.isascii() for c in cell):
        return "not UTF-8 text"
    return ""


def _lines(path: Path, file: BinaryIO, op: str) -> Iterator[str]:
    number = 0
    while line := file.readline(reading.LONGEST_LINE):
        number += 1
        if len(line) == reading.LONGEST_LINE:
            raise CorpusError(op, f"{path}:{number}", expected=f"lines of less than {reading.LONGEST_LINE >> 20} MiB")
        yield line.decode("utf-8", "surrogateescape")


def _chain(first: str, lines: Iterator[str]) -> Iterator[str]:
    if first:
        yield first
    yield from lines
