"""The pipeline of a tokenizer.json: text is normalized, cut into pieces, encoded by a model, and decoded again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any

from llmcore.tokenizer.pipeline.added import AddedTokens
from llmcore.tokenizer.pipeline.decoders import Decoder, read_decoder
from llmcore.tokenizer.pipeline.first import Leading
from llmcore.tokenizer.pipeline.general import (
    ContentReader,
    General,
    Policy,
    Text,
    check_allowed,
    checked_id,
    checked_text,
)
from llmcore.tokenizer.pipeline.models import read_model
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from llmcore.tokenizer.pipeline.pre_tokenizers import Piece, read_pre_tokenizer
from llmcore.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    import numpy as np


class Pipeline(General):
    """A tokenizer.json at work. ValueError for a document that contradicts itself or that needs what is not known."""

    def __init__(self, document: dict[str, Any]):
        read = ContentReader()
        self._model = read_model(read, document)
        value = document.get("normalizer")
        self._normalize = None if value is None else read_normalizer(read, value, "normalizer")
        value = document.get("pre_tokenizer")
        self._pre_tokenize = None if value is None else read_pre_tokenizer(read, value, "pre_tokenizer")
        self._leading = Leading(read, document)
        self._decoder = read_decoder(read, document.get("decoder"), "decoder")
        self._added = AddedTokens(read, document, self._model, self._normalize)
        self.specials, self.added_tokens = self._added.special_tokens, self._added.others
        self._spellings: list[str | None] = list(self._model.tokens)
        self._spellings += [None] * (max(self._added.by_id, default=-1) + 1 - len(self._spellings))
        for id, spelling in self._added.spellings.items():
            self._spellings[id] = spelling

        self.vocab_size = len(self._spellings)
        # `tokenizers` knows special tokens by their spelling.
        self.special_ids = frozenset(id for id, spelling in enumerate(self._spellings) if spelling in self.specials)
        self.drops_first_space = self._decoder.drops_first_space

    # ---- text to ids -----------------------------------------------------------------------------------

    def encode(self, text: Text, specials: Policy) -> list[int]:
        return self._model.encoder.encode(self._parts(text, specials))

    def encode_array(self, text: Text, specials: Policy) -> np.ndarray:
        return self._model.encoder.encode_array(self._parts(text, specials))

    def _parts(self, text: Text, specials: Policy) -> list[str | int]:
        """Return the pieces of a text and, among them, the ids of its added tokens."""
        text = checked_text(text)
        if not text:
            return []
        early, late = (self._added.finder(late, specials is None) for late in (False, True))
        pieces: list[Piece | int] = []
        for number, (stretch, id) in enumerate(early(text) if early else [(text, None)]):
            if id is not None:
                pieces.append(self._allowed(id, specials))
                continue
            normal = stretch if self._normalize is None else self._normalize(stretch)
            if not normal:
                continue
            first = 0 if number else self._leading.count(stretch)
            for part, id in late(normal) if late else [(normal, None)]:
                pieces.append(Piece(part, min(first, len(part))) if id is None else self._allowed(id, specials))
                first = max(0, first - len(part))
        return self._cut(pieces)

    def _cut(self, pieces: list[Piece | int]) -> list[str | int]:
        parts: list[str | int] = []
        for piece in pieces:
            if isinstance(piece, int):
                parts.append(piece)
            elif self._pre_tokenize is None:
                parts.append(piece.text)
            else:
                parts += self._pre_tokenize.cut(*piece)
        return parts

    def _allowed(self, id: int, specials: Policy) -> int:
        """Return the id of an added token in the text, unless it is a special one that the caller does not allow."""
        content = self._added.by_id[id].content
        if content in self.specials:
            check_allowed(content, specials)
        return id

    # ---- ids to text -----------------------------------------------------------------------------------

    def decode_list(self, ids: Iterable[int]) -> bytes:
        return self._decoder.decode(filter(None, map(self._spelling, ids))).encode()

    def stream(self, errors: str, continues: bool, skipped: Collection[int]) -> StreamDecoder:
        return PipelineStream(self._spelling, self._decoder, continues, skipped)

    def token_bytes(self, id: int) -> bytes:
        """Return what a token contributes within a text; an added token's own spelling; b"" where there is no token."""
        spelling = self._spelling(id)
        if spelling is None:
            return b""
        return spelling.encode() if id in self._added.by_id else self._decoder.spell(spelling)

    def _spelling(self, id: int) -> str | None:
        """Return how the decoder gets a token; None where no token has the id, which then comes to nothing."""
        return self._spellings[id] if checked_id(id) < len(self._spellings) else None


class PipelineStream(StreamDecoder):
    """Decodes ids one by one, holding back what later ones may change."""

    def __init__(
        self, spelling: Callable[[int], str | None], decoder: Decoder, continues: bool, skipped: Collection[int]
    ):
        self._spelling, self._chain, self._skipped = spelling, decoder, skipped
        self._running = decoder.start(continues)

    def push(self, id: int) -> str:
        spelling = self._spelling(id)
        return "" if spelling is None or id in self._skipped else self._running.push(spelling)

    def finish(self) -> str:
        text = self._running.finish()
        self._running = self._chain.start(False)
        return text
