"""Reading and writing safetensors files: named arrays after a JSON header (https://huggingface.co/docs/safetensors).

Own code rather than the `safetensors` package, which is the oracle in the tests: here writing streams into
any open file (a checkpoint hashes and fsyncs what it writes, and a full disk is an `OSError`), holds no
second copy of the arrays and takes arrays that are not contiguous; reading gives every type of ml_dtypes and
names the file and the field in every error.
"""

from __future__ import annotations

import functools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, TypeGuard

import numpy as np

from llmcore.errors import ArgumentTypeError, Error
from llmcore.formats.replaced import replaced

_METADATA = "__metadata__"
# The format's own limit. A header is also never larger than its file, so a lying length allocates nothing.
_MAX_HEADER_BYTES = 100_000_000
_MAX_DIMENSIONS = 32
_CHUNK_BYTES = 16 << 20


@functools.cache
def dtypes() -> dict[str, np.dtype]:
    """Names in a file -> types. Late: what opens no file needs no ml_dtypes."""
    import ml_dtypes

    return {
        "F64": np.dtype("<f8"),
        "F32": np.dtype("<f4"),
        "F16": np.dtype("<f2"),
        "BF16": np.dtype(ml_dtypes.bfloat16),
        "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
        "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
        "I64": np.dtype("<i8"),
        "I32": np.dtype("<i4"),
        "I16": np.dtype("<i2"),
        "I8": np.dtype("i1"),
        "U64": np.dtype("<u8"),
        "U32": np.dtype("<u4"),
        "U16": np.dtype("<u2"),
        "U8": np.dtype("u1"),
        "BOOL": np.dtype("?"),
    }


def save_file(
    tensors: Mapping[str, np.ndarray | Stored], path: str | os.PathLike, metadata: Mapping[str, str] | None = None
) -> None:
    """Write `tensors` beside `path`, then rename, so that a failure leaves what was there before.

    Raises `TypeError` for a name, dtype or metadata that the format cannot hold, `OSError` as the system
    does.
    """
    with replaced(Path(path)) as file:
        write(file, tensors, metadata)


class Writer(Protocol):
    """What `write` needs of a file."""

    def write(self, data: bytes | memoryview, /) -> int: ...


