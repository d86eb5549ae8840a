"""SentencePiece `.model` files, written field by field."""

from __future__ import annotations

import struct

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def field(number: int, value: int | float | str | bytes) -> bytes:
    if isinstance(value, float):
        return varint(number * 8 + 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number * 8) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number * 8 + 2) + varint(len(value)) + value


def piece(text: str | bytes, score: float, kind: int = NORMAL) -> bytes:
    return field(1, field(1, text) + field(2, float(score)) + field(3, kind))


SPECIALS = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
BYTES = [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]


def model(pieces: list, trainer: bytes = field(3, 2), normalizer: bytes = field(1, "identity") + field(4, 0)) -> bytes:
    """pieces: (text, score, kind)."""
    return b"".join(piece(*p) for p in pieces) + field(2, trainer) + field(3, normalizer)


def llama_pieces(merges: list[str], characters: str = "\u2581abcdefghijklmnopqrstuvwxyz.\u00e9") -> list:
    """As Llama 2 has them: specials, bytes, merges from the best on, characters."""
    texts = [*merges, *characters]
    return [*SPECIALS, *BYTES, *((text, -float(rank), NORMAL) for rank, text in enumerate(texts))]
