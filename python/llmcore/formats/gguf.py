"""Reading GGUF files: metadata, then named tensors, many of them quantized in blocks
(https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Own code rather than the `gguf` package, which is the oracle in the tests: that takes seconds to open a file with a
vocabulary, which is a chat's start-up time.
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from llmcore.errors import Error, MissingFileError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
_STRING, _ARRAY = 8, 9
# Types of values in the metadata, as numpy names them.
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_MAX_DIMENSIONS = 4
_PART_NAME = re.compile(r"(?P<stem>.*)-\d{5}-of-(?P<count>\d{5})\.gguf", re.DOTALL)
_MAX_PARTS = 1000
_MAX_NESTING = 4


@dataclass(frozen=True)
class BlockType:
    """How a tensor's elements lie in the file: `bytes` for every `elements` of a row."""

    name: str
    elements: int
    bytes: int


TYPES = {
    0: BlockType("F32", 1, 4),
    1: BlockType("F16", 1, 2),
    2: BlockType("Q4_0", 32, 18),
    3: BlockType("Q4_1", 32, 20),
    6: BlockType("Q5_0", 32, 22),
    7: BlockType("Q5_1", 32, 24),
    8: BlockType("Q8_0", 32, 34),
    10: BlockType("Q2_K", 256, 84),
    11: BlockType("Q3_K", 256, 110),
    12: BlockType("Q4_K", 256, 144),
    13: BlockType("Q5_K", 256, 176),
    14: BlockType("Q6_K", 256, 210),
    30: BlockType("BF16", 1, 2),
}


@dataclass(frozen=True)
class GGUFTensor:
    """A tensor as it lies in the file. shape is in our order, slowest dimension first; data is the mapped bytes, `at`
    where they begin in the map."""

    name: str
    shape: tuple[int, ...]
    type: BlockType
    data: np.ndarray
    mapped: mmap.mmap | None = None
    at: int = 0

    def done(self) -> None:
        """Says that the bytes are not needed for now: their pages are given back, and read again when they are."""
        first = -(-self.at // mmap.PAGESIZE) * mmap.PAGESIZE
        size = (self.at + len(self.data)) // mmap.PAGESIZE * mmap.PAGESIZE - first
        if self.mapped is not None and size > 0 and hasattr(mmap, "MADV_DONTNEED"):
            self.mapped.madvise(mmap.MADV_DONTNEED, first, size)


@dataclass(frozen=True)
class GGUFFile:
    """metadata: key -> number, bool, str, list of str, or array of numbers. The tensors' data is mapped, not read."""

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GGUFTensor]


def load_gguf(path: str | os.PathLike) -> GGUFFile:
    """Open a GGUF file; of a model that was split into several, any one opens all of them.

    Raises `OSError` if it cannot be opened or a part is missing, and `ValueError` with one line that names the file and
    the field if any length, type, shape or position in it is wrong, before anything of that size is allocated.
    """
    file = _load_one(Path(path))
    return _join_parts(file) if "split.count" in file.metadata and not _is(file, "split.count", (0, 1)) else file


def _join_parts(given: GGUFFile) -> GGUFFile:
    """Open the other parts of a model and join them: the first has the metadata, each has some of the tensors
    (llama.cpp's gguf-split)."""
    name = _PART_NAME.fullmatch(given.path.name)
    if name is None:
        raise Error(
            "gguf",
            given.path,
            expected="a name such as model-00001-of-00002.gguf: it is one of several parts",
            got=given.path.name,
        )
    count = int(name["count"])
    if count > _MAX_PARTS:
        raise Error("gguf", given.path, expected=f"at most {_MAX_PARTS} parts", got=count)
    tensors: dict[str, GGUFTensor] = {}
    metadata: dict[str, Any] = {}
    for number in range(count):
        path = given.path.with_name(f"{name['stem']}-{number + 1:05}-of-{count:05}.gguf")
        if not path.is_file():
            raise MissingFileError("gguf", expected=f"all {count} parts of the model", got=f"no {path}")
        part = given if path == given.path else _load_one(path)
        for field, right in (("split.no", number), ("split.count", count)):
            if not _is(part, field, (right,)):
                got = f"{part.metadata.get(field)!r:.60}"
                raise Error("gguf", f"{path}: {field}", expected=f"{right}, as the name says", got=got)
        if not tensors.keys().isdisjoint(part.tensors):
            twice = next(iter(tensors.keys() & part.tensors.keys()))
            raise Error("gguf", f"{path}: {twice:.100}", expected="a tensor that no other part has", got="one")
        tensors |= part.tensors
        metadata = metadata or part.metadata
    joined, total = GGUFFile(given.path, metadata, tensors), "split.tensors.count"
    if total in metadata and not _is(joined, total, (len(tensors),)):
        got = f"{metadata[total]!r:.60}"
        raise Error("gguf", f"{given.path}: {total}", expected=f"{len(tensors)}, as many as the parts have", got=got)
    return joined


def _is(file: GGUFFile, field: str, values: tuple[int, ...]) -> bool:
    """Say whether a field is an integer, and one of these."""
    found = file.metadata.get(field)
    return isinstance(found, int) and not isinstance(found, bool) and found in values


def _load_one(path: Path) -> GGUFFile:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise Error("gguf", path, expected="a GGUF file", got=f"{size} bytes")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    return _Reader(path, mapped).file()


