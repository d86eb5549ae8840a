"""Rows with named fields, one after another: of JSONL, JSON, CSV, TSV and parquet files, plain or compressed.

What is wrong with a file raises a `CorpusError` that names it; what is wrong with a row is one, which names the line or
row, in the place of the row. `op` is the reader's name in errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from llmcore.documents import json_text
from llmcore.documents.csv_text import csv_rows
from llmcore.documents.files import CSV_ENDING, JSON_ENDING, PARQUET_ENDING, TSV_ENDING, kind_of
from llmcore.documents.parquet import parquet_rows
from llmcore.documents.reading import Row, lines_of, opened
from llmcore.errors import CorpusError


def read_records(path: Path, op: str, bad: Callable[[CorpusError], object] | None = None) -> Iterator[Row]:
    """Read all fields of every row of a file. bad: called with the error of a row that cannot be read, instead of raising."""
    if kind_of(path) == "":
        raise CorpusError(op, path, expected="a .jsonl, .json, .csv, .tsv or .parquet file")
    with opened(path, op) as file:
        for row in rows_of(path, file, op):
            if isinstance(row, Row):
                yield row
            elif bad is None:
                raise row
            else:
                bad(row)


def rows_of(path: Path, file: BinaryIO, op: str) -> Iterator[Row | CorpusError]:
    """Read the rows of an opened file."""
    match kind_of(path):
        case kind if kind == PARQUET_ENDING:
            yield from parquet_rows(path, file, op)
        case kind if kind in (CSV_ENDING, TSV_ENDING):
            yield from csv_rows(path, file, op, "\t" if kind == TSV_ENDING else ",")
        case kind:
            yield from _json_rows(path, file, op, kind == JSON_ENDING)


def _json_rows(path: Path, file: BinaryIO, op: str, whole: bool) -> Iterator[Row | CorpusError]:
    """Read the objects of a file: one a line, or, where it begins with a list or (`whole`) its first line is no object, all
    those in it."""
    lines = lines_of(path, file, op)
    first = next(lines, None)
    if first is None:
        return
    number, line = first
    if line.lstrip()[:1] == b"[" or (whole and not _is_object(line)):
        data = line + file.read()
        for at, value in json_text.objects(data, f"{path}", op, number):
            yield value if isinstance(value, CorpusError) else Row(value, f"{path}:{at}", at)
        return
    while True:
        where = f"{path}:{number}"
        try:
            yield Row(json_text.parsed_object(line, where, op), where, number)
        except CorpusError as error:
            yield error
        following = next(lines, None)
        if following is None:
            return
        number, line = following


def _is_object(line: bytes) -> bool:
    try:
        json_text.parsed_object(line, "", "")
    except CorpusError:
        return False
    return True
