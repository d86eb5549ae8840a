"""Tokenized text on disk: memory-mapped shards with an index, and their documents as one stream of tokens.

A shard set is a directory:

    index.json                  what it is made of and with which tokenizer: see `read_index`
    tokenizer.json              that tokenizer
    shard-00000.npy             token ids, uint16 or uint32, one stream over all shards
    shard-00000.documents.npy   DOCUMENT records of the documents that end in it: they may be many millions

Both kinds of arrays are for `numpy.load(..., mmap_mode="r")`.
"""

from __future__ import annotations

import hashlib
import mmap
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcore._files import read_json
from llmcore.data.corpus import check_fraction, held_out_documents
from llmcore.errors import CorpusError
from llmcore.tokenizer import Tokenizer

FORMAT, VERSION = "llmcore-shards", 1
INDEX = "index.json"
# start: of the document in the stream of all shards. bytes: of its text. key: see `corpus.document_key`.
DOCUMENT = np.dtype([("start", "<u8"), ("bytes", "<u8"), ("key", "<u8")])
# A model is measured on all of the held-out text again and again.
MOST_HELD_OUT = 1 << 24


def is_shard_set(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source, INDEX).is_file()


def read_index(folder: Path) -> dict[str, Any]:
    """Read the index of a shard set and check its types. Raises `CorpusError` that names the file and the field.

    format, version; complete: whether all sources are in; tokenizer: its digest; vocab_size, dtype; end_of_text: the id
    after each document, or null; field, shard_tokens, separators: how it was asked for; sources: path and bytes of each file;
    shards: tokens and documents in each, and where reading continues after it (after which part, line or row of which
    source; start: of the document, where that is in the midst of one); tokens, documents, bytes: in all; marks: how
    often texts come that may be meant to be separators.
    """
    path = folder / INDEX
    try:
        index = read_json(path, "shards", CorpusError)
    except OSError as error:
        raise CorpusError("shards", path, expected="JSON", got=error.strerror or error) from None

    def fail(field: str, expected: str, got: Any) -> CorpusError:
        return CorpusError("shards", f"{path}: {field}", expected=expected, got=str(got)[:80])

    def check(record: Any, fields: dict[str, type], where: str = "") -> None:
        if not isinstance(record, dict):
            raise fail(where, "an object", record)
        for field, kind in fields.items():
            value: Any = record.get(field)
            right = type(value) is kind  # bool is not an int
            if not right or (kind is int and not 0 <= value < 1 << 62):
                raise fail(where + field, f"{kind.__name__} of at least 0" if kind is int else kind.__name__, value)

    check(index, {"format": str, "version": int})
    if (index["format"], index["version"]) != (FORMAT, VERSION):
        raise fail("format, version", f"{FORMAT}, {VERSION}", f"{index['format']}, {index['version']}")
    kinds = {"complete": bool, "tokenizer": str, "vocab_size": int, "dtype": str, "field": str, "shard_tokens": int}
    check(
        index,
        {
            **kinds,
            "separators": list,
            "marks": dict,
            "sources": list,
            "shards": list,
            "tokens": int,
            "documents": int,
            "bytes": int,
        },
    )
    if index["dtype"] != dtype_of(index["vocab_size"]):
        raise fail("dtype", dtype_of(index["vocab_size"]), index["dtype"])
    begin = index.get("begin", [])
    if not isinstance(begin, list) or not all(type(id) is int and 0 <= id < index["vocab_size"] for id in begin):
        raise fail("begin", "a list of ids", begin)
    end = index.get("end_of_text")
    if end is not None and not (type(end) is int and 0 <= end < index["vocab_size"]):
        raise fail("end_of_text", "an id or null", end)
    for number, source in enumerate(index["sources"]):
        check(source, {"path": str, "bytes": int}, f"sources[{number}].")
    for number, shard in enumerate(index["shards"]):
        check(shard, {"tokens": int, "documents": int, "source": int, "after": int}, f"shards[{number}].")
        if "start" in shard:
            check(shard, {"start": int}, f"shards[{number}].")
        if shard["source"] >= len(index["sources"]) + ("start" not in shard):
            raise fail(f"shards[{number}].source", f"up to {len(index['sources'])}", shard["source"])
    for field in ("tokens", "documents"):
        if index[field] != sum(shard[field] for shard in index["shards"]):
            raise fail(field, f"the sum over all shards, {sum(s[field] for s in index['shards'])}", index[field])
    return index


