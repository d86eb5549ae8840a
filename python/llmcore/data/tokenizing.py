"""Text of any size to a shard set (see `shards`): in bounded memory, on all threads, and resumable.

A shard is written beside its place, flushed to the disk and renamed; then the index names it, with the place where
reading continues after it. So whatever stops the work, the same call continues after the last whole shard, and what
comes out is the same, byte for byte.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmcore._files import alone_in, sync_folder, write_atomically
from llmcore.data import shards
from llmcore.data.batches import begin_of
from llmcore.data.corpus import document_key, new_document_digest
from llmcore.documents.files import find_files
from llmcore.documents.separators import Part, count_known
from llmcore.documents.texts import read_parts
from llmcore.errors import CorpusError, Error, ExistingFileError
from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.tokenizer import FILE_NAME

SHARD_TOKENS = 1 << 27
_BATCH_BYTES = 1 << 23  # of text that is encoded at once

# (bytes of the files that are read, bytes of all files, tokens)
Progress = Callable[[int, int, int], object]


def tokenize_files(
    sources: Sequence[str | os.PathLike],
    tokenizer: Tokenizer,
    out: str | os.PathLike,
    field: str = "text",
    shard_tokens: int = SHARD_TOKENS,
    end_of_text: bool = True,
    overwrite: bool = False,
    progress: Progress | None = None,
    separators: Sequence[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Encode files, folders and globs (see `texts.read_parts`) into a shard set, and returns its index.

    A shard ends with the document, or the part of a long one, that gives it `shard_tokens` tokens or more. Before each
    document comes what the tokenizer puts before a text, if it does. After each
    document comes the tokenizer's end-of-text token, if it has one and `end_of_text` says so; special tokens that are
    spelled in a text are text, but for separators, which end documents; the index counts what may be meant to be some, in
    "marks". note: called with what is said of files in folders that are not read.

    What was begun in `out` with the same arguments goes on; anything else there is a FileExistsError, or is replaced
    with `overwrite`. Raises `CorpusError` for text that cannot be read, OSError where `out` cannot be written.
    """
    if shard_tokens < 1:
        raise Error("tokenize", expected="shard_tokens of at least 1", got=shard_tokens)
    files = [path for source in sources for path in find_files(source, note=note)]
    if not files:
        raise CorpusError("tokenize", expected="at least one source of text", got="none")
    folder = Path(out)
    end = tokenizer.end_of_text if end_of_text else None
    index: dict[str, Any] = {
        "format": shards.FORMAT,
        "version": shards.VERSION,
        "complete": False,
        "tokenizer": tokenizer.digest,
        "vocab_size": tokenizer.vocab_size,
        "dtype": shards.dtype_of(tokenizer.vocab_size),
        "end_of_text": end,
        **({"begin": list(begin)} if (begin := begin_of(tokenizer, end)) else {}),
        "field": field,
        "shard_tokens": shard_tokens,
        "separators": list(separators),
        "sources": [{"path": str(path), "bytes": path.stat().st_size} for path in files],
        "tokens": 0,
        "documents": 0,
        "bytes": 0,
        "marks": {},
        "shards": [],
    }
    with alone_in(folder, "tokenize", "another process is writing to {}: wait for it, or give another --out"):
        index = _begin(folder, index, tokenizer, overwrite)
        if not index["complete"]:
            _Writer(folder, index, tokenizer, progress).run(files)
    return index


