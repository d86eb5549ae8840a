"""Rows with named fields, as fine-tuning wants them: JSONL, JSON, CSV, TSV and parquet, plain or compressed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

from llmcore.data.arithmetic import arithmetic
from llmcore.data.columns import renamed
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.documents.files import find_files
from llmcore.documents.reading import Row
from llmcore.documents.records import read_records
from llmcore.errors import CorpusError

# Rows that are made at run time, by name.
MADE: dict[str, Callable[[], list[dict[str, str]]]] = {
    "arithmetic": arithmetic,
    "python-qa": python_qa,
    "python-qa-pairs": python_qa_pairs,
}


def read_rows(
    sources: str | os.PathLike | Sequence[str | os.PathLike],
    columns: Mapping[str, str] | None = None,
    bad: Callable[[str], object] | None = None,
    note: Callable[[str], object] = lambda text: None,
) -> list[Row]:
    """Read the rows of files, folders and globs, or of what `MADE` names, without fields that are null.

    columns: our names for columns and theirs, {"prompt": "question"}. bad: called with the error of a row that cannot be
    read, instead of raising. note: called with what is said of files that are not read. CorpusError names what is missing, malformed or empty.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else list(sources)
    rows: list[Row] = []
    problems = 0

    def refused(error: CorpusError | str) -> None:
        nonlocal problems
        problems += 1
        if bad is None:
            raise error if isinstance(error, CorpusError) else CorpusError("data", error)
        bad(error.message if isinstance(error, CorpusError) else error)

    for source in given:
        if source in MADE:
            found = (Row(row, f"{source} {i}") for i, row in enumerate(MADE[str(source)]()))
        else:
            found = (row for path in find_files(source, True, note) for row in read_records(path, "data", refused))
        for row in found:
            fields = {name: value for name, value in row.fields.items() if value is not None}
            try:
                rows.append(row._replace(fields=renamed(fields, columns) if columns else fields))
            except ValueError as error:
                refused(f"{row.where}: {error}")
    if not rows and not problems:
        raise CorpusError("data", ", ".join(map(str, given)), expected="some rows", got="none")
    return rows
