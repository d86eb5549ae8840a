"""SentencePiece models by the rules of its own processor: Unigram, words, characters, and BPE of normalized text.

A tokenizer.json that says the same (Precompiled, Metaspace, Unigram) gives other ids for some texts: there, sums of scores
have double precision, and rules apply to grapheme clusters.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING

from llmcore import _core
from llmcore.tokenizer.arguments import checked_ids, sentencepiece_core
from llmcore.tokenizer.formats.pieces import NORMAL, SPACE, UNUSED, USER_DEFINED, from_pieces
from llmcore.tokenizer.formats.sentencepiece import SentencePieceFile, parse
from llmcore.tokenizer.pipeline.general import (
    ContentReader,
    General,
    Policy,
    Text,
    check_allowed,
    checked_id,
    checked_text,
)
from llmcore.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    import numpy as np

_UNKNOWN_PENALTY = 10.0
_LARGEST = 3.4028234663852886e38  # number of single precision


class SentencePiece(General):
    """ValueError for a file that contradicts itself or that needs what is not supported."""

    def __init__(self, data: bytes):
        read = ContentReader()
        file = parse(read, data)
        v = from_pieces(read, "pieces", file.spellings, file.kinds, file.scores, False)
        if v.unknown is None:
            raise read.fail("pieces", "an unknown token", "none")
        if not all(map(math.isfinite, file.scores)):
            raise read.fail("pieces", "finite scores", "another")
        self._file, self._unknown, self._byte_ids = file, v.unknown, v.byte_tokens
        self.specials, self.added_tokens = v.special_tokens, v.symbols
        self.special_ids = frozenset(v.special_tokens.values())
        self.vocab_size = len(file.spellings)
        self.drops_first_space = file.dummy_prefix or file.fewer_spaces
        symbols = [s for s, kind in zip(file.spellings, file.kinds, strict=True) if kind == USER_DEFINED]
        self._normalizer = _core.SentencePieceNormalizer(file.charsmap, symbols, file.dummy_prefix, file.fewer_spaces)
        self._tokens = list(v.tokens)
        for spelling, id in v.special_tokens.items():
            self._tokens[id] = spelling.encode()
        self._finder = _core.AddedTokens([(spelling, id, 0) for spelling, id in v.special_tokens.items()])
        self._ids_of: Callable[[str], list[int]]
        if file.model_type == "BPE":
            core = sentencepiece_core(v, checked_ids(v.special_tokens, {}), [])
            self._ids_of = lambda text: core.encode(text.replace(SPACE, " "), None)
        elif file.model_type == "unigram":
            unigram = _unigram(file, v.unknown, v.byte_tokens)
            self._ids_of = lambda text: unigram.encode([text])
        else:
            pieces = zip(file.spellings, file.kinds, strict=True)
            known = (NORMAL, USER_DEFINED, UNUSED)
            self._ids = {spelling: id for id, (spelling, kind) in enumerate(pieces) if kind in known}
            cut = _words if file.model_type == "word" else _core.AddedTokens([(s, 0, 0) for s in symbols]).split
            self._ids_of = lambda text: self._whole(cut, text)

    # ---- text to ids -----------------------------------------------------------------------------------

    def encode(self, text: Text, specials: Policy) -> list[int]:
        text = checked_text(text)
        ids: list[int] = []
        for stretch, special in [(text, None)] if specials is None else self._finder.split(text):
            if special is not None:
                check_allowed(stretch, specials)
                ids.append(special)
            elif normal := self._normalizer.normalize(stretch):
                ids += self._ids_of(normal)
        return ids

    def encode_array(self, text: Text, specials: Policy) -> np.ndarray:
        import numpy as np

        return np.array(self.encode(text, specials), np.uint32)

    def _whole(self, cut: Callable[[str], Iterable[tuple[str, int | None]]], text: str) -> list[int]:
        """Encode words or characters, which are tokens or unknown; of these, neighbours are one."""
        ids: list[int] = []
        after_unknown = False
        for stretch, symbol in cut(text):
            for piece in [stretch] if symbol is not None else stretch:
                id = self._ids.get(piece)
                if id is None and self._byte_ids:
                    ids += [self._byte_ids[byte] for byte in piece.encode()]
                elif id is not None or not after_unknown:
                    ids.append(self._unknown if id is None else id)
                after_unknown = id is None and not self._byte_ids
        return ids

    # ---- ids to text -----------------------------------------------------------------------------------

    def decode_list(self, ids: Iterable[int]) -> bytes:
        spell = Spelling(self, False)
        return b"".join(map(spell, ids))

    def stream(self, errors: str, continues: bool, skipped: Collection[int]) -> StreamDecoder:
        return PieceStream(self, errors, continues, skipped)

    def token_bytes(self, id: int) -> bytes:
        return self._tokens[id] if checked_id(id) < len(self._tokens) else b""

    def is_plain(self, id: int) -> bool:
        """Say whether a token is a piece of text, not a control token or a byte."""
        return id < self.vocab_size and self._file.kinds[id] in (NORMAL, USER_DEFINED, UNUSED)

    @property
    def fewer_spaces(self) -> bool:
        return self._file.fewer_spaces


class Spelling:
    """Gives the bytes of tokens, one after another, without a space at the beginning of the text; where runs of spaces
    are left out of texts, without one before each piece as long as there is no other text."""

    def __init__(self, model: SentencePiece, continues: bool):
        self._model, self._begins = model, model.drops_first_space and not continues

    def __call__(self, id: int) -> bytes:
        spelled = self._model.token_bytes(id)
        if self._begins:
            stripped = spelled.removeprefix(b" ") if self._model.is_plain(id) else spelled
            self._begins = not stripped and (self._model.fewer_spaces or stripped == spelled)
            return stripped
        return spelled


class PieceStream(StreamDecoder):
    def __init__(self, model: SentencePiece, errors: str, continues: bool, skipped: Collection[int]):
        super().__init__(Spelling(model, continues), False, errors, skipped)
        self._model = model

    def push(self, id: int) -> str:
        return "" if id in self._skipped else super().push(id)

    def finish(self) -> str:
        text = super().finish()
        self._token_bytes = Spelling(self._model, False)
        return text


def _words(text: str) -> list[tuple[str, int | None]]:
    """Cut before every U+2581."""
    first, *others = text.split(SPACE)
    return [(word, 0) for word in [*([first] if first else []), *(SPACE + other for other in others)]]


def _single(number: float) -> float:
    """Round to single precision."""
    return struct.unpack("f", struct.pack("f", number))[0]


def _unigram(file: SentencePieceFile, unknown: int, byte_ids: Collection[int]) -> _core.Unigram:
    normal = [score for score, kind in zip(file.scores, file.kinds, strict=True) if kind == NORMAL]
    least = min([_LARGEST, *normal])
    tokens: list[str] = []
    # What the user defines always wins: 0.1 for each byte but the first, as version 0.2.3 has it.
    scores: list[float] = []
    for spelling, kind, score in zip(file.spellings, file.kinds, file.scores, strict=True):
        tokens.append(spelling if kind in (NORMAL, USER_DEFINED) else "")
        bonus = _single(0.1 * (len(spelling.encode()) - 1))
        scores.append(bonus if kind == USER_DEFINED else score)
    return _core.Unigram.sentencepiece(tokens, scores, _single(least - _UNKNOWN_PENALTY), unknown, list(byte_ids))