def _begin(folder: Path, index: dict[str, Any], tokenizer: Tokenizer, overwrite: bool) -> dict[str, Any]:
    """Return the index to continue from, in a folder that holds what it names and no more."""
    begun = (folder / shards.INDEX).exists()
    if not begun and not overwrite and any(not path.name.startswith(".") for path in folder.iterdir()):
        raise ExistingFileError("tokenize", f"{folder} holds other files: give another --out, or --overwrite")
    if begun and not overwrite:
        found = shards.read_index(folder)
        for name, value in index.items():
            if name not in ("complete", "tokens", "documents", "bytes", "marks", "shards") and found.get(name) != value:
                what = "with other files" if name == "sources" else f"with {name} {found.get(name)}, not {value}"
                raise ExistingFileError("tokenize", f"{folder} was begun {what}: give another --out, or --overwrite")
        index = found
    else:
        (folder / shards.INDEX).unlink(missing_ok=True)
    whole = set()
    for number, shard in enumerate(index["shards"]):
        tokens, documents = shards.shard_paths(folder, number)
        shards.load_array(tokens, np.dtype(index["dtype"]), shard["tokens"])
        shards.load_array(documents, shards.DOCUMENT, shard["documents"])
        whole |= {tokens, documents}
    for pattern in ("shard-*.npy", ".shard-*", f".{shards.INDEX}.*", f".{FILE_NAME}.*"):
        for path in set(folder.glob(pattern)) - whole:
            path.unlink()
    if not index["shards"]:
        _write_index(folder, index)
        tokenizer.save(folder)
    return index


def _write_index(folder: Path, index: dict[str, Any]) -> None:
    write_atomically(folder / shards.INDEX, json.dumps(index, indent=1).encode() + b"\n")
    sync_folder(folder)


class _ArrayFile:
    """A .npy file (N,) that grows, under another name until it is whole."""

    HEADER = 192

    def __init__(self, path: Path, dtype: np.dtype):
        self.path, self.dtype, self.size = path, dtype, 0
        self._temporary = path.with_name(f".{path.name}")
        self._file: BinaryIO = open(self._temporary, "wb")  # noqa: SIM115 - closed in finish or discard
        self._write(bytes(self.HEADER))

    def append(self, array: np.ndarray) -> None:
        self._write(array.astype(self.dtype, copy=False).tobytes())
        self.size += len(array)

    def finish(self) -> None:
        fields = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": (self.size,)}
        magic = b"\x93NUMPY\x01\x00" + (self.HEADER - 10).to_bytes(2, "little")
        header = magic + repr(fields).encode().ljust(self.HEADER - 11) + b"\n"
        try:
            self._file.seek(0)
            self._file.write(header)
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise self._named(error) from None
        os.replace(self._temporary, self.path)

    def discard(self) -> None:
        with suppress(OSError):  # what it could not write is not wanted
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _write(self, data: bytes) -> None:
        try:
            self._file.write(data)
        except OSError as error:
            raise self._named(error) from None

    def _named(self, error: OSError) -> OSError:
        """Name the file, which the system does not (a full disk)."""
        return OSError(error.errno, error.strerror, str(self.path))


