"""SentencePiece's `.model` files, a protobuf message
(https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto)."""

from __future__ import annotations

import struct
from array import array
from pathlib import Path
from typing import Any, NamedTuple

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.formats.pieces import NORMAL, UNUSED, from_pieces
from llmcore.tokenizer.vocabulary import PipelineVocabulary, SentencePieceVocabulary

# Tags of fields, as they stand in the file: the field's number times 8, plus how its value is written.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_PIECE, _TRAINER, _NORMALIZER, _DENORMALIZER = (8 * number + _BYTES for number in (1, 2, 3, 5))
_SPELLING, _SCORE, _KIND = 8 * 1 + _BYTES, 8 * 2 + _FIXED32, 8 * 3 + _VARINT
_MODEL_TYPE, _SPACE_AS_SUFFIX = 8 * 3 + _VARINT, 8 * 24 + _VARINT
_CHARSMAP = 8 * 2 + _BYTES
_DUMMY_PREFIX, _FEWER_SPACES, _ESCAPE = 8 * 3 + _VARINT, 8 * 4 + _VARINT, 8 * 5 + _VARINT
MODEL_TYPES = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}


class SentencePieceFile(NamedTuple):
    """What stands in a file. kinds: as in `pieces`; model_type: one of the values of MODEL_TYPES."""

    spellings: list[str]
    kinds: list[int]
    scores: array[float]
    model_type: str
    charsmap: bytes
    dummy_prefix: bool
    fewer_spaces: bool


def read_sentencepiece(path: Path) -> SentencePieceVocabulary | PipelineVocabulary:
    """BPE that normalizes nothing but spaces has an encoder of its own; the others are kept as they are in the file."""
    read, data = Reader(path), path.read_bytes()
    file = parse(read, data)
    if file.model_type != "BPE" or file.charsmap or file.fewer_spaces:
        return PipelineVocabulary(data)
    return from_pieces(read, "pieces", file.spellings, file.kinds, file.scores, file.dummy_prefix)


def parse(read: Reader, data: bytes) -> SentencePieceFile:
    trainer: dict[int, Any] = {_MODEL_TYPE: 1}
    normalizer: dict[int, Any] = {_DUMMY_PREFIX: 1, _FEWER_SPACES: 1, _ESCAPE: 1, _CHARSMAP: b""}
    pieces = []
    for tag, value in _fields(read, "the file", data):
        if tag == _PIECE:
            pieces.append(value)
        elif tag == _TRAINER:
            trainer |= _fields(read, "trainer_spec", value)
        elif tag == _NORMALIZER:
            normalizer |= _fields(read, "normalizer_spec", value)
        elif tag == _DENORMALIZER and dict(_fields(read, "denormalizer_spec", value)).get(_CHARSMAP):
            raise read.fail("denormalizer_spec", "none (it is not supported)", "rules")
    if not pieces:
        raise read.fail("pieces", "at least one", "none")
    model_type = trainer[_MODEL_TYPE]
    if model_type not in MODEL_TYPES:
        raise read.fail("trainer_spec.model_type", "1 to 4", str(model_type))
    if trainer.get(_SPACE_AS_SUFFIX):
        raise read.fail("trainer_spec.treat_whitespace_as_suffix", "false (it is not supported)", True)
    if not normalizer[_ESCAPE]:
        raise read.fail("normalizer_spec.escape_whitespaces", "true", False)
    return SentencePieceFile(
        *_pieces(read, pieces, unused=model_type != 2),
        MODEL_TYPES[model_type],
        normalizer[_CHARSMAP],
        bool(normalizer[_DUMMY_PREFIX]),
        bool(normalizer[_FEWER_SPACES]),
    )


def _pieces(read: Reader, pieces: list[bytes], unused: bool) -> tuple[list[str], list[int], array[float]]:
    """unused: whether there may be pieces of that type."""
    spellings: list[str] = []
    kinds: list[int] = []
    scores = array("f")
    for number, piece in enumerate(pieces):
        where = f"pieces[{number}]"
        spelling, score, kind = b"", b"\0\0\0\0", NORMAL
        for tag, value in _fields(read, where, piece):
            if tag == _SPELLING:
                spelling = value
            elif tag == _SCORE:
                score = value
            elif tag == _KIND:
                kind = value
        if kind == UNUSED and not unused:
            raise read.fail(where, "no piece of type UNUSED (it is not supported)", repr(spelling))
        try:
            spellings.append(spelling.decode())
        except UnicodeDecodeError:
            raise read.fail(where, "UTF-8", repr(spelling[:40])) from None
        kinds.append(kind)
        scores.append(struct.unpack("<f", score)[0])
    return spellings, kinds, scores


def _fields(read: Reader, where: str, data: bytes) -> list[tuple[int, Any]]:
    """The tags and values of a message: numbers where they are of variable length, else bytes."""
    fields: list[tuple[int, Any]] = []
    at, end = 0, len(data)
    while at < end:
        tag, at = _varint(read, where, data, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(read, where, data, at)
            fields.append((tag, value))
            continue
        if wire == _BYTES:
            size, at = _varint(read, where, data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise read.fail(where, "a protobuf message", f"a field of wire type {wire}")
        if size > end - at:
            raise read.fail(where, f"{size} more bytes in field {tag >> 3}", str(end - at))
        fields.append((tag, data[at : at + size]))
        at += size
    return fields


def _varint(read: Reader, where: str, data: bytes, at: int) -> tuple[int, int]:
    """The number that begins at `at`, seven bits a byte, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at == len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise read.fail(where, "a protobuf message", "a number that does not end")
