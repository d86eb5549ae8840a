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
    U+FFFD in the text is a character like any other. Where decoding drops the space that a text begins with
    (SentencePiece-style vocabularies), a decoder that `continues` a text keeps it.
    """

    def __init__(self, tokenizer: Tokenizer, errors: str = "replace", continues: bool = False):
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._drops_first_space = tokenizer.drops_first_space and not continues
        self._first = self._drops_first_space

    def push(self, id: int) -> str:
        """The text that this id completes, possibly empty. ValueError for an id that is not in the
        vocabulary."""
        token = self._token_bytes(id)
        if self._first:
            self._first, token = False, token.removeprefix(b" ")
        return self._decoder.decode(token)

    def finish(self) -> str:
        """What the last incomplete character becomes (U+FFFD), or nothing. The decoder can then be used
        again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._first = self._drops_first_space
        return text
