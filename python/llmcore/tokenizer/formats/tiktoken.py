"""tiktoken's files: a line for each token, in order of rank, which is its id."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmcore import _core
from llmcore._files import write_atomically
from llmcore.errors import Error
from llmcore.tokenizer.formats.files import MAX_ID_GAP
from llmcore.tokenizer.vocabulary import AnyVocabulary, Pattern, Vocabulary

if TYPE_CHECKING:
    from llmcore.tokenizer.encoders import Encoder


def read_tiktoken(path: Path, pattern: Pattern, special_tokens: dict[str, int] | Iterable[str]) -> Vocabulary:
    """Reads lines of `base64-of-the-bytes id`."""
    data = path.read_bytes()
    parsed = _core.read_ranks(data)
    if parsed is None:
        raise _wrong_line(path, data)
    found, ids = parsed
    tokens = found
    if ids != list(range(len(ids))):
        if len(set(ids)) < len(ids) or max(ids) >= len(ids) + MAX_ID_GAP:
            raise _wrong_line(path, data)
        tokens = [b""] * (max(ids) + 1)
        for id, token in zip(ids, found, strict=True):
            tokens[id] = token
    if not isinstance(special_tokens, dict):
        special_tokens = {special: len(tokens) + number for number, special in enumerate(special_tokens)}
    return Vocabulary(tokens, None, pattern, whole_piece_first=True, special_tokens=special_tokens)


def _wrong_line(path: Path, data: bytes) -> ValueError:
    lines, seen = data.split(b"\n"), set()

    def complaint(line: bytes) -> str | None:
        parsed = _core.read_ranks(line)
        if parsed is None:
            return "a token in base64 and its id"
        for id in parsed[1]:
            if id in seen or id >= len(lines) + MAX_ID_GAP:
                return "an id of its own near the others"
            seen.add(id)
        return None

    number, expected = next((n, text) for n, line in enumerate(lines, 1) if (text := complaint(line)))
    return Error("load", f"{path}: line {number}", expected=expected, got=f"{lines[number - 1][:80]!r}")


def write_tiktoken(path: Path, vocabulary: AnyVocabulary, bpe: Encoder) -> None:
    """Writes the ordinary tokens. ValueError unless tiktoken's rule gives the same ids as the vocabulary's own."""
    if not isinstance(vocabulary, Vocabulary):
        raise Error("save", path, expected="a byte-level vocabulary for a .tiktoken file", got="one of another kind")
    assert isinstance(bpe, _core.BPE)
    if not bpe.merges_by_rank():
        raise Error(
            "save",
            path,
            expected="a token for each byte and merges that make one token each, in order of their ids, for a "
            ".tiktoken file, which has no merges; save as .json",
        )
    lines = (b"%s %d\n" % (base64.b64encode(token), id) for id, token in enumerate(vocabulary.tokens) if token)
    write_atomically(path, b"".join(lines))
