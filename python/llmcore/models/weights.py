"""The layout of an architecture's parameters in files: which tensors make up each, in the Hugging Face format and in GGUF.
Nothing is read or converted before a parameter is used."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmcore.errors import Error
from llmcore.formats.gguf import TYPES, GGUFFile, GGUFTensor
from llmcore.formats.quantization import dequantize
from llmcore.models.rope_scaling import GGUF_FACTORS

BLOCK_TYPES = {t.name: t for t in TYPES.values()}


@dataclass(frozen=True)
class Part:
    """Rows of one of our parameters that files store as a separate tensor.

    hf, gguf: its names. shape: the shape of the rows in our layout. The rest says how a file's layout differs from ours.
    hf_transposed: (inputs, outputs) there. hf_rows: our row i is row hf_rows[i] there. hf_offset: added to the values
    there. gguf_heads: the number of heads whose rows are ordered for rotation of neighbouring pairs instead of halves.
    gguf_index: our matrix is this one of a stack.
    """

    hf: str
    gguf: str
    shape: tuple[int, ...]
    hf_transposed: bool = False
    hf_rows: np.ndarray | None = None
    hf_offset: float = 0.0
    gguf_heads: int | None = None
    gguf_index: int | None = None

    @property
    def hf_shape(self) -> tuple[int, ...]:
        return self.shape[::-1] if self.hf_transposed else self.shape

    def from_hf(self, w: np.ndarray) -> np.ndarray:
        """Return our rows from the tensor of a Hugging Face file: float32, or bfloat16 as it is."""
        if self.hf_transposed:
            w = w.T
        if self.hf_rows is not None:
            w = w[self.hf_rows]
        if self.hf_offset:
            return w.astype(np.float32) + np.float32(self.hf_offset)
        return w if w.dtype == np.float32 or w.dtype.name == "bfloat16" else w.astype(np.float32)

    def to_hf(self, w: np.ndarray) -> np.ndarray:
        """Return the tensor of a Hugging Face file from our rows, float32."""
        if self.hf_offset:
            w = w - np.float32(self.hf_offset)
        if self.hf_rows is not None:
            turned = np.empty_like(w)
            turned[self.hf_rows] = w
            w = turned
        return np.ascontiguousarray(w.T) if self.hf_transposed else w

    def from_gguf_rows(self, w: np.ndarray) -> np.ndarray:
        """Return rows of values or of blocks, (rows, ...), in our order."""
        if self.gguf_heads is None:
            return w
        pairs = w.reshape(self.gguf_heads, w.shape[0] // self.gguf_heads // 2, 2, *w.shape[1:])
        return pairs.swapaxes(1, 2).reshape(w.shape)

    def to_gguf_rows(self, w: np.ndarray) -> np.ndarray:
        """Return rows of values or of blocks in GGUF's order."""
        if self.gguf_heads is None:
            return w
        halves = w.reshape(self.gguf_heads, 2, w.shape[0] // self.gguf_heads // 2, *w.shape[1:])
        return halves.swapaxes(1, 2).reshape(w.shape)


# (the name of our parameter, the parts that make it up, row by row)
Layout = Iterable[tuple[str, list[Part]]]


@dataclass(frozen=True)
class Piece:
    """A part as it is stored in a file: its values in our order of rows, and, from GGUF, its type and its blocks row by row."""

    rows: int
    values: Callable[[], np.ndarray]
    type: str | None = None
    blocks: Callable[[], np.ndarray] | None = None
    done: Callable[[], object] = lambda: None  # called when its bytes are not needed for now

    @property
    def is_quantized(self) -> bool:
        return self.type not in (None, "F32", "F16", "BF16")


class Stored:
    """A parameter as it is stored in a file: pieces row by row, read on demand."""

    dtype = np.dtype(np.float32)

    def __init__(self, pieces: Sequence[Piece], shape: tuple[int, ...]):
        self.pieces, self.shape = pieces, shape

    def values(self) -> np.ndarray:
        """Return float32 or bfloat16 values of the shape."""
        arrays = [piece.values() for piece in self.pieces]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)  # mixed types become float32

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.values().astype(dtype or np.float32, copy=bool(copy))


class Encoded(Stored):
    """A matrix that was quantized in memory: blocks (rows, bytes per row) of a type."""

    def __init__(self, blocks: np.ndarray, kind: str, shape: tuple[int, ...]):
        tensor = GGUFTensor("", shape, BLOCK_TYPES[kind], blocks.reshape(-1))
        super().__init__([Piece(shape[0], lambda: dequantize(tensor), kind, lambda: blocks)], shape)


