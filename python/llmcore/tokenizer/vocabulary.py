"""What makes a tokenizer, apart from the code that runs it."""

from __future__ import annotations

import hashlib
from typing import NamedTuple


class Vocabulary(NamedTuple):
    """The parts of a byte-level BPE tokenizer.

    tokens: the bytes of every ordinary token by id; b"" for an id that is none or is special.
    merges: pairs of ids in order of rank, or None for tiktoken's rule: two neighbours merge if together they
        spell a token, the lowest id first.
    pattern: the name of the split pattern.
    whole_piece_first: whether a piece that is a token is that token, whatever the merges make of it.
    special_tokens: the ids of the special tokens.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]] | None
    pattern: str
    whole_piece_first: bool = False
    special_tokens: dict[str, int] = {}  # noqa: RUF012 - a default, never changed


def vocabulary_digest(vocabulary: Vocabulary, merges: list[tuple[int, int]]) -> str:
    """`Tokenizer.digest`. `merges` are those that the rule comes to where the vocabulary has no list of them.

    Parts at their defaults are left out, so that a part that is added some day changes no digest of today's.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little") + data)

    for id, token in enumerate(vocabulary.tokens):
        if token:
            add(b"%d " % id + token)
    add(",".join(f"{left} {right}" for left, right in merges).encode())
    for name, value in sorted(vocabulary._asdict().items()):
        if name not in ("tokens", "merges") and value != vocabulary._field_defaults.get(name):
            value = sorted(value.items()) if isinstance(value, dict) else value
            add(f"{name}={value!r}".encode())
    return digest.hexdigest()
