"""The documents of files, one after another: text, JSONL and parquet, plain or compressed, in bounded memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from llmcore.documents.arrow import parquet_file
from llmcore.documents.files import PARQUET_ENDING, find_files, kind_of
from llmcore.documents.reading import Row, opened
from llmcore.documents.records import rows_of
from llmcore.documents.separators import Part, separated
from llmcore.errors import CorpusError

PART_BYTES = 1 << 25  # of a long text that are in memory at once
_ROWS = 128  # of a parquet file that are in memory at once
_ASK = " (--columns text=NAME says which it is)"
_TRIES = 10_000  # line ends that are looked at for the end of a part
_NO_SPACE = frozenset(range(0x21, 0x7F))
_LETTER_OR_DIGIT = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


def read_parts(
    path: Path, field: str = "text", after: int = 0, whole: bool = False, separators: Sequence[str] = ()
) -> Iterator[Part]:
    """Read the documents of a file that are not blank, from the one after position `after` on.

    A text file is one document, in parts of up to 32 MiB that end at line ends where a piece ends too (see
    `Tokenizer.ends_at_line_ends`), or `whole` in memory; a line of JSONL is one (its `field`), an object of JSON, a row of
    CSV or parquet (its column `field`). A null is no document. Each is several
    where it has separators in it. Raises `CorpusError` that names the file and the line or row.
    """
    text = _whole_text if whole else _text
    reader = {PARQUET_ENDING: _parquet, "": text}.get(kind_of(path), _table)
    with opened(path, "corpus") as file:
        if separators:
            yield from separated(reader(path, file, field, 0), separators, after)
        else:
            yield from reader(path, file, field, after)


def read_documents(
    source: str | os.PathLike,
    field: str = "text",
    separators: Sequence[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> list[bytes]:
    """Read the documents of one path or glob into memory; see `read_parts`. Blank ones are left out. note: as of `find_files`.

    Raises `CorpusError` naming what is missing, empty, unreadable or malformed.
    """
    files = find_files(source, note=note)
    documents = [document for path in files for document in _whole_documents(path, field, separators)]
    if not documents:
        what = f"{source} is empty" if len(files) == 1 else f"{source}: all {len(files)} files are empty"
        raise CorpusError("corpus", what, expected="some text")
    return documents


def _whole_documents(path: Path, field: str, separators: Sequence[str]) -> Iterator[bytes]:
    parts = []
    for part in read_parts(path, field, separators=separators):
        parts.append(part.data)
        if part.ends:
            yield b"".join(parts)
            parts.clear()


def _text(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    position, rest = 0, b""
    while True:
        data = rest + file.read(PART_BYTES - len(rest))
        last = len(data) < PART_BYTES
        cut = len(data) if last else _cut(data)
        data, rest = data[:cut], data[cut:]
        if last and position == 0 and not data.strip():
            return
        position += 1
        if position > after:
            yield Part(data, position, last)
        if last:
            return


def _whole_text(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    data = b"".join(iter(lambda: file.read(PART_BYTES), b""))
    if after == 0 and data.strip():
        yield Part(data, 1, True)


def _cut(data: bytes) -> int:
    """Where to end a part: at the last line end where no named pattern has a piece that goes on, between a character that
    is not a space and a letter or digit; else between characters."""
    end = len(data) - 1
    for _ in range(_TRIES):
        end = data.rfind(b"\n", 1, end)
        if end < 0:
            break
        if data[end - 1] in _NO_SPACE and data[end + 1] in _LETTER_OR_DIGIT:
            return end + 1
    return next((i for i in range(len(data) - 1, len(data) - 5, -1) if data[i] & 0xC0 != 0x80), len(data) - 1)


def _table(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    for row in rows_of(path, file, "corpus", after):
        if not isinstance(row, Row):
            raise row
        if row.number > after:
            yield from _document(row, field)


def _document(row: Row, field: str) -> Iterator[Part]:
    if field not in row.fields:
        raise CorpusError("corpus", f'{row.where}: no "{field}" field; the fields are: {_names(row.fields)}{_ASK}')
    text = row.fields[field]
    if text is None:  # null means absent: there is no document
        return
    if not isinstance(text, str):
        raise CorpusError("corpus", f'{row.where}: "{field}" is {type(text).__name__}, expected a string')
    try:
        document = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError("corpus", f'{row.where}: "{field}" has half a surrogate pair at {error.start}') from None
    if document.strip():
        yield Part(document, row.number, True)


def _parquet(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    with parquet_file(path, file, "corpus") as table:
        yield from _rows(table, path, field, after)


def _rows(table: Any, path: Path, field: str, after: int) -> Iterator[Part]:
    import pyarrow

    schema, types = table.schema_arrow, pyarrow.types
    if schema.names.count(field) != 1:
        raise CorpusError(
            "corpus", path, expected=f'one column "{field}"; the columns are: {_names(schema.names)}{_ASK}'
        )
    kind = schema.field(field).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not any(is_text(plain) for is_text in _text_types(types)):
        raise CorpusError("corpus", f'{path}: column "{field}" is {kind}, expected strings')
    row = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row + rows <= after:
            row += rows
            continue
        for batch in table.iter_batches(_ROWS, row_groups=[group], columns=[field]):
            column = batch.column(0)
            column = column.dictionary_decode() if types.is_dictionary(kind) else column
            for document in column.cast(pyarrow.large_binary()).to_pylist():
                row += 1
                if row > after and document and document.strip():
                    yield Part(document, row, True)


def _text_types(types: Any) -> list[Any]:
    names = ("string", "large_string", "string_view", "binary", "large_binary", "binary_view")
    return [getattr(types, f"is_{name}") for name in names if hasattr(types, f"is_{name}")]


def _names(names: Any) -> str:
    text = ", ".join(list(names)[:6]) or "none"
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 80 else printable[:77] + "..."
