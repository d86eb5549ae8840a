"""Rows with named fields, as fine-tuning wants them: JSONL and parquet, plain or compressed."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence

from llmcore.data.arithmetic import arithmetic
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.documents.files import find_files
from llmcore.documents.records import Row, read_records
from llmcore.errors import CorpusError

# Rows that are made at run time, by name.
MADE: dict[str, Callable[[], list[dict[str, str]]]] = {
    "arithmetic": arithmetic,
    "python-qa": python_qa,
    "python-qa-pairs": python_qa_pairs,
}


def missing_fields(expected: str, fields: Iterable[str]) -> ValueError:
    """Return the error for a row without the fields that were expected; it names those that the row has."""
    names = ", ".join(list(map(str, fields))[:6]) or "none"
    return ValueError(f"expected {expected}; the fields are: {names}"[:200])


def read_rows(sources: str | os.PathLike | Sequence[str | os.PathLike]) -> list[Row]:
    """Read the rows of files, folders and globs, or of what `MADE` names. CorpusError names what is missing, malformed or
    empty."""
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    rows: list[Row] = []
    for source in given:
        if source in MADE:
            rows += [Row(row, f"{source} {i}") for i, row in enumerate(MADE[str(source)]())]
            continue
        for path in find_files(source):
            rows += read_records(path, "data")
    if not rows:
        raise CorpusError("data", ", ".join(map(str, given)), expected="some rows", got="none")
    return rows
