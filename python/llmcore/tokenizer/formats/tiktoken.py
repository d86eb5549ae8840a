"""tiktoken's files: a line for each token, in order of rank, which is its id."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmcore.tokenizer.formats.files import MAX_ID_GAP, write_atomically
from llmcore.tokenizer.vocabulary import SentencePieceVocabulary, Vocabulary

if TYPE_CHECKING:
    from llmcore import _core


def read_tiktoken(path: Path, pattern: str, special_tokens: dict[str, int] | Iterable[str]) -> Vocabulary:
    """Reads lines of `base64-of-the-bytes id`."""

    def fail(number: int, line: bytes, expected: str) -> ValueError:
        return ValueError(f"[load] {path}: line {number}: expected {expected}, got {line[:80]!r}")

    by_id: dict[int, bytes] = {}
    lines = path.read_bytes().splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            encoded, rank = line.split()
            token, id = base64.b64decode(encoded, validate=True), int(rank)
        except (ValueError, binascii.Error):
            raise fail(number, line, "a token in base64 and its id") from None
        if not token or id in by_id or not 0 <= id < len(lines) + MAX_ID_GAP:
            raise fail(number, line, "a token that is not empty and an id of its own near the others")
        by_id[id] = token
    tokens = [by_id.get(id, b"") for id in range(max(by_id, default=-1) + 1)]
    if not isinstance(special_tokens, dict):
        special_tokens = {special: len(tokens) + number for number, special in enumerate(special_tokens)}
    return Vocabulary(tokens, None, pattern, whole_piece_first=True, special_tokens=special_tokens)


def write_tiktoken(path: Path, vocabulary: Vocabulary | SentencePieceVocabulary, bpe: _core.BPE) -> None:
    """Writes the ordinary tokens. ValueError unless tiktoken's rule gives the same ids as the vocabulary's own."""
    if isinstance(vocabulary, SentencePieceVocabulary):
        raise ValueError(f"[save] {path}: expected a byte-level vocabulary for a .tiktoken file, got SentencePiece's")
    if not bpe.merges_by_rank():
        raise ValueError(
            f"[save] {path}: expected a token for each byte and merges that make one token each, in order of their "
            "ids, for a .tiktoken file, which has no merges; save as .json"
        )
    lines = (b"%s %d\n" % (base64.b64encode(token), id) for id, token in enumerate(vocabulary.tokens) if token)
    write_atomically(path, b"".join(lines))