class _Reader:
    """Walks the bytes; `at` is where the next value begins, `field` what is being read."""

    def __init__(self, path: Path, mapped: mmap.mmap):
        self.path, self.mapped, self.at, self.field = path, mapped, 0, "header"

    def fail(self, expected: str, got: object) -> NoReturn:
        field, shown = ("".join(c if c.isprintable() else "?" for c in str(text))[:100] for text in (self.field, got))
        raise Error("gguf", f"{self.path}: {field}", expected=expected, got=shown)

    def file(self) -> GGUFFile:
        if self.mapped[:4] != MAGIC:
            raise Error("gguf", self.path, expected="a file that begins with GGUF", got=repr(self.mapped[:4]))
        self.at = 4
        version = self.number("<u4")
        if version not in VERSIONS:
            self.fail("version 2 or 3", version)
        tensors, keys = self.count(24, "tensors"), self.count(13, "keys")
        metadata: dict[str, Any] = {}
        for i in range(keys):
            self.field = f"key {i}"
            key = self.string()
            if key in metadata:
                self.fail("a key of its own", key)
            self.field = key
            metadata[key] = self.value(self.number("<u4"))
        self.field = "general.alignment"
        alignment = metadata.get("general.alignment", 32)
        if isinstance(alignment, bool) or not isinstance(alignment, int) or not 1 <= alignment <= 1 << 20:
            self.fail("a number of bytes", alignment)
        found = [self.tensor_info(i) for i in range(tensors)]
        start = -(-self.at // alignment) * alignment
        result: dict[str, GGUFTensor] = {}
        for name, shape, kind, offset in found:
            self.field = name
            if name in result:
                self.fail("a name of its own", name)
            length = math.prod(shape) // kind.elements * kind.bytes
            if offset % alignment or start + offset + length > len(self.mapped):
                self.fail(f"{length} bytes, aligned to {alignment} and inside the file", f"offset {offset}")
            data = np.frombuffer(self.mapped, np.uint8, length, start + offset) if length else np.empty(0, np.uint8)
            result[name] = GGUFTensor(name, shape, kind, data, self.mapped, start + offset)
        return GGUFFile(self.path, metadata, result)

    def tensor_info(self, i: int) -> tuple[str, tuple[int, ...], BlockType, int]:
        self.field = f"tensor {i}"
        name = self.string()
        self.field = name
        dimensions = self.number("<u4")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            self.fail(f"1 to {_MAX_DIMENSIONS} dimensions", dimensions)
        fastest_first = [self.number("<u8") for _ in range(dimensions)]
        number = self.number("<u4")
        if number not in TYPES:
            self.fail(f"one of the types {', '.join(t.name for t in TYPES.values())}", f"type {number}")
        kind = TYPES[number]
        if fastest_first[0] % kind.elements:
            self.fail(f"rows of a multiple of {kind.elements} elements for {kind.name}", fastest_first[0])
        return name, tuple(reversed(fastest_first)), kind, self.number("<u8")

    def take(self, size: int) -> int:
        """Where `size` bytes begin that are known to be there."""
        begin = self.at
        if size > len(self.mapped) - begin:
            self.fail("more bytes", "the end of the file")
        self.at = begin + size
        return begin

    def number(self, dtype: str) -> Any:
        kind = np.dtype(dtype)
        begin = self.take(kind.itemsize)
        return np.frombuffer(self.mapped, kind, 1, begin)[0].item()

    def count(self, least: int, of: str) -> int:
        """A number of things that take at least so many bytes each."""
        n = self.number("<u8")
        if n * least > len(self.mapped) - self.at:
            self.fail(f"a number of {of} that fits the file", n)
        return n

    def string(self) -> str:
        size = self.number("<u8")
        begin = self.take(size)
        return self.text(self.mapped[begin : begin + size])

    def text(self, encoded: bytes) -> str:
        try:
            return encoded.decode()
        except UnicodeDecodeError:
            self.fail("UTF-8", repr(encoded[:40]))

    def value(self, kind: int, nesting: int = 0) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array(nesting)
        if kind not in _NUMBERS:
            self.fail("a type of value from 0 to 12", kind)
        return self.number(_NUMBERS[kind])

    def array(self, nesting: int) -> Any:
        kind = self.number("<u4")
        if kind == _STRING:
            return self.strings(self.count(8, "strings"))
        if kind == _ARRAY:
            if nesting == _MAX_NESTING:
                self.fail(f"arrays nested {_MAX_NESTING} deep at most", "more")
            return [self.value(_ARRAY, nesting + 1) for _ in range(self.count(12, "arrays"))]
        if kind not in _NUMBERS:
            self.fail("a type of value from 0 to 12", kind)
        dtype = np.dtype(_NUMBERS[kind])
        n = self.count(dtype.itemsize, "numbers")
        begin = self.take(n * dtype.itemsize)
        return np.frombuffer(self.mapped, dtype, n, begin).copy()

    def strings(self, n: int) -> list[str]:
        """n strings: the one loop that is long, vocabularies have hundreds of thousands."""
        at, mapped, end_of_file, length_at = self.at, self.mapped, len(self.mapped), struct.Struct("<Q").unpack_from
        found = []
        for _ in range(n):
            if at + 8 > end_of_file or (end := at + 8 + length_at(mapped, at)[0]) > end_of_file:
                self.fail("more bytes", "the end of the file")
            found.append(mapped[at + 8 : end])
            at = end
        self.at = at
        try:
            return [s.decode() for s in found]
        except UnicodeDecodeError as error:
            self.fail("UTF-8", repr(error.object[:40]))
