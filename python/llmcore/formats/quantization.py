"""The block types of GGUF files to float32, and some of them back: every block of a row holds small integers and the scales that undo them
(https://github.com/ggml-org/ggml, ggml-quants.c).

d, m: float16 scale and minimum of a block; "super-blocks" of 256 (the K types) have small scales of their own for every
16 or 32 weights, and d scales those.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from llmcore.formats.gguf import GGUFTensor

_CHUNK = 1 << 20  # elements at a time, so that what lies between stays in cache


def dequantize(tensor: GGUFTensor) -> np.ndarray:
    """float32 of the tensor's shape."""
    kind = tensor.type
    out = np.empty(math.prod(tensor.shape), np.float32)
    step = _CHUNK // kind.elements
    blocks = tensor.data.reshape(-1, kind.bytes)
    with np.errstate(invalid="ignore", over="ignore"):  # a file may hold any scale
        for start in range(0, len(blocks), step):
            part = blocks[start : start + step]
            to = out[start * kind.elements :][: len(part) * kind.elements]
            to.reshape(len(part), kind.elements)[...] = _BLOCKS[kind.name](part)
    return out.reshape(tensor.shape)


def _half(b: np.ndarray, at: int) -> np.ndarray:
    """The float16 at a byte of every block, as a column."""
    return np.ascontiguousarray(b[:, at : at + 2]).view("<f2").astype(np.float32)


def _f32(b):
    return np.ascontiguousarray(b).view("<f4")


def _f16(b):
    return np.ascontiguousarray(b).view("<f2")


def _bf16(b):
    return (np.ascontiguousarray(b).view("<u2").astype(np.uint32) << 16).view(np.float32)


def _nibbles(b: np.ndarray) -> np.ndarray:
    """All low halves of the bytes, then all high ones."""
    return np.concatenate([b & 15, b >> 4], axis=1)


def _fifth_bits(b: np.ndarray, at: int) -> np.ndarray:
    """32 bits of every block as 16s and 0s."""
    return np.unpackbits(b[:, at : at + 4], axis=1, bitorder="little") << 4


def _q8_0(b):
    return _half(b, 0) * b[:, 2:].view(np.int8)


def _q4_0(b):
    return _half(b, 0) * (_nibbles(b[:, 2:]).astype(np.int8) - np.int8(8))


def _q4_1(b):
    return _half(b, 0) * _nibbles(b[:, 4:]) + _half(b, 2)


def _q5_0(b):
    return _half(b, 0) * ((_nibbles(b[:, 6:]) | _fifth_bits(b, 2)).astype(np.int8) - np.int8(16))


def _q5_1(b):
    return _half(b, 0) * (_nibbles(b[:, 8:]) | _fifth_bits(b, 4)) + _half(b, 2)


def _crumbs(b: np.ndarray) -> np.ndarray:
    """(n, 64) bytes -> (n, 256) two-bit numbers: of each 32 bytes the lowest two bits of all, then the next two, ..."""
    shifts = np.array([0, 2, 4, 6], np.uint8)[:, None]
    return ((b.reshape(-1, 2, 1, 32) >> shifts) & 3).reshape(-1, 256)


def _q2_k(b):
    scales, q = b[:, :16], _crumbs(b[:, 16:80]).reshape(-1, 16, 16)
    d, least = _half(b, 80) * (scales & 15), _half(b, 82) * (scales >> 4)
    return (d[:, :, None] * q - least[:, :, None]).reshape(-1, 256)


