"""A corpus: named documents, divided once and for all into training text and held-out text."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmcore.data.batches import DocumentTokenizer, encode_documents
from llmcore.documents.files import find_files
from llmcore.documents.separators import count_known
from llmcore.documents.texts import read_documents, read_parts
from llmcore.errors import ArgumentTypeError, CorpusError, Error
from llmcore.tokenizer import Tokenizer

PYTHON_DOCS = "python-docs"


@dataclass(frozen=True)
class Corpus:
    """Documents as bytes: UTF-8 as a rule, but any bytes are allowed and none are changed."""

    name: str
    train: list[bytes]
    validation: list[bytes]

    @property
    def train_bytes(self) -> int:
        """Size of the training text, without anything between documents."""
        return sum(map(len, self.train))

    @property
    def validation_bytes(self) -> int:
        """Size of the held-out text: the denominator of bits per byte."""
        return sum(map(len, self.validation))

    @cached_property
    def digest(self) -> str:
        """32 hex digits that change with any document or its side of the split, so that a run can tell."""
        digest = hashlib.blake2b(digest_size=16)
        for part in (self.train, self.validation):
            digest.update(len(part).to_bytes(8, "little"))
            for document in part:
                digest.update(len(document).to_bytes(8, "little"))
                digest.update(document)
        return digest.hexdigest()

    def marks(self, tokenizer: Tokenizer) -> Counter[str]:
        """Count the texts that may be meant to end documents, and are taken as letters."""
        end = tokenizer.end_of_text
        own = [] if end is None else [tokenizer.token_bytes(end).decode("utf-8", "replace")]
        return count_known((document for part in (self.train, self.validation) for document in part), own)

    def encode(self, tokenizer: DocumentTokenizer, end_of_text: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """The training and the held-out tokens: see `encode_documents`."""
        train, held_out = (encode_documents(d, tokenizer, end_of_text) for d in (self.train, self.validation))
        return train, held_out


def read_corpus(
    source: str | os.PathLike | Sequence[str | os.PathLike],
    validation_fraction: float | None = 0.1,
    field: str = "text",
    separators: Sequence[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> Corpus:
    """Read text and hold a part of it out (None: nothing).

    `source` is "python-docs" (the documentation inside the running interpreter), a text file (one document),
    a `.jsonl` file (a document a line, in its `field`), a `.parquet` file (a document a row, in its column `field`),
    `.json`, `.csv` or `.tsv` likewise, each also as `.gz` or `.zst`, a folder (all such files, of text those ending in .txt .md .rst .tex .py, recursive,
    sorted), a glob, or a list of these. separators: texts, such as "<|endoftext|>", that end documents within these. note:
    called with what is said of files in folders that are not read.

    With at least 2 / `validation_fraction` documents, the first in the order of a hash of their content are
    held out, up to that fraction of the bytes: neither the order of files nor their names matter, duplicates
    never straddle the split, and documents added later move only those at the border. With fewer, the tail of
    each is held out instead, cut at a line boundary.

    Raises `CorpusError` (a `ValueError`) with one line that names the source if it is missing, empty,
    malformed or too short to divide.
    """
    if validation_fraction is not None:
        check_fraction(validation_fraction)
    sources = [source] if isinstance(source, (str, os.PathLike)) else source
    if not isinstance(sources, Sequence) or isinstance(sources, (bytes, bytearray)):
        raise ArgumentTypeError("corpus", expected="a path, a glob or a list of them", got=type(source).__name__)
    if not sources:
        raise CorpusError("corpus", expected="at least one source of text", got="an empty list")
    name = ", ".join(str(one) for one in sources)
    documents = [document for one in sources for document in _read_source(one, field, separators, note)]
    if validation_fraction is None:
        if not any(documents):
            raise CorpusError("corpus", name, expected="some text", got="none")
        return Corpus(name, documents, [])
    train, validation = split_documents(documents, validation_fraction)
    if not train or not validation:
        size = sum(map(len, documents))
        raise CorpusError(
            "corpus", f"{name} is too short to hold a part out: {size} bytes in {len(set(documents))} distinct texts"
        )
    return Corpus(name, train, validation)


def stream_documents(
    sources: Sequence[str | os.PathLike],
    field: str = "text",
    separators: Sequence[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> Iterator[bytes]:
    """The documents of any amount of text, one after another and in bounded memory: long ones come in parts. The
    sources, and the errors, are those of `read_corpus`."""
    for source in sources:
        if source == PYTHON_DOCS:
            yield from _read_source(source, field)
        else:
            for path in find_files(source, note=note):
                yield from (part.data for part in read_parts(path, field, separators=separators))


def check_fraction(validation_fraction: float) -> None:
    if not 0.0 < validation_fraction < 1.0:
        raise Error("corpus", expected="validation_fraction between 0 and 1", got=validation_fraction)


def split_documents(documents: Sequence[bytes], validation_fraction: float) -> tuple[list[bytes], list[bytes]]:
    """`(train, validation)`, as `read_corpus` says; a side is empty only if the text cannot be divided."""
    train: list[bytes] = []
    validation: list[bytes] = []
    if len(documents) * validation_fraction < 2:
        for document in documents:
            cut = _tail_start(document, validation_fraction)
            train += [document[:cut]] if cut > 0 else []
            validation += [document[cut:]] if cut < len(document) else []
        return train, validation
    keys = np.array([document_key(new_document_digest(document)) for document in documents], np.uint64)
    sizes = np.array([len(document) for document in documents], np.int64)
    held_out = held_out_documents(keys, sizes, validation_fraction)
    for document, held in zip(documents, held_out, strict=True):
        (validation if held else train).append(document)
    return train, validation


def new_document_digest(data: bytes = b"") -> hashlib.blake2b:
    """Of a document's content: `update` it with what follows."""
    return hashlib.blake2b(data, digest_size=8)


