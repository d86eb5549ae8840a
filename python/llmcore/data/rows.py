"""Rows with named fields, as fine-tuning wants them: JSONL and parquet, plain or compressed."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from llmcore.data.arithmetic import arithmetic
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.documents.decompress import open_decompressed
from llmcore.documents.reader import LONGEST_LINE, PARQUET_ENDING, kind_of
from llmcore.documents.sources import find_files
from llmcore.errors import CorpusError

# Rows that are made at run time, by name.
MADE: dict[str, Callable[[], list[dict[str, str]]]] = {
    "arithmetic": arithmetic,
    "python-qa": python_qa,
    "python-qa-pairs": python_qa_pairs,
}


class Row(NamedTuple):
    """The fields of a row, and where it stands, for errors."""

    fields: dict[str, Any]
    where: str


def missing_fields(expected: str, fields: Iterable[str]) -> ValueError:
    """Return the error for a row without the fields that were expected; it names those that the row has."""
    names = ", ".join(list(map(str, fields))[:6]) or "none"
    return ValueError(f"expected {expected}; the fields are: {names}"[:200])


def read_rows(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Row]:
    """The rows of files, folders and globs, or of what `MADE` names. CorpusError names what is missing, malformed or
    empty."""
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    rows: list[Row] = []
    for source in given:
        if source in MADE:
            rows += [Row(row, f"{source} {i}") for i, row in enumerate(MADE[str(source)]())]
            continue
        for path in find_files(source):
            rows += _read_file(path)
    if not rows:
        raise CorpusError("data", ", ".join(map(str, given)), expected="some rows", got="none")
    return rows


def _read_file(path: Path) -> Iterator[Row]:
    kind = kind_of(path)
    if kind == "":
        raise CorpusError("data", path, expected="a .jsonl or .parquet file")
    try:
        with open_decompressed(path) as file:
            if kind == PARQUET_ENDING:
                yield from _parquet(path)
                return
            number = 0
            while line := file.readline(LONGEST_LINE):
                number += 1
                if line.strip():
                    yield Row(_parsed(line, f"{path}:{number}"), f"{path}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError("data", f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


def _parsed(line: bytes, where: str) -> dict[str, Any]:
    try:
        fields = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError("data", f"{where}: not UTF-8 text at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        raise CorpusError("data", f"{where}: not valid JSON ({getattr(error, 'msg', None) or error})") from None
    if not isinstance(fields, dict):
        raise CorpusError("data", where, expected="a JSON object", got=type(fields).__name__)
    return fields


def _parquet(path: Path) -> Iterator[Row]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError("data", f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    number = 0
    try:
        for batch in parquet.ParquetFile(path).iter_batches(256):
            for fields in batch.to_pylist():
                number += 1
                yield Row(fields, f"{path}: row {number}")
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise CorpusError("data", f"{path}: not a parquet file that can be read ({reason})") from None
