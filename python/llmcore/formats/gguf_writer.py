"""Writing GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), version 3, little-endian. A tensor is
made when it is written, so that a model never exists twice in memory."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from llmcore.formats.gguf import MAGIC
from llmcore.formats.gguf import TYPES as _READ
from llmcore.formats.quantization import ENCODERS, encode
from llmcore.formats.replaced import replaced

_NUMBERS = {t.name: number for number, t in _READ.items()}
_BLOCKS = {t.name: t for t in _READ.values()}
TYPES = tuple(ENCODERS)  # of tensors that can be made here; others only pass as they are
_VERSION, _ALIGNMENT = 3, 32
_STRING, _ARRAY = 8, 9
_SCALARS = {"u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "u1": 0, "i1": 1, "u2": 2, "i2": 3, "f8": 12}


@dataclass(frozen=True)
class Tensor:
    """A tensor to be written. shape: slowest dimension first; type: GGUF's name; make: gives the values, float32 of the
    shape, or, encoded, the file's bytes."""

    name: str
    shape: tuple[int, ...]
    type: str
    make: Callable[[], np.ndarray]
    encoded: bool = False

    @property
    def bytes(self) -> int:
        kind = _BLOCKS[self.type]
        return math.prod(self.shape) // kind.elements * kind.bytes


def fitting(type: str, shape: Sequence[int]) -> str:
    """The type, or F16 where its blocks do not fit the rows, as llama.cpp has it."""
    return type if shape[-1] % _BLOCKS[type].elements == 0 else "F16"


def save_gguf(path: str | os.PathLike, metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    """Write a file beside `path`, then rename it, so that a failure leaves what was there before.

    metadata: numbers, bools, strings, lists of strings, or arrays of numbers; Python's integers become 32 bits where
    they fit, its floats float32. OSError names the path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as file:
        _write(file, metadata, tensors)
        file.flush()
        os.fsync(file.fileno())


def _write(file: BinaryIO, metadata: Mapping[str, Any], tensors: Sequence[Tensor]) -> None:
    head = [MAGIC, struct.pack("<IQQ", _VERSION, len(tensors), len(metadata))]
    head += [_string(key) + _value(value) for key, value in metadata.items()]
    offset = 0
    for t in tensors:
        head.append(_string(t.name) + struct.pack("<I", len(t.shape)))
        head.append(struct.pack(f"<{len(t.shape)}Q", *reversed(t.shape)))
        head.append(struct.pack("<IQ", _NUMBERS[t.type], offset))
        offset += _padded(t.bytes)
    header = b"".join(head)
    file.write(header.ljust(_padded(len(header)), b"\0"))
    for t in tensors:
        made = t.make()
        data = made if t.encoded else encode(made, t.type)
        assert data.nbytes == t.bytes, (t.name, data.nbytes, t.bytes)
        file.write(np.ascontiguousarray(data).reshape(-1).view(np.uint8).data)
        file.write(b"\0" * (_padded(t.bytes) - t.bytes))


def _padded(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def _string(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def _value(value: Any) -> bytes:
    """Type and value."""
    if isinstance(value, str):
        return struct.pack("<I", _STRING) + _string(value)
    if isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value):
        return struct.pack("<IIQ", _ARRAY, _STRING, len(value)) + b"".join(map(_string, value))
    if isinstance(value, list) and value and isinstance(value[0], list):
        return struct.pack("<IIQ", _ARRAY, _ARRAY, len(value)) + b"".join(_value(inner)[4:] for inner in value)
    if not hasattr(value, "dtype"):
        value = np.asarray(value)
        if value.dtype.kind == "f":
            value = value.astype("<f4")
        elif value.dtype.kind == "i":
            least, most = (int(value.min(initial=0)), int(value.max(initial=0)))
            small = "<u4" if value.ndim == 0 and least >= 0 else "<i4"
            limits = np.iinfo(small)
            value = value.astype(small if limits.min <= least and most <= limits.max else "<i8")
    number = _SCALARS[value.dtype.str[1:]]
    if value.ndim:
        return struct.pack("<IIQ", _ARRAY, number, value.size) + value.tobytes()
    return struct.pack("<I", number) + value.tobytes()