def stored_type(source: object) -> str:
    """Return the type in which a parameter with this source is stored, as files name it."""
    if not isinstance(source, Stored):
        return "F32"
    return "+".join(sorted({piece.type or "F32" for piece in source.pieces}))


def stored_in_hf(layout: Layout, tensors: Mapping[str, np.ndarray]) -> dict[str, Stored]:
    """Return our parameters by name, from a Hugging Face file. ValueError names a tensor that is missing, or of another
    shape or type, before anything of that size is allocated."""
    found = {}
    for name, parts in layout:
        for part in parts:
            _check(part.hf, part.hf_shape, tensors)
        pieces = [Piece(part.shape[0], partial(part.from_hf, tensors[part.hf])) for part in parts]
        found[name] = Stored(pieces, _stacked_shape(parts))
    return found


def stored_in_gguf(layout: Layout, file: GGUFFile) -> dict[str, Stored]:
    """Return the same from a GGUF file. Unknown tensors are refused, because they would change what the model computes."""
    found, used = {}, {"rope_freqs.weight", *GGUF_FACTORS.values()}
    for name, parts in layout:
        tensors = [_gguf_slice(part, file) for part in parts]
        used |= {part.gguf for part in parts}
        for part, tensor in zip(parts, tensors, strict=True):
            _check(part.gguf, part.shape, {part.gguf: tensor})
        found[name] = Stored(
            [_gguf_piece(part, tensor) for part, tensor in zip(parts, tensors, strict=True)], _stacked_shape(parts)
        )
    if unknown := sorted(file.tensors.keys() - used):
        raise Error("gguf", expected="the tensors of this architecture only", got=unknown[0])
    return found


def rows_of_parts(parts: list[Part]) -> list[tuple[Part, int, int]]:
    """Return (part, first row, end row) of each part in our parameter."""
    spans, start = [], 0
    for part in parts:
        spans.append((part, start, start + part.shape[0]))
        start += part.shape[0]
    return spans


def _stacked_shape(parts: list[Part]) -> tuple[int, ...]:
    return (sum(part.shape[0] for part in parts), *parts[0].shape[1:])


def _check(name: str, shape: tuple[int, ...], tensors: Mapping[str, Any]) -> None:
    if name not in tensors:
        raise Error("load", expected=f"a tensor {name} {shape}", got="none")
    tensor = tensors[name]
    if tuple(tensor.shape) != shape:
        raise Error("load", expected=f"{name} of shape {shape}", got=tuple(tensor.shape))
    dtype = getattr(tensor, "dtype", None)  # arrays have one; GGUF tensors have types of their own
    if dtype is not None and (dtype.kind not in "fV" or dtype.itemsize > 4):
        raise Error("load", expected=f"{name} float32, float16 or bfloat16", got=dtype)


def _gguf_slice(part: Part, file: GGUFFile) -> GGUFTensor:
    if part.gguf not in file.tensors:
        raise Error("load", expected=f"a tensor {part.gguf} {part.shape}", got="none")
    tensor = file.tensors[part.gguf]
    if part.gguf_index is None:
        return tensor
    if len(tensor.shape) != 3 or part.gguf_index >= tensor.shape[0]:
        raise Error("load", expected=f"{part.gguf} of shape (at least {part.gguf_index + 1}, ...)", got=tensor.shape)
    size = len(tensor.data) // tensor.shape[0]
    begin = part.gguf_index * size
    return GGUFTensor(tensor.name, tensor.shape[1:], tensor.type, tensor.data[begin : begin + size])


def _gguf_piece(part: Part, tensor: GGUFTensor) -> Piece:
    blocks = partial(_blocks, part, tensor) if len(part.shape) == 2 else None
    return Piece(part.shape[0], partial(_values, part, tensor), tensor.type.name, blocks, tensor.done)


def _values(part: Part, tensor: GGUFTensor) -> np.ndarray:
    if tensor.type.name == "F32":
        values = tensor.data.view("<f4").reshape(tensor.shape)
    elif tensor.type.name == "BF16":
        import ml_dtypes

        values = tensor.data.view(ml_dtypes.bfloat16).reshape(tensor.shape)
    else:
        values = dequantize(tensor)
    return part.from_gguf_rows(values)


def _blocks(part: Part, tensor: GGUFTensor) -> np.ndarray:
    rows, columns = tensor.shape
    data = tensor.data.reshape(rows, columns // tensor.type.elements * tensor.type.bytes)
    return part.from_gguf_rows(data)
