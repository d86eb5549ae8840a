"""How SentencePiece-style vocabularies spell their tokens, and what the types of pieces mean in .model and GGUF files:
the same numbers in both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.vocabulary import SentencePieceVocabulary

SPACE = "\u2581"  # stands for a space
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))
_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")


def unspell(spelling: str) -> str:
    return spelling.replace(SPACE, " ")


def spell(text: str) -> str:
    return text.replace(" ", SPACE)


def byte_tokens(read: Reader, where: str, ids: Mapping[str, int]) -> list[int]:
    """Return the ids of the tokens for the 256 bytes."""
    missing = next((spelling for spelling in BYTE_TOKENS if spelling not in ids), None)
    if missing is not None:
        raise read.fail(where, "tokens for all of the 256 bytes", f"none for {missing}")
    return [ids[spelling] for spelling in BYTE_TOKENS]


def from_pieces(
    read: Reader, where: str, spellings: list[str], kinds: Sequence[int], scores: Sequence[float], prefix: bool
) -> SentencePieceVocabulary:
    """Make the vocabulary of pieces with their types and scores. `prefix`: whether a space comes before every text."""
    try:
        tokens = [unspell(spelling).encode() for spelling in spellings]
    except UnicodeEncodeError as error:
        raise read.fail(where, "strings that have a UTF-8 form", ascii(error.object)) from None
    if len(set(spellings)) < len(spellings) or b"" in tokens:
        seen = {""}
        for id, spelling in enumerate(spellings):
            if spelling in seen:
                raise read.fail(f"{where}[{id}]", "a string that no other token has", spelling)
            seen.add(spelling)
    byte_ids: dict[str, int] = {}
    symbols: dict[str, int] = {}
    special_tokens: dict[str, int] = {}
    unknown = None
    spaces = " " in "".join(spellings)
    for id, kind in enumerate(kinds):
        spelling = spellings[id]
        if kind == NORMAL:
            if spaces and " " in spelling:
                raise read.fail(f"{where}[{id}]", f"spaces spelled {SPACE}", spelling)
        elif kind == BYTE:
            match = _BYTE_TOKEN.fullmatch(spelling)
            if match is None:
                raise read.fail(f"{where}[{id}]", "a byte such as <0x0A>", spelling)
            byte_ids[spelling], tokens[id] = id, bytes([int(match[1], 16)])
        elif kind == USER_DEFINED:
            symbols[unspell(spelling)] = id
        elif kind == UNUSED:
            tokens[id] = b""
        elif kind in (UNKNOWN, CONTROL):
            if kind == UNKNOWN and unknown is not None:
                raise read.fail(f"{where}[{id}]", "one unknown token", spelling)
            unknown = id if kind == UNKNOWN else unknown
            special_tokens[spelling], tokens[id] = id, b""
        else:
            raise read.fail(f"{where}[{id}]", "a type from 1 to 6", str(kind))
    bytes_known = byte_tokens(read, where, byte_ids) if byte_ids else []
    return SentencePieceVocabulary(
        tokens,
        merges=None,
        scores=scores,
        byte_tokens=bytes_known,
        unknown=unknown,
        prefix="always" if prefix else "never",
        drop_first_space=prefix,
        symbols=symbols,
        special_tokens=special_tokens,
    )