def _q3_k(b):
    high = np.unpackbits(b[:, :32].reshape(-1, 1, 32), axis=1, bitorder="little").reshape(-1, 256)  # bit by bit
    q = _crumbs(b[:, 32:96]).astype(np.int8) - ((1 - high.astype(np.int8)) << 2)
    low, top = b[:, 96:104], b[:, 104:108]
    small = np.concatenate([low & 15, low >> 4], axis=1)
    two = np.concatenate([(top >> shift) & 3 for shift in (0, 2, 4, 6)], axis=1)
    scales = (small | (two << 4)).astype(np.int8) - np.int8(32)
    return ((_half(b, 108) * scales)[:, :, None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


def _six_bit_scales(s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """12 bytes of every block -> 8 scales and 8 minima."""
    first, second, last = s[:, :4], s[:, 4:8], s[:, 8:]
    scales = np.concatenate([first & 63, (last & 15) | ((first >> 6) << 4)], axis=1)
    return scales, np.concatenate([second & 63, (last >> 4) | ((second >> 6) << 4)], axis=1)


def _q4_k(b, high: np.ndarray | None = None, at: int = 16):
    scales, least = _six_bit_scales(b[:, 4:16])
    chunks = b[:, at:].reshape(-1, 4, 1, 32)  # 64 weights each: 32 low halves, then 32 high ones
    q = np.concatenate([chunks & 15, chunks >> 4], axis=2).reshape(-1, 8, 32)
    if high is not None:
        q = q | high
    return ((_half(b, 0) * scales)[:, :, None] * q - (_half(b, 2) * least)[:, :, None]).reshape(-1, 256)


def _q5_k(b):
    bits = np.unpackbits(b[:, 16:48].reshape(-1, 1, 32), axis=1, bitorder="little")  # (n, 8, 32): bit by bit
    return _q4_k(b, bits << 4, 48)


def _q6_k(b):
    low = b[:, :128].reshape(-1, 2, 64)
    low = np.concatenate([low & 15, low >> 4], axis=2).reshape(-1, 256)
    q = (low | (_crumbs(b[:, 128:192]) << 4)).astype(np.int8) - np.int8(32)
    scales = _half(b, 208) * b[:, 192:208].view(np.int8)
    return (scales[:, :, None] * q.reshape(-1, 16, 16)).reshape(-1, 256)


_BLOCKS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": _f32,
    "F16": _f16,
    "BF16": _bf16,
    "Q8_0": _q8_0,
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
}


# ---- the other way ----------------------------------------------------------------------------------


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """float32 (..., K), K a multiple of the block, to the bytes of a type: uint8 (..., bytes of a row)."""
    size = {"Q8_0": 32, "Q4_0": 32, "Q4_1": 32}.get(kind, 1)
    values = np.ascontiguousarray(values, np.float32)
    flat = values.reshape(-1, size)
    parts = [ENCODERS[kind](flat[start : start + _CHUNK // size]) for start in range(0, len(flat), _CHUNK // size)]
    return np.concatenate(parts).reshape(*values.shape[:-1], -1) if parts else np.empty((0,), np.uint8)


def _bytes_of(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x).view(np.uint8).reshape(len(x), -1)


def _inverse(d: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.where(d == 0, np.float32(0), np.float32(1) / d)


def _to_f16(x):
    with np.errstate(over="ignore"):
        return _bytes_of(x.astype("<f2"))


def _to_bf16(x):
    """Rounded to nearest even; nan stays nan."""
    import ml_dtypes

    return _bytes_of(x.astype(ml_dtypes.bfloat16))


def _to_q8_0(x):
    d = np.abs(x).max(axis=1, keepdims=True) / np.float32(127)
    scaled = x * _inverse(d)
    size = np.abs(scaled)  # rounded half away from zero, as C does it
    whole = np.floor(size)
    q = np.sign(scaled) * (whole + np.floor(2 * (size - whole)))
    return np.concatenate([_to_f16(d), _bytes_of(q.astype(np.int8))], axis=1)


def _packed_nibbles(q: np.ndarray) -> np.ndarray:
    """The first half of the weights in the low halves of bytes, the second in the high ones."""
    q = q.astype(np.uint8).clip(0, 15)
    return q[:, :16] | (q[:, 16:] << 4)


def _to_q4_0(x):
    largest = np.take_along_axis(x, np.abs(x).argmax(axis=1, keepdims=True), axis=1)
    d = largest / np.float32(-8)
    q = np.trunc(x.astype(np.float64) * _inverse(d).astype(np.float64) + 8.5)
    return np.concatenate([_to_f16(d), _packed_nibbles(q)], axis=1)


def _to_q4_1(x):
    least = x.min(axis=1, keepdims=True)
    d = (x.max(axis=1, keepdims=True) - least) / np.float32(15)
    q = np.trunc((x.astype(np.float64) - least.astype(np.float64)) * _inverse(d).astype(np.float64) + 0.5)
    return np.concatenate([_to_f16(d), _to_f16(least), _packed_nibbles(q)], axis=1)


ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "F32": _bytes_of,
    "F16": _to_f16,
    "BF16": _to_bf16,
    "Q8_0": _to_q8_0,
    "Q4_0": _to_q4_0,
    "Q4_1": _to_q4_1,
}