class _Writer:
    """The documents of all files, one after another, into shards."""

    def __init__(self, folder: Path, index: dict[str, Any], tokenizer: Tokenizer, progress: Progress | None):
        self.folder, self.index, self.tokenizer, self.progress = folder, index, tokenizer, progress
        self.dtype = np.dtype(index["dtype"])
        end = index["end_of_text"]
        self.end = np.array([] if end is None else [end], self.dtype)
        self.begin, self.begun = np.array(index.get("begin", []), self.dtype), False
        self.tokens: _ArrayFile | None = None  # of the shard that is being written
        self.records: list[tuple[int, int, int]] = []  # its documents
        # Of the document that is being read.
        self.start, self.bytes, self.document = index["tokens"], 0, new_document_digest()
        self.marks = Counter(index["marks"])
        # For the progress: the file that is being read and how much of it was.
        self.source, self.read = 0, 0
        self.sizes = [source["bytes"] for source in index["sources"]]
        self.before = list(accumulate(self.sizes, initial=0))

    def run(self, files: Sequence[Path]) -> None:
        source, after, whole = 0, 0, not self.tokenizer.ends_at_line_ends
        if self.index["shards"]:
            last = self.index["shards"][-1]
            source, after = last["source"], last["after"]
            if "start" in last:  # in the midst of a document
                self._reread(files[source], last)
                self.begun = True
        try:
            for batch in _ahead(_batches(files, self.index, source, after, whole)):
                self._encode(files, batch)
            if self.tokens is not None:
                self._finish_shard(len(files), 0)
        finally:
            if self.tokens is not None:
                self.tokens.discard()
        if not self.index["documents"]:
            raise CorpusError("tokenize", expected="some text", got=f"{len(files)} files that are empty")
        self.index["complete"] = True
        _write_index(self.folder, self.index)

    def _reread(self, path: Path, last: dict[str, Any]) -> None:
        """Read what a document's digest needs of its parts in earlier shards."""
        self.start = last["start"]
        whole = not self.tokenizer.ends_at_line_ends
        for part in read_parts(path, self.index["field"], whole=whole, separators=self.index["separators"]):
            if part.position > last["after"]:
                break
            self.document.update(part.data)
            self.bytes += len(part.data)

    def _encode(self, files: Sequence[Path], batch: list[tuple[int, Part]]) -> None:
        try:
            encoded = self.tokenizer.encode_ordinary_batch([part.data for _, part in batch])
        except ValueError as error:
            names = sorted({str(files[source]) for source, _ in batch})
            raise CorpusError("tokenize", f"{', '.join(names)[:200]}: {Error.of(error).message}") from None
        for (source, part), ids in zip(batch, encoded, strict=True):
            self._add(source, part, ids)
        if self.progress is not None:
            source = batch[-1][0]
            read = sum(len(part.data) for number, part in batch if number == source)
            self.read = read + (self.read if source == self.source else 0)
            self.source = source
            # Of a compressed file, or one with other fields, this is only a guess.
            done = self.before[source] + min(self.sizes[source], self.read)
            self.progress(done, self.before[-1], self.index["tokens"] + (self.tokens.size if self.tokens else 0))

    def _add(self, source: int, part: Part, ids: np.ndarray) -> None:
        if self.tokens is None:
            self.tokens = _ArrayFile(shards.shard_paths(self.folder, len(self.index["shards"]))[0], self.dtype)
        if not self.begun:
            self.tokens.append(self.begin)
        self.tokens.append(ids)
        self.marks += count_known([part.data])
        self.begun = not part.ends
        self.document.update(part.data)
        self.bytes += len(part.data)
        if part.ends:
            self.tokens.append(self.end)
            self.records.append((self.start, self.bytes, document_key(self.document)))
            self.start, self.bytes = self.index["tokens"] + self.tokens.size, 0
            self.document = new_document_digest()
        if self.tokens.size >= self.index["shard_tokens"]:
            self._finish_shard(source, part.position)

    def _finish_shard(self, source: int, after: int) -> None:
        """Finish the shard; reading continues after position `after` of file `source`."""
        assert self.tokens is not None
        paths = shards.shard_paths(self.folder, len(self.index["shards"]))
        table = _ArrayFile(paths[1], shards.DOCUMENT)
        try:
            table.append(np.array(self.records, shards.DOCUMENT))
            table.finish()
            self.tokens.finish()
        except BaseException:
            table.discard()
            paths[1].unlink(missing_ok=True)
            raise
        shard = {"tokens": self.tokens.size, "documents": len(self.records), "source": source, "after": after}
        self.index["tokens"] += shard["tokens"]
        self.index["marks"] = dict(self.marks)
        self.index["documents"] += shard["documents"]
        self.index["bytes"] += sum(size for _, size, _ in self.records)
        if self.start < self.index["tokens"]:
            shard["start"] = self.start
        self.index["shards"].append(shard)
        self.tokens, self.records = None, []
        _write_index(self.folder, self.index)


def _batches(
    files: Sequence[Path], index: Mapping[str, Any], source: int, after: int, whole: bool
) -> Iterator[list[tuple[int, Part]]]:
    """Batch the parts of the files from one place on, some megabytes of them together, with the numbers of their files."""
    batch: list[tuple[int, Part]] = []
    size = 0
    for number in range(source, len(files)):
        start = after if number == source else 0
        for part in read_parts(files[number], index["field"], start, whole, index["separators"]):
            batch.append((number, part))
            size += len(part.data)
            if size >= _BATCH_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _ahead(items: Iterable[Any]) -> Iterator[Any]:
    """Yield the items, each read by another thread while its predecessor is in use."""
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="llmcore-reader") as pool:
        upcoming = pool.submit(next, iterator, None)
        while (item := upcoming.result()) is not None:
            upcoming = pool.submit(next, iterator, None)
            yield item