def dtype_of(vocab_size: int) -> str:
    """Return the smaller of uint16 and uint32 that holds every id."""
    return "uint16" if vocab_size <= 1 << 16 else "uint32"


def shard_paths(folder: Path, number: int) -> tuple[Path, Path]:
    """Return the paths of a shard's tokens and of its documents."""
    return folder / f"shard-{number:05}.npy", folder / f"shard-{number:05}.documents.npy"


def load_array(path: Path, dtype: np.dtype, size: int) -> np.ndarray:
    """Open a memory-mapped array of shape (size,). Raises `CorpusError` for any other."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CorpusError("shards", f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (size,):
        got = f"{array.dtype} of shape {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise CorpusError("shards", path, expected=f"{dtype} of shape ({size},) as in {INDEX}", got=got)
    return array


def _forget_pages(array: np.ndarray) -> None:
    """Unmap what has been read of a mapped file: it stays in the system's cache, and out of what the process holds."""
    mapped = getattr(array, "_mmap", None)
    if mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)


class TokenStream:
    """Ranges of the stream of all shards, one after another, as `TokenBatches` reads it: an array (N,) that stays
    on disk."""

    ndim = 1

    def __init__(self, shards: Sequence[np.ndarray], ranges: np.ndarray):
        """`ranges` is int64 (R, 2): where each begins and ends in the stream, in ascending order."""
        ranges = ranges[ranges[:, 0] < ranges[:, 1]]
        gaps = np.flatnonzero(ranges[1:, 0] != ranges[:-1, 1])  # what has none is one range
        ranges = (
            np.stack([ranges[np.append(0, gaps + 1), 0], ranges[np.append(gaps, -1), 1]], axis=1)
            if len(ranges)
            else ranges
        )
        self.dtype = shards[0].dtype
        self._shards = shards
        self._first = np.cumsum([0, *map(len, shards)])  # token of each shard
        self._ranges = ranges
        self._ends = np.cumsum(self._ranges[:, 1] - self._ranges[:, 0])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, positions: np.ndarray, mode: str = "wrap") -> np.ndarray:
        """Do as numpy's `take` of an array of one dimension; `mode` is always "wrap"."""
        positions = np.asarray(positions) % len(self)
        ranges = np.searchsorted(self._ends, positions, side="right")
        places = self._ranges[ranges, 1] - (self._ends[ranges] - positions)
        which = np.searchsorted(self._first, places, side="right") - 1
        result = np.empty(places.shape, self.dtype)
        for shard in np.unique(which):
            here = which == shard
            result[here] = self._shards[shard][places[here] - self._first[shard]]
            _forget_pages(self._shards[shard])
        return result

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.take(np.arange(len(self))).astype(dtype or self.dtype, copy=False)


