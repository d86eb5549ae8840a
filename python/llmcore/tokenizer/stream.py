"""Decoding ids one at a time, as a model produces them."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Collection


class StreamDecoder:
    """Turns ids into text as they come: see `Tokenizer.stream_decoder`, which makes one.

    A character is given out with the token that completes it, never in halves. Bytes that can no longer
    become a character are given out at once as U+FFFD, so at most three bytes are ever held back, and a real
    U+FFFD in the text is a character like any other.
    """

    def __init__(
        self,
        token_bytes: Callable[[int], bytes],
        drops_first_space: bool = False,
        errors: str = "replace",
        skipped: Collection[int] = (),
    ):
        """token_bytes: gives the bytes of an id. drops_first_space: whether the space that the text begins with is left
        out. errors: as of bytes.decode. skipped: ids that are left out."""
        self._skipped = skipped
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors)
        self._drops_first_space = drops_first_space
        self._first = drops_first_space

    def push(self, id: int) -> str:
        """Return the text that this id completes, possibly empty. ValueError for a number that cannot be an id."""
        token = self._token_bytes(id)
        if id in self._skipped:
            return ""
        if self._first and token:
            self._first, token = False, token.removeprefix(b" ")
        return self._decoder.decode(token)

    def finish(self) -> str:
        """Return what the last incomplete character becomes (U+FFFD), or nothing. The decoder can then be used again."""
        text = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._first = self._drops_first_space
        return text
