"""Writes GGUF files byte by byte, right ones and wrong ones, from the format's description."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.formats.byte_level import byte_alphabet

NORMAL, CONTROL, UNUSED = 1, 3, 5
NUMBERS = {"u1": 0, "i1": 1, "u2": 2, "i2": 3, "u4": 4, "i4": 5, "f4": 6, "b1": 7, "u8": 10, "i8": 11, "f8": 12}


def string(text: str | bytes) -> bytes:
    encoded = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(encoded)) + encoded


def value(v: Any) -> bytes:
    """Type and value: str, numpy scalar or array, list of str, list of lists."""
    if isinstance(v, (str, bytes)):
        return struct.pack("<I", 8) + string(v)
    if isinstance(v, list):
        if v and isinstance(v[0], (str, bytes)):
            return struct.pack("<IIQ", 9, 8, len(v)) + b"".join(string(s) for s in v)
        return struct.pack("<IIQ", 9, 9, len(v)) + b"".join(value(inner)[4:] for inner in v)
    array = np.asarray(v)
    number = NUMBERS[array.dtype.str[1:]]
    if array.ndim:
        return struct.pack("<IIQ", 9, number, array.size) + array.tobytes()
    return struct.pack("<I", number) + array.tobytes()


def gguf(
    metadata: dict[str, Any] | list[tuple[str, Any]],
    tensors: list[tuple[str, tuple[int, ...], int, bytes]] = (),
    alignment: int = 32,
    version: int = 3,
) -> bytes:
    """tensors: (name, shape slowest first, number of the type, data)."""
    pairs = list(metadata.items()) if isinstance(metadata, dict) else metadata
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(pairs))
    head += b"".join(string(key) + value(v) for key, v in pairs)
    body = b""
    for name, shape, kind, data in tensors:
        body += b"\0" * (-len(body) % alignment)
        head += string(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *reversed(shape))
        head += struct.pack("<IQ", kind, len(body))
        body += data
    return head + b"\0" * (-len(head) % alignment) + body


def vocabulary_metadata(tokenizer: Tokenizer, pre: str) -> dict:
    """What a converter writes for this tokenizer."""
    alphabet = byte_alphabet()
    v = tokenizer.vocabulary
    spelled = ["".join(alphabet[b] for b in token) for token in v.tokens]
    kinds = [NORMAL if token else UNUSED for token in v.tokens]
    for text, id in v.special_tokens.items():
        spelled[id], kinds[id] = text, CONTROL
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": spelled,
        "tokenizer.ggml.token_type": np.array(kinds, np.int32),
        "tokenizer.ggml.merges": [f"{spelled[a]} {spelled[b]}" for a, b in v.merges],
    }
