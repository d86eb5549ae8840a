"""The documents of a file, one after another: text, JSONL and parquet, plain or compressed, in bounded memory."""

from __future__ import annotations

import json
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from llmcore.documents.decompress import COMPRESSED_ENDINGS, open_decompressed
from llmcore.errors import CorpusError

JSONL_ENDINGS = (".jsonl", ".ndjson")
PARQUET_ENDING = ".parquet"
PART_BYTES = 1 << 25  # of a long text that are in memory at once
LONGEST_LINE = 1 << 28
_ROWS = 128  # of a parquet file that are in memory at once
_TRIES = 10_000  # line ends that are looked at for the end of a part
_NO_SPACE = frozenset(range(0x21, 0x7F))
_LETTER_OR_DIGIT = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class Part(NamedTuple):
    """A document, or a stretch of a long one."""

    data: bytes
    position: int  # parts, lines or rows of the file that have been read: what `after` takes
    ends: bool  # whether the document ends here


def kind_of(path: Path) -> str:
    """The ending that says how a file is read: ".jsonl", ".parquet", or "" for text."""
    ending = Path(path.stem).suffix if path.suffix.lower() in COMPRESSED_ENDINGS else path.suffix
    return ".jsonl" if ending.lower() in JSONL_ENDINGS else PARQUET_ENDING if ending.lower() == PARQUET_ENDING else ""


def is_plain_text(path: Path) -> bool:
    """Whether the file is one document as it is."""
    return kind_of(path) == "" and path.suffix.lower() not in COMPRESSED_ENDINGS


def read_parts(path: Path, field: str = "text", after: int = 0, whole: bool = False) -> Iterator[Part]:
    """The documents of a file that are not blank, from the one after position `after` on.

    A text file is one document, in parts of up to 32 MiB that end at line ends where a piece ends too (see
    `Tokenizer.ends_at_line_ends`), or `whole` in memory; a line of JSONL is one (its `field`), a row of parquet (its
    column `field`). Raises `CorpusError` that names the file and the line or row.
    """
    text = _whole_text if whole else _text
    reader = {".jsonl": _jsonl, PARQUET_ENDING: _parquet, "": text}[kind_of(path)]
    try:
        with open_decompressed(path) as file:
            yield from reader(path, file, field, after)
    except (OSError, EOFError, zlib.error) as error:
        raise CorpusError("corpus", f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None


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
    is no space and a letter or digit; else between characters."""
    end = len(data) - 1
    for _ in range(_TRIES):
        end = data.rfind(b"\n", 1, end)
        if end < 0:
            break
        if data[end - 1] in _NO_SPACE and data[end + 1] in _LETTER_OR_DIGIT:
            return end + 1
    return next((i for i in range(len(data) - 1, len(data) - 5, -1) if data[i] & 0xC0 != 0x80), len(data) - 1)


def _jsonl(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if len(line) == LONGEST_LINE:
            raise CorpusError("corpus", f"{path}:{number}", expected=f"lines of less than {LONGEST_LINE >> 20} MiB")
        if number > after and line.strip():
            document = _parse_line(line, field, f"{path}:{number}")
            if document.strip():
                yield Part(document, number, True)


def _parse_line(line: bytes, field: str, where: str) -> bytes:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError("corpus", f"{where}: not UTF-8 text at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        # A line nested thousands deep and an integer of thousands of digits are bad JSON too.
        reason = getattr(error, "msg", None) or str(error)
        raise CorpusError("corpus", f"{where}: not valid JSON ({reason})") from None
    if not isinstance(record, dict):
        kind = type(record).__name__
        raise CorpusError("corpus", where, expected=f'a JSON object with a "{field}" field', got=kind)
    if field not in record:
        raise CorpusError("corpus", f'{where}: no "{field}" field; the fields are: {_names(record)}')
    text = record[field]
    if not isinstance(text, str):
        raise CorpusError("corpus", f'{where}: "{field}" is {type(text).__name__}, expected a string')
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CorpusError("corpus", f'{where}: "{field}" has half a surrogate pair at {error.start}') from None


def _parquet(path: Path, file: BinaryIO, field: str, after: int) -> Iterator[Part]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise CorpusError("corpus", f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    try:
        with tempfile.TemporaryFile() as plain:
            if path.suffix.lower() in COMPRESSED_ENDINGS:  # a parquet file is read from its end
                shutil.copyfileobj(file, plain)
                file = plain
            yield from _rows(pyarrow, parquet.ParquetFile(file), path, field, after)
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise CorpusError("corpus", f"{path}: not a parquet file that can be read ({reason})") from None


def _rows(pyarrow: Any, table: Any, path: Path, field: str, after: int) -> Iterator[Part]:
    schema, types = table.schema_arrow, pyarrow.types
    if schema.names.count(field) != 1:
        raise CorpusError("corpus", path, expected=f'one column "{field}"; the columns are: {_names(schema.names)}')
    kind = schema.field(field).type
    if not any(is_text(kind) for is_text in (types.is_string, types.is_large_string, types.is_binary)):
        raise CorpusError("corpus", f'{path}: column "{field}" is {kind}, expected strings')
    row = 0
    for group in range(table.num_row_groups):
        rows = table.metadata.row_group(group).num_rows
        if row + rows <= after:
            row += rows
            continue
        for batch in table.iter_batches(_ROWS, row_groups=[group], columns=[field]):
            for document in batch.column(0).cast(pyarrow.large_binary()).to_pylist():
                row += 1
                if document is None:
                    raise CorpusError("corpus", f'{path}: row {row}: "{field}" is null, expected a string')
                if row > after and document.strip():
                    yield Part(document, row, True)


def _names(names: Any) -> str:
    text = ", ".join(list(names)[:6]) or "none"
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= 80 else printable[:77] + "..."
