"""Decoding ids one at a time, as a model produces them."""

from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmcore.tokenizer.tokenizer import Tokenizer


class StreamDecoder:
    """Turns ids into text as they come. The texts returned, joined, are `tokenizer.decode(ids)`.

    A character is given out with the token that completes it, never in halves. Bytes that can no longer
    become a character are given out at once as U+FFFD, so at most three bytes are ever held back, and a real
    U+FFFD in the text is a character like any other.
    """

    def __init__(self, tokenizer: Tokenizer, errors: str = "replace"):
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)

    def push(self, id: int) -> str:
        """The text that this id completes, possibly empty. ValueError for an id that is not in the
        vocabulary."""
        return self._decoder.decode(self._token_bytes(id))

    def finish(self) -> str:
        """What the last incomplete character becomes (U+FFFD), or nothing. The decoder can then be used
        again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        return text
