"""Rows of parquet and Arrow files, as plain values: every type of Arrow, or an error that names the column and its type."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmcore.documents.files import COMPRESSED_ENDINGS, PARQUET_ENDING, kind_of
from llmcore.documents.reading import Row
from llmcore.errors import CorpusError

_ROWS = 256  # that are in memory at once
_DEEPEST = 100  # levels of lists and structs


def arrow_rows(path: Path, file: BinaryIO, op: str) -> Iterator[Row | CorpusError]:
    """Read all rows of a parquet file or of one of Arrow's own (what `datasets` saves and caches). Bytes that are UTF-8 become text, maps become objects; times, dates and decimals become text."""
    with (parquet_file if kind_of(path) == PARQUET_ENDING else _arrow_file)(path, file, op) as table:
        names = table.schema_arrow.names
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise CorpusError(op, path, expected="columns with names of their own", got=f"{twice!r:.50} twice")
        number = 0
        for batch in table.iter_batches(_ROWS):
            for row in range(batch.num_rows):
                number += 1
                where = f"{path}: row {number}"
                try:
                    yield Row({n: _value(batch, i, row) for i, n in enumerate(names)}, where, number)
                except CorpusError as error:
                    yield CorpusError(op, f"{where}: {error.message}")


def _value(batch: Any, column: int, row: int) -> Any:
    import pyarrow

    try:
        return _plain(batch.column(column)[row].as_py(maps_as_pydicts="strict"))
    except (ValueError, TypeError, OverflowError, KeyError, NotImplementedError, pyarrow.ArrowException) as error:
        field = batch.schema.field(column)
        reason = str(error).partition("\n")[0]
        raise CorpusError(
            "", f"column {field.name!r:.50} of type {field.type!s:.80} cannot be read ({reason:.80})"
        ) from None


def _plain(value: Any, depth: int = 0) -> Any:
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} levels")
    if isinstance(value, dict):
        return {str(k): _plain(v, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v, depth + 1) for v in value]
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            return value  # a picture: whoever needs a text refuses it
    return str(value)


@contextmanager
def parquet_file(path: Path, file: BinaryIO, op: str) -> Iterator[Any]:
    """Open a `pyarrow.parquet.ParquetFile`, and name it in what goes wrong while it is read."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise CorpusError(op, f"{path}: reading parquet needs pyarrow: pip install pyarrow") from None
    with _seekable(path, file, op, "parquet") as plain:
        yield parquet.ParquetFile(plain)


@contextmanager
def _arrow_file(path: Path, file: BinaryIO, op: str) -> Iterator[Any]:
    """Open a file or stream of Arrow's as something that is read as a parquet file is."""
    try:
        from pyarrow import ipc
    except ImportError:
        raise CorpusError(op, f"{path}: reading .arrow needs pyarrow: pip install pyarrow") from None
    with _seekable(path, file, op, "Arrow") as plain:
        is_file = plain.read(6) == b"ARROW1"
        plain.seek(0)
        yield _Batches(ipc.open_file(plain) if is_file else ipc.open_stream(plain), is_file)


class _Batches:
    def __init__(self, reader: Any, is_file: bool):
        self._reader, self._is_file = reader, is_file
        self.schema_arrow = reader.schema

    def iter_batches(self, size: int) -> Iterator[Any]:
        if self._is_file:
            yield from map(self._reader.get_batch, range(self._reader.num_record_batches))
        else:
            yield from self._reader


@contextmanager
def _seekable(path: Path, file: BinaryIO, op: str, kind: str) -> Iterator[BinaryIO]:
    import pyarrow

    try:
        with tempfile.TemporaryFile() as plain:
            if path.suffix.lower() in COMPRESSED_ENDINGS:  # a parquet file is read from its end
                shutil.copyfileobj(file, plain)
                file = plain
            yield file
    except pyarrow.ArrowException as error:
        reason = str(error).partition("\n")[0]
        raise CorpusError(op, f"{path}: not a {kind} file that can be read ({reason})") from None