class ShardSet:
    """A finished shard set, opened, with a part of its documents held out: what `read_corpus` does, for tokens.

    With the documents and the tokenizer of a `Corpus`, the streams of both sides are those of `Corpus.encode`, unless
    there are so few that each has its tail held out. At most 16 MB are held out.
    """

    def __init__(self, folder: str | os.PathLike, validation_fraction: float | None = 0.1):
        if validation_fraction is not None:
            check_fraction(validation_fraction)
        self.folder = Path(folder)
        self.name = str(folder)
        self.fraction = validation_fraction  # None: nothing is held out
        self.index = read_index(self.folder)
        if not self.index["complete"]:
            raise CorpusError("shards", f"{folder} is not finished: give the same `llmcore tokenize` command again")
        if not self.index["documents"]:
            raise CorpusError("shards", f"{folder} is empty", expected="some text")
        self.shards, self._tables = [], []
        for number, shard in enumerate(self.index["shards"]):
            tokens, documents = shard_paths(self.folder, number)
            self.shards.append(load_array(tokens, np.dtype(self.index["dtype"]), shard["tokens"]))
            self._tables.append(load_array(documents, DOCUMENT, shard["documents"]))
        starts = self.documents["start"]
        if starts[0] != 0 or (starts[1:] < starts[:-1]).any() or starts[-1] > self.index["tokens"]:
            raise CorpusError("shards", folder, expected="documents whose starts ascend within the shards")

    @property
    def documents(self) -> np.ndarray:
        """Read the DOCUMENT records of all shards: not kept, because they may be large."""
        found = np.concatenate(self._tables)
        for table in self._tables:
            _forget_pages(table)
        return found

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one that the shards were made with. Raises `CorpusError` if the file beside them is another."""
        tokenizer = Tokenizer.load(self.folder)
        self.check(tokenizer, self.folder)
        return tokenizer

    def check(self, tokenizer: Tokenizer, name: object) -> None:
        """Raises `CorpusError` for a tokenizer other than that of the shards."""
        if tokenizer.digest != self.index["tokenizer"]:
            raise CorpusError(
                "shards",
                f"{self.folder} was made with another tokenizer (digest {self.index['tokenizer'][:12]}, "
                f"vocabulary of {self.index['vocab_size']}) than {name} (digest {tokenizer.digest[:12]}, "
                f"vocabulary of {tokenizer.vocab_size}): use {self.folder / 'tokenizer.json'}, or tokenize "
                "the text again",
            )

    @cached_property
    def digest(self) -> str:
        """Return 32 hex digits that change with the documents, the tokenizer or the split."""
        digest = hashlib.blake2b(self.documents.tobytes(), digest_size=16)
        digest.update(f"{self.index['tokenizer']} {self.index['end_of_text']} {self.fraction}".encode())
        return digest.hexdigest()

    @cached_property
    def train_bytes(self) -> int:
        return int(self.documents["bytes"].sum()) - self.validation_bytes

    @cached_property
    def validation_bytes(self) -> int:
        """Size of the held-out text: the denominator of bits per byte."""
        if self._held_out is not None:
            return int(self.documents["bytes"][self._held_out].sum())
        ids = np.asarray(self.encode(self.tokenizer)[1])
        silent = [
            *self.index.get("begin", []),
            *([] if self.index["end_of_text"] is None else [self.index["end_of_text"]]),
        ]
        return len(self.tokenizer.decode_bytes(ids[~np.isin(ids, silent)]))

    @cached_property
    def _held_out(self) -> np.ndarray | None:
        """Return which documents are held out, (D,) bool; None where each has its tail held out."""
        documents = self.documents
        if self.fraction is None:
            return np.zeros(len(documents), bool)
        if len(documents) * self.fraction < 2:
            return None
        sizes = documents["bytes"]
        fraction = min(self.fraction, MOST_HELD_OUT / max(1, int(sizes.sum())))
        return held_out_documents(documents["key"], sizes, fraction)

    def encode(self, tokenizer: Tokenizer) -> tuple[TokenStream, TokenStream]:
        """Return the training and the held-out tokens. Raises `CorpusError` for another tokenizer than that of the shards."""
        self.check(tokenizer, "the one given")
        starts = self.documents["start"].astype(np.int64)
        ranges = np.stack([starts, np.append(starts[1:], self.index["tokens"])], axis=1)
        if self._held_out is None:
            sizes = ranges[:, 1] - ranges[:, 0]
            cuts = ranges[:, 1] - np.maximum(1, np.round(sizes * self.fraction)).astype(np.int64)
            sides = np.stack([ranges[:, 0], cuts], axis=1), np.stack([cuts, ranges[:, 1]], axis=1)
        else:
            sides = ranges[~self._held_out], ranges[self._held_out]
        train, validation = (TokenStream(self.shards, side) for side in sides)
        if not len(train) or (self.fraction is not None and not len(validation)):
            raise CorpusError("shards", f"{self.name} is too short to hold a part out: {self.index['tokens']} tokens")
        return train, validation
