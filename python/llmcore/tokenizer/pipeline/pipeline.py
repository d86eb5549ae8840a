"""The pipeline: text is normalized, cut into pieces, encoded by a model, and decoded again."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llmcore.errors import ArgumentTypeError, Error
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.added import AddedTokens
from llmcore.tokenizer.pipeline.decoders import Decoder, read_decoder
from llmcore.tokenizer.pipeline.first import Leading
from llmcore.tokenizer.pipeline.models import read_model
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from llmcore.tokenizer.pipeline.pre_tokenizers import Piece, read_pre_tokenizer
from llmcore.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    import numpy as np

Policy = bool | Collection[str] | None  # all special tokens, those named, or None: they are ordinary text


class Pipeline:
    """A tokenizer.json at work, with the methods of `_core.BPE` that the Tokenizer uses. ValueError for a document that
    contradicts itself or that needs what is not known."""

    ends_at_line_ends = False
    pattern = "pipeline"
    merges: list[tuple[int, int]] = []  # noqa: RUF012 - none that would be all of the rule

    def __init__(self, document: dict[str, Any]):
        read = _DocumentReader(Path())
        self._model = read_model(read, document)
        value = document.get("normalizer")
        self._normalize = None if value is None else read_normalizer(read, value, "normalizer")
        self._leading = Leading(read, document)
        value = document.get("pre_tokenizer")
        self._pre_tokenize = None if value is None else read_pre_tokenizer(read, value, "pre_tokenizer")
        self._decoder = read_decoder(read, document.get("decoder"), "decoder")
        self._added = AddedTokens(read, document, self._model, self._normalize)
        self.specials, self.added_tokens = self._added.special_tokens, self._added.others
        self._spellings: list[str | None] = list(self._model.tokens)
        self._spellings += [None] * (max(self._added.by_id, default=-1) + 1 - len(self._spellings))
        for id, spelling in self._added.spellings.items():
            self._spellings[id] = spelling

    # ---- text to ids -----------------------------------------------------------------------------------

    def encode(self, text: str | bytes, specials: Policy) -> list[int]:
        return self._model.encoder.encode(self._parts(text, specials))

    def encode_array(self, text: str | bytes, specials: Policy) -> np.ndarray:
        return self._model.encoder.encode_array(self._parts(text, specials))

    def count(self, text: str | bytes, specials: Policy) -> int:
        return len(self.encode_array(text, specials))

    def encode_batch(self, texts: Iterable[str | bytes], specials: Policy, arrays: bool) -> list:
        return [self.encode_array(text, specials) if arrays else self.encode(text, specials) for text in texts]

    def encode_offsets(self, text: str | bytes, specials: Policy) -> NoReturn:
        raise Error(
            "encode_offsets", expected="a byte-level or SentencePiece-style BPE tokenizer", got="one of another kind"
        )

    def _parts(self, text: str | bytes, specials: Policy) -> list[str | int]:
        """Return the pieces of a text and, among them, the ids of its added tokens."""
        if isinstance(text, bytes):
            text = text.decode(errors="replace")
        elif not isinstance(text, str):
            raise ArgumentTypeError("encode", expected="str or bytes", got=type(text).__name__)
        elif not text.isascii():
            text.encode()  # UnicodeEncodeError for a lone surrogate, before anything is done with it
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
        if specials is True or content not in self.specials or (specials and content in specials):
            return id
        raise Error(
            "encode",
            f"the text holds the special token {content!r}; to encode it as special, pass "
            f'allowed_special={{{content!r}}} or allowed_special="all"; to encode it as plain text, use '
            "encode_ordinary",
        )

    # ---- ids to text -----------------------------------------------------------------------------------

    def decode_list(self, ids: Iterable[int]) -> bytes:
        return self._decoder.decode(filter(None, map(self._spelling, ids))).encode()

    def decode_array(self, ids: np.ndarray) -> bytes:
        return self.decode_list(ids.tolist())

    def stream(self, continues: bool, skipped: Collection[int]) -> PipelineStream:
        return PipelineStream(self._spelling, self._decoder, continues, skipped)

    @property
    def drops_first_space(self) -> bool:
        return self._decoder.drops_first_space

    def token_bytes(self, id: int) -> bytes:
        """Return what a token contributes within a text; an added token's own spelling; b"" where there is no token."""
        spelling = self._spelling(id)
        if spelling is None:
            return b""
        return spelling.encode() if id in self._added.by_id else self._decoder.spell(spelling)

    def _spelling(self, id: int) -> str | None:
        """Return how the decoder gets a token; None where no token has the id, which then comes to nothing."""
        if not hasattr(id, "__index__"):
            raise ArgumentTypeError("decode", expected="integer ids", got=type(id).__name__)
        if not 0 <= id < 1 << 31:
            raise Error("decode", expected="ids from 0 to 2147483647", got=id)
        return self._spellings[id] if id < len(self._spellings) else None

    # ---- what it is ------------------------------------------------------------------------------------

    @property
    def special_ids(self) -> frozenset[int]:
        """The ids that decoding leaves out where it skips special tokens. `tokenizers` knows them by their spelling."""
        return frozenset(
            id for id, spelling in enumerate(self._spellings) if spelling is not None and spelling in self.specials
        )

    @property
    def vocab_size(self) -> int:
        return len(self._spellings)


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


class _DocumentReader(Reader):
    """Reads a document whose file the caller names."""

    def fail(self, where: str, expected: str, got: Any) -> ValueError:
        error = super().fail(where, expected, got)
        return Error("tokenizer", where, expected=expected, got=Error.of(error).got)
