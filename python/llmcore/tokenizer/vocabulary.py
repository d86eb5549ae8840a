"""What makes a tokenizer, apart from the code that runs it."""

from __future__ import annotations

from typing import NamedTuple

Pattern = str | tuple[str, ...]


class Vocabulary(NamedTuple):
    """The parts of a byte-level BPE tokenizer.

    tokens: the bytes of every ordinary token by id; b"" for an id that is none or is special.
    merges: pairs of ids in order of rank, or None for tiktoken's rule: two neighbours merge if together they
        spell a token, the lowest id first.
    pattern: the split pattern: its name, a regular expression, or those of several stages, each of which cuts
        the pieces of the one before.
    whole_piece_first: whether a piece that is a token is that token, whatever the merges make of it.
    special_tokens: the ids of the special tokens.
    normalizer: "NFC" if text is brought to that normal form first, or None.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]] | None
    pattern: Pattern
    whole_piece_first: bool = False
    special_tokens: dict[str, int] = {}  # noqa: RUF012 - a default, never changed
    normalizer: str | None = None
