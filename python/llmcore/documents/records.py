"""Rows with named fields, one after another: the lines of JSONL files and the rows of parquet files.

What is wrong raises a `CorpusError` that names the file and the line or row; `op` is the reader's name in errors.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llmcore.documents.decompress import open_decompressed
from llmcore.documents.files import COMPRESSED_ENDINGS, PARQUET_ENDING, kind_of
from llmcore.errors import CorpusError

LONGEST_LINE = 1 << 28
_ROWS = 256  # of a parquet file that are in memory at once


class Row(NamedTuple):
    """The fields of a row, and where it stands, for errors."""

    fields: dict[str, Any]
    where: str


def read_records(path: Path, op: str) -> Iterator[Row]:
    """Read all fields of every row of a JSONL or parquet file, plain or compressed."""
    kind = kind_of(path)
    if kind == "":
        raise CorpusError(op, path, expected="a .jsonl or .parquet file")
    with opened(path, op) as file:
        if kind == PARQUET_ENDING:
            with parquet_file(path, file, op) as table:
                rows = (fields for batch in table.iter_batches(_ROWS) for fields in batch.to_pylist())
                for number, fields in enumerate(rows, 1):
                    yield Row(fields, f"{path}: row {number}")
        else:
            for number, line in json_lines(path, file, op):
                where = f"{path}:{number}"
                yield Row(json_object(line, where, op), where)


@contextmanager
def opened(path: Path, op: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed, and name it in what goes wrong while it is read."""
    try:
        with open_decompressed(path) as file:
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError(op, f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def json_lines(path: Path, file: BinaryIO, op: str) -> Iterator[tuple[int, bytes]]:
    """Read the lines that are not blank, with their numbers, from 1."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise CorpusError(op, f"{path}:{number}", expected=f"lines of less than {LONGEST_LINE >> 20} MiB")
        if line.strip():
            yield number, line


def json_object(line: bytes, where: str, op: str, expected: str = "a JSON object") -> dict[str, Any]:
    """Parse a line of JSONL."""
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(op, f"{where}: not UTF-8 text at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        # A line nested thousands deep and an integer of thousands of digits are bad JSON too.
        raise CorpusError(op, f"{where}: not valid JSON ({getattr(error, 'msg', None) or error})") from None
    if not isinstance(record, dict):
        raise CorpusError(op, where, expected=expected, got=type(record).__name__)
    return record


@contextmanager
def parquet_file(path: Path, file: BinaryIO, op: str) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile`, and name it in what goes wrong while it is read."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(op, f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        with tempfile.TemporaryFile() as plain:
            if path.suffix.lower() in COMPRESSED_ENDINGS:  # a parquet file is read from its end
                shutil.copyfileobj(file, plain)
                file = plain
            yield parquet.ParquetFile(file)
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise CorpusError(op, f"{path}: not a parquet file that can be read ({reason})") from None