def document_key(digest: hashlib.blake2b) -> int:
    """What decides whether the document is held out."""
    return int.from_bytes(digest.digest(), "little")


def held_out_documents(keys: np.ndarray, sizes: np.ndarray, fraction: float) -> np.ndarray:
    """Which of many documents are held out, (D,) bool; `keys` and `sizes` are those of each, (D,)."""
    distinct, which = np.unique(keys, return_inverse=True)
    weights = np.bincount(which, sizes)  # float64: exact below 2^53 bytes
    target = fraction * weights.sum()
    # What exceeds the fraction by itself is trained on, however its hash falls.
    order = np.flatnonzero(weights <= target)
    if len(order) == len(distinct):
        order = order[:-1]  # not everything can be held out
    held = np.zeros(len(distinct), bool)
    if len(order):
        nearest = np.abs(np.cumsum(weights[order]) - target).argmin()
        held[order[: nearest + 1]] = True
    return held[which]


def _read_source(
    source: str | os.PathLike,
    field: str,
    separators: Sequence[str] = (),
    note: Callable[[str], object] = lambda text: None,
) -> list[bytes]:
    if source == PYTHON_DOCS:
        from llmcore.data.python_docs import python_docs

        return python_docs()
    return read_documents(source, field, separators, note)


def _tail_start(document: bytes, fraction: float) -> int:
    """Where the held-out tail begins: after the line break nearest to it, else a space, else a character."""
    ideal = len(document) - max(1, round(len(document) * fraction))
    # A tail of up to twice the fraction; without a break in reach a finer one is the better cut.
    reach = min(ideal, len(document) - ideal)
    for mark in (b"\n", b" "):
        before = document.rfind(mark, max(0, ideal - reach), ideal) + 1
        after = document.find(mark, ideal, min(ideal + reach, len(document) - 1)) + 1
        places = [place for place in (before, after) if place > 0]
        if places:
            return min(places, key=lambda place: abs(place - ideal))
    for place in range(ideal, max(0, ideal - 4), -1):
        if document[place] & 0xC0 != 0x80:  # not within a UTF-8 character
            return place
    return ideal or len(document)