class Stored(Protocol):
    """An array that is made when it is written (`numpy.asarray`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype: ...

    def __array__(self, dtype=None, copy=None) -> np.ndarray: ...


def write(file: Writer, tensors: Mapping[str, np.ndarray | Stored], metadata: Mapping[str, str] | None = None) -> None:
    """Write `tensors` to an open binary file, wide types first, so that every array is aligned."""
    header: dict[str, object] = {}
    if metadata:
        if not all(isinstance(text, str) for item in metadata.items() for text in item):
            raise ArgumentTypeError("safetensors", expected="metadata of strings only")
        header[_METADATA] = dict(metadata)
    arrays = {name: t if hasattr(t, "dtype") else np.asarray(t) for name, t in tensors.items()}
    names = {dtype: name for name, dtype in dtypes().items()}
    for name, array in arrays.items():
        if not isinstance(name, str) or name == _METADATA:
            raise ArgumentTypeError("safetensors", expected="a tensor name as a string", got=repr(name))
        if array.dtype.newbyteorder("<") not in names:
            raise ArgumentTypeError("safetensors", f"{name}: dtype {array.dtype} cannot be stored")
    order = sorted(arrays, key=lambda name: (-arrays[name].dtype.itemsize, name))
    position = 0
    for name in order:
        array = arrays[name]
        end = position + math.prod(array.shape) * array.dtype.itemsize
        dtype = names[array.dtype.newbyteorder("<")]
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [position, end]}
        position = end
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    encoded += b" " * (-len(encoded) % 8)
    file.write(len(encoded).to_bytes(8, "little"))
    file.write(encoded)
    for name in order:
        array = np.asarray(arrays[name])
        assert array.shape == tuple(arrays[name].shape)
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        data = little.reshape(-1).view(np.uint8)
        for start in range(0, data.size, _CHUNK_BYTES):
            file.write(data[start : start + _CHUNK_BYTES].data)


def load_file(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """`(tensors, metadata)`. Nothing is read yet: the arrays are private, writable views of the mapped file.

    Raises `OSError` if the file cannot be opened, and `ValueError` with one line that names the file and the
    field if any length, type, shape or position in it is wrong, before anything of that size is allocated.
    """
    path = Path(path)
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size < 8:
            raise _bad(path, "file", expected="at least 8 bytes", got=size)
        length = int.from_bytes(file.read(8), "little")
        if length > min(size - 8, _MAX_HEADER_BYTES):
            raise _bad(path, "header length", expected=f"at most {min(size - 8, _MAX_HEADER_BYTES)}", got=length)
        header = _parse_header(path, file.read(length))
        data = np.memmap(file, np.uint8, mode="c")[8 + length :].view(np.ndarray)
    metadata = _check_metadata(path, header.pop(_METADATA, {}))
    tensors, spans = {}, []
    for name, entry in header.items():
        tensors[name], span = _read_entry(path, name, entry, data)
        spans.append((*span, name))
    position = 0
    for begin, end, name in sorted(spans):
        if begin != position:
            raise _bad(path, f"{name}: data_offsets", expected=f"to begin at {position}", got=begin)
        position = end
    if position != data.size:
        raise _bad(path, "data", expected=f"{position} bytes for the tensors in the header", got=data.size)
    return tensors, metadata


def _bad(path: Path, field: str, problem: str = "", **fields: object) -> Error:
    field = "".join(c if c.isprintable() else "?" for c in field)
    field = field if len(field) <= 120 else field[:60] + "..." + field[-57:]
    return Error("safetensors", f"{path}: {field}{f': {problem}' if problem else ''}", **fields)


def _parse_header(path: Path, encoded: bytes) -> dict[str, object]:
    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands twice")
        return found

    try:
        header = json.loads(encoded.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else f"not valid JSON ({error})"
        raise _bad(path, "header", problem) from None
    if not isinstance(header, dict):
        raise _bad(path, "header", expected="a JSON object", got=type(header).__name__)
    return header


def _check_metadata(path: Path, metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(text, str) for text in metadata.values()):
        raise _bad(path, _METADATA, expected="an object with string values")
    return metadata


def _read_entry(path: Path, name: str, entry: object, data: np.ndarray) -> tuple[np.ndarray, tuple[int, int]]:
    if not isinstance(entry, dict):
        raise _bad(path, name, expected="an object", got=type(entry).__name__)
    dtype = dtypes().get(entry["dtype"]) if isinstance(entry.get("dtype"), str) else None
    if dtype is None:
        raise _bad(path, f"{name}: dtype", expected=f"one of {' '.join(dtypes())}", got=str(entry.get("dtype"))[:40])
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not _are_counts(shape) or len(shape) > _MAX_DIMENSIONS:
        raise _bad(path, f"{name}: shape", expected=f"up to {_MAX_DIMENSIONS} sizes", got=str(shape)[:80])
    if not _are_counts(offsets) or len(offsets) != 2 or not offsets[0] <= offsets[1] <= data.size:
        expected = f"two positions within {data.size} bytes of data"
        raise _bad(path, f"{name}: data_offsets", expected=expected, got=str(offsets)[:80])
    begin, end = offsets
    if math.prod(shape) * dtype.itemsize != end - begin:
        expected = f"{math.prod(shape) * dtype.itemsize} bytes for shape {str(shape)[:80]}"
        raise _bad(path, f"{name}: data_offsets", expected=expected, got=end - begin)
    array = data[begin:end]
    if array.ctypes.data % dtype.alignment:
        array = array.copy()  # other writers pad less; the kernels want aligned arrays
    try:
        return array.view(dtype).reshape(shape), (begin, end)
    except ValueError:  # no elements, but other sizes beyond what an array can have
        raise _bad(path, f"{name}: shape", f"too large: {str(shape)[:80]}") from None


def _are_counts(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)
