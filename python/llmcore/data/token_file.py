"""Tokens that others have made: nanoGPT's and llm.c's `.bin`, memory-mapped."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.data.corpus import check_fraction
from llmcore.data.shards import MOST_HELD_OUT, TokenStream
from llmcore.errors import CorpusError
from llmcore.tokenizer import Tokenizer

ENDING = ".bin"
_MAGIC, _HEADER = 20240520, 1024  # of llm.c: 256 int32, magic, version (1: uint16), tokens
_CHECKED = 1 << 25  # ids that are looked at before training; the model refuses any other that is too large
_SAMPLES, _SAMPLE = 64, 1 << 16  # bytes that the digest is made of


def is_token_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix == ENDING


class TokenFile:
    """uint16 ids, raw (nanoGPT) or after llm.c's header, with a part held out: what `Corpus` is, for tokens.

    Held out is `val.bin` beside `train.bin`, or else the end of the file, at most 16 MB of text. The ids are those of a
    tokenizer that the file does not name.
    """

    def __init__(self, path: str | os.PathLike, tokenizer: Tokenizer, validation_fraction: float = 0.1):
        check_fraction(validation_fraction)
        self.name, self.tokenizer = str(path), tokenizer
        self._tokens = self._open(Path(path))
        beside = Path(path).with_name("val.bin")
        if Path(path).name == "train.bin" and beside.is_file():
            self._held_out = self._open(beside)
            self._cut = len(self._tokens)
        else:
            held_out = min(int(len(self._tokens) * validation_fraction), MOST_HELD_OUT // 4)
            self._cut = self._cut_near(len(self._tokens) - max(1, held_out))
            self._held_out = self._tokens[self._cut :]
        if not self._cut or not (self._held_out != self.tokenizer.end_of_text).any():
            raise CorpusError(
                "tokens",
                f"{path} is too short to hold a part out: {len(self._tokens)} tokens, of which "
                f"{len(self._held_out)} would be, without any text",
            )

    def _open(self, path: Path) -> np.ndarray:
        try:
            size = path.stat().st_size
            head = np.fromfile(path, "<i4", 3).tolist() if size >= _HEADER else [0, 0, 0]
            offset = _HEADER if head[0] == _MAGIC else 0
            if offset and (head[1] != 1 or size != _HEADER + 2 * head[2]):
                raise CorpusError(
                    "tokens",
                    path,
                    expected=f"version 1 and {(size - _HEADER) // 2} tokens in llm.c's header",
                    got=f"version {head[1]} and {head[2]} tokens",
                )
            if size % 2 or size == offset:
                raise CorpusError("tokens", path, expected="uint16 ids", got=f"{size} bytes")
            tokens: np.ndarray = np.memmap(path, "<u2", "r", offset)
        except OSError as error:
            raise CorpusError("tokens", f"cannot read {path}: {error.strerror or error}") from None
        for part in (tokens[:_CHECKED], tokens[-_CHECKED:]):
            if int(part.max()) >= self.tokenizer.vocab_size:
                raise CorpusError(
                    "tokens",
                    path,
                    expected=f"ids below {self.tokenizer.vocab_size}, the tokenizer's vocabulary",
                    got=f"{part.max()}: give the --tokenizer that made the file",
                )
        return tokens

    def _cut_near(self, place: int) -> int:
        """Return the end of a document near it, where there is one."""
        end = self.tokenizer.end_of_text
        reach = self._tokens[place : place + (1 << 20)]
        found = np.flatnonzero(reach == end).tolist() if end is not None else []
        return place + found[0] + 1 if found and place + found[0] + 1 < len(self._tokens) else place

    def encode(self, tokenizer: Tokenizer) -> tuple[TokenStream, np.ndarray]:
        """Return the training and the held-out tokens. ValueError for another tokenizer than the file was opened with."""
        if tokenizer.digest != self.tokenizer.digest:
            raise CorpusError("tokens", self.name, expected="the tokenizer that it was opened with", got="another")
        return TokenStream([self._tokens], np.array([[0, self._cut]])), np.array(self._held_out)

    @cached_property
    def digest(self) -> str:
        """Return 32 hex digits of its size, of what stands at 64 places in it, and of what is held out."""
        digest = hashlib.blake2b(f"{len(self._tokens)} {self._cut}".encode(), digest_size=16)
        for place in np.linspace(0, max(0, len(self._tokens) - _SAMPLE // 2), _SAMPLES, dtype=np.int64).tolist():
            digest.update(self._tokens[place : place + _SAMPLE // 2].tobytes())
        digest.update(self._held_out[:MOST_HELD_OUT].tobytes())
        return digest.hexdigest()

    @cached_property
    def validation_bytes(self) -> int:
        """Size of the held-out text: the denominator of bits per byte."""
        ids = np.array(self._held_out, np.int64)
        return len(self.tokenizer.decode_bytes(ids[ids != self.tokenizer.end_of_text]))

    @cached_property
    def train_bytes(self) -> int:
        """Estimate the size of the training text from the bytes per token of the held-out text."""
        return round(self.validation_bytes / len(self._held_out) * self._cut)
