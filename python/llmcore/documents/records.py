"""Rows with named fields, one after another: of JSONL, JSON, CSV, TSV, parquet and Arrow files, plain or compressed.

What is wrong with a file raises a `CorpusError` that names it; what is wrong with a row is one, which names the line or
row, in the place of the row. `op` is the reader's name in errors.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from llmcore.documents import json_text
from llmcore.documents.arrow import arrow_rows
from llmcore.documents.csv_text import csv_rows
from llmcore.documents.files import ARROW_ENDING, CSV_ENDING, JSON_ENDING, PARQUET_ENDING, TSV_ENDING, kind_of
from llmcore.documents.reading import Row, lines_of, opened
from llmcore.errors import CorpusError

_LARGEST = 1 << 32  # bytes of a JSON file, which is in memory as a whole


def read_records(path: Path, op: str, bad: Callable[[CorpusError], object] | None = None) -> Iterator[Row]:
    """Read all fields of every row of a file. bad: called with the error of a row that cannot be read, instead of raising."""
    if kind_of(path) == "":
        raise CorpusError(op, path, expected="a .jsonl, .json, .csv, .tsv, .parquet or .arrow file")
    with opened(path, op) as file:
        for row in rows_of(path, file, op):
            if isinstance(row, Row):
                yield row
            elif bad is None:
                raise row
            else:
                bad(row)


def rows_of(path: Path, file: BinaryIO, op: str, after: int = 0) -> Iterator[Row | CorpusError]:
    """Read the rows of an opened file. after: lines of JSON up to this number may be left out, unread."""
    match kind_of(path):
        case kind if kind in (PARQUET_ENDING, ARROW_ENDING):
            yield from arrow_rows(path, file, op)
        case kind if kind in (CSV_ENDING, TSV_ENDING):
            yield from csv_rows(path, file, op, "\t" if kind == TSV_ENDING else ",")
        case kind:
            yield from _json_rows(path, file, op, kind == JSON_ENDING, after)


def _json_rows(path: Path, file: BinaryIO, op: str, whole: bool, after: int) -> Iterator[Row | CorpusError]:
    """Read the objects of a file: one a line, or, where it begins with a list or (`whole`) its first line is no object or
    all there is, those in it."""
    if whole:
        data = file.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise CorpusError(
                op, path, expected=f"at most {_LARGEST >> 30} GiB of JSON (JSONL may be longer)", got="more"
            )
        start, _, rest = data.strip().partition(b"\n")
        if not rest or not _is_object(start):
            yield from _objects(path, data, op)
            return
        file = io.BytesIO(data)
    begun = False
    for number, line in lines_of(path, file, op):
        if not begun and line.lstrip()[:1] == b"[":
            yield from _objects(path, b"\n" * (number - 1) + line + file.read(), op)
            return
        begun = True
        if number > after:
            where = f"{path}:{number}"
            try:
                yield Row(json_text.parsed_object(line, where, op), where, number)
            except CorpusError as error:
                yield error


def _objects(path: Path, data: bytes, op: str) -> Iterator[Row | CorpusError]:
    for at, value in json_text.objects(data, f"{path}", op):
        yield value if isinstance(value, CorpusError) else Row(value, f"{path}:{at}", at)


def _is_object(line: bytes) -> bool:
    try:
        json_text.parsed_object(line, "", "")
    except CorpusError:
        return False
    return True
