"""What makes a tokenizer, apart from the code that runs it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from llmcore._core import VocabularyParts

Pattern = str | tuple[str, ...]
STRIPS_LEFT, STRIPS_RIGHT, WORD, NORMALIZED = 1, 2, 4, 8  # flags of special and added tokens


class Vocabulary(NamedTuple):
    """The parts of a byte-level BPE tokenizer.

    tokens: the bytes of every ordinary token by id; b"" for an id that does not exist, or is that of a special or an
        added token alone.
    merges: pairs of ids in order of rank, or None for tiktoken's rule: two neighbours merge if together they
        spell a token, the lowest id first.
    pattern: the split pattern: its name, a regular expression as Oniguruma reads it, or those of several stages, each
        of which cuts the pieces of the one before.
    whole_piece_first: whether a piece that is a token is that token, whatever the merges make of it.
    special_tokens: the ids of the control tokens. One may be an ordinary token too, which spells the same.
    added_tokens: the ids of other texts that are one token each, found in every text before it is cut (<think>, or the
        spaces of GPT-NeoX). One may be an ordinary token too.
    flags: how special and added tokens are found, where it is not just so: the sum of STRIPS_LEFT and STRIPS_RIGHT
        (whitespace beside it belongs to it), WORD (not beside a letter, a digit or the like) and NORMALIZED (after
        those without it, in what lies between them, in normal form).
    begin, end: ids that a model expects before and after a whole text. `encode` leaves them out.
    normalizer: "NFC" if text is brought to that normal form first, or None.
    parts: tokens and merges as a file was read to them, in place of the two lists, which are empty then.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]] | None
    pattern: Pattern
    whole_piece_first: bool = False
    special_tokens: dict[str, int] = {}  # noqa: RUF012 - a default, never changed
    added_tokens: dict[str, int] = {}  # noqa: RUF012
    flags: dict[str, int] = {}  # noqa: RUF012
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()
    normalizer: str | None = None
    parts: VocabularyParts | None = None


class SentencePieceVocabulary(NamedTuple):
    """The parts of a SentencePiece-style BPE tokenizer, whose symbols are characters and whose tokens hold spaces.

    tokens: what every token spells, by id, with spaces where the files have U+2581; the byte itself for a token such
        as <0x0A>; b"" for an id that does not exist, is special, or the unknown token's.
    merges: pairs of ids in order of rank, or None for the rule of SentencePiece: two neighbours merge if together they
        spell a token, that with the highest of the `scores` first. The leftmost first among equals.
    scores: one for each id where merges is None, else empty.
    byte_tokens: the ids of the tokens of the 256 bytes, which spell what no other token does; or empty.
    unknown: the id for such text where there are no byte_tokens; None: it is refused.
    fuse_unknown: whether a run of unknown characters becomes one id.
    prefix: whether a space is put before a text ("first"), before it and what follows a special or an added token
        ("always"), or never. Nothing is put before an empty one.
    prefix_unless_space: leaves the prefix out where there is a space already.
    split_at_spaces: whether tokens hold spaces at their beginnings only.
    drop_first_space: whether decoding leaves out the space that its result begins with.
    symbols: texts that become one token each wherever they occur; spelled as tokens are, and found after the prefix
        was put there. (What SentencePiece calls user-defined.)
    added_tokens: the same, but found before, and special tokens to the prefix.
    special_tokens: the ids of the special tokens.
    flags, begin, end: as of `Vocabulary`; flags of added tokens, too.
    """

    tokens: list[bytes]
    merges: list[tuple[int, int]] | None
    scores: Sequence[float] = ()
    byte_tokens: Sequence[int] = ()
    unknown: int | None = None
    fuse_unknown: bool = True
    prefix: Literal["never", "first", "always"] = "always"
    prefix_unless_space: bool = False
    split_at_spaces: bool = False
    drop_first_space: bool = True
    symbols: dict[str, int] = {}  # noqa: RUF012 - a default, never changed
    added_tokens: dict[str, int] = {}  # noqa: RUF012
    special_tokens: dict[str, int] = {}  # noqa: RUF012
    flags: dict[str, int] = {}  # noqa: RUF012
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


class PipelineVocabulary(NamedTuple):
    """A file of any kind for which there is no quick encoder.

    document: what stands in a tokenizer.json, as parsed, without `truncation` and `padding`, which are settings of a call;
        or the bytes of a SentencePiece model.
    begin, end: as of `Vocabulary`; the file's post-processor.
    """

    document: dict[str, Any] | bytes
    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


AnyVocabulary = Vocabulary | SentencePieceVocabulary | PipelineVocabulary


def vocabulary_digest(vocabulary: AnyVocabulary, merges: list[tuple[int, int]]) -> str:
    """Compute `Tokenizer.digest`. `merges` are those that the rule comes to where the vocabulary has no list of them.

    Parts at their defaults are left out, so that a part that is added later changes no existing digest.
    """
    digest = hashlib.blake2b(digest_size=16)

    def add(data: bytes) -> None:
        digest.update(len(data).to_bytes(8, "little") + data)

    if isinstance(vocabulary, PipelineVocabulary):
        document = vocabulary.document
        add(document if isinstance(document, bytes) else json.dumps(document, sort_keys=True).encode())
        add(f"{vocabulary.begin} {vocabulary.end}".encode())
        return digest.hexdigest()
    for id, token in enumerate(vocabulary.tokens):
        if token:
            add(b"%d " % id + token)
    add(",".join(f"{left} {right}" for left, right in merges).encode())
    for name, value in sorted(vocabulary._asdict().items()):
        if name not in ("tokens", "merges", "scores") and value != vocabulary._field_defaults.get(name):
            value = sorted(value.items()) if isinstance(value, dict) else value
            add(f"{name}={value!r}".encode())
    return digest.hexdigest()
