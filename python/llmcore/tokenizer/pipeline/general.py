"""What tokenizers of all kinds beside the quick two have in common: the methods of `_core.BPE` that the Tokenizer uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from llmcore.errors import ArgumentTypeError, Error
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.stream import StreamDecoder

if TYPE_CHECKING:
    import numpy as np

Text = str | bytes
Policy = bool | Collection[str] | None  # all special tokens, those named, or None: they are ordinary text


class General:
    """Subclasses encode, decode and spell."""

    ends_at_line_ends = False
    pattern = "pipeline"
    merges: list[tuple[int, int]] = []  # noqa: RUF012 - none that would be all of the rule
    specials: dict[str, int]
    added_tokens: dict[str, int]
    special_ids: frozenset[int]  # what decoding leaves out where it skips special tokens
    drops_first_space: bool
    vocab_size: int

    def encode(self, text: Text, specials: Policy) -> list[int]:
        raise NotImplementedError

    def encode_array(self, text: Text, specials: Policy) -> np.ndarray:
        raise NotImplementedError

    def count(self, text: Text, specials: Policy) -> int:
        return len(self.encode_array(text, specials))

    def encode_batch(self, texts: Iterable[Text], specials: Policy, arrays: bool) -> list:
        return [self.encode_array(text, specials) if arrays else self.encode(text, specials) for text in texts]

    def encode_offsets(self, text: Text, specials: Policy) -> NoReturn:
        raise Error(
            "encode_offsets", expected="a byte-level or SentencePiece-style BPE tokenizer", got="one of another kind"
        )

    def decode_list(self, ids: Iterable[int]) -> bytes:
        raise NotImplementedError

    def decode_array(self, ids: np.ndarray) -> bytes:
        return self.decode_list(ids.tolist())

    def stream(self, errors: str, continues: bool, skipped: Collection[int]) -> StreamDecoder:
        raise NotImplementedError

    def token_bytes(self, id: int) -> bytes:
        """Return what a token contributes within a text; b"" where no token has the id."""
        raise NotImplementedError


def checked_text(text: Text) -> str:
    """Return a text; bytes that are not UTF-8 become U+FFFD. UnicodeEncodeError for a lone surrogate."""
    if isinstance(text, bytes):
        return text.decode(errors="replace")
    if not isinstance(text, str):
        raise ArgumentTypeError("encode", expected="str or bytes", got=type(text).__name__)
    if not text.isascii():
        text.encode()
    return text


def checked_id(id: int) -> int:
    if not hasattr(id, "__index__"):
        raise ArgumentTypeError("decode", expected="integer ids", got=type(id).__name__)
    if not 0 <= id < 1 << 31:
        raise Error("decode", expected="ids from 0 to 2147483647", got=id)
    return id


def check_allowed(content: str, specials: Policy) -> None:
    """Raise unless the caller allows this special token in the text."""
    if specials is not True and not (specials and content in specials):
        raise Error(
            "encode",
            f"the text holds the special token {content!r}; to encode it as special, pass "
            f'allowed_special={{{content!r}}} or allowed_special="all"; to encode it as plain text, use '
            "encode_ordinary",
        )


class ContentReader(Reader):
    """Reads what a file holds, where the caller names the file."""

    def __init__(self) -> None:
        super().__init__(Path())

    def fail(self, where: str, expected: str, got: Any) -> ValueError:
        error = super().fail(where, expected, got)
        return Error("tokenizer", where, expected=expected, got=Error.of(error).got)
