"""Tokens that others have made: `.bin` of nanoGPT, llm.c and modded-nanogpt, `.npy` of numpy, all memory-mapped."""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcore.data.corpus import check_fraction
from llmcore.data.shards import MOST_HELD_OUT, TokenStream
from llmcore.errors import CorpusError, Error
from llmcore.tokenizer import Tokenizer

RAW_TYPES = ("uint16", "uint32", "int32", "int64")  # of a .bin without a header
_ENDINGS = (".bin", ".npy")
# llm.c's header is 256 int32: a magic number, the version, the number of tokens (dev/data/data_common.py).
_HEADER = 1024
_DATA = {20240520: (1, "<u2"), 20240801: (7, "<u4")}  # of GPT-2, of Llama 3
_OTHERS = {
    20240522: "a multiple-choice evaluation",
    20240326: "a model",
    20240803: "a model",
    20240327: "a state to compare with",
    20240328: "a tokenizer",
}
_CHECKED = 1 << 25  # ids that are looked at before training; the model refuses any other that is too large
_LOOKED_AT = 1 << 20  # ids from which the type is told
_FEW = 8  # ids that tell no type
_SAMPLES, _SAMPLE = 64, 1 << 16  # bytes that the digest is made of


def is_token_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and Path(source).suffix in _ENDINGS


class TokenFile:
    """Token ids in a file, with a part held out: what `Corpus` is, for tokens.

    A `.npy` says its type. A `.bin` of llm.c begins with a header; any other is raw (nanoGPT), of the type `dtype`, else of the
    one that its bytes and the vocabulary tell. Held out is `val.bin` beside `train.bin` (or .npy), or else the end of the file,
    at most 16 MB of text; with a validation_fraction of None nothing is. The ids are those of a tokenizer that the file does not name.

    Raises CorpusError, which names the file, for what is no list of ids of that tokenizer.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        tokenizer: Tokenizer,
        validation_fraction: float | None = 0.1,
        dtype: str | None = None,
    ):
        if validation_fraction is not None:
            check_fraction(validation_fraction)
        if dtype is not None and dtype not in RAW_TYPES:
            raise Error("tokens", expected=f"a token_dtype of {', '.join(RAW_TYPES)}", got=f"{dtype!r:.50}")
        self.name, self.tokenizer, self._dtype = str(path), tokenizer, dtype
        self._tokens = self._open(Path(path))
        if validation_fraction is None:
            self._cut, self._held_out = len(self._tokens), self._tokens[:0]
            return
        beside = Path(path).with_stem("val")
        if Path(path).stem == "train" and beside.is_file():
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
            tokens = self._array(path) if path.suffix == ".npy" else self._raw(path)
        except OSError as error:
            raise CorpusError("tokens", f"cannot read {path}: {error.strerror or error}") from None
        last = max(0, len(tokens) - _CHECKED)
        for start, part in ((0, tokens[:_CHECKED]), (last, tokens[last:])):
            if int(part.max()) >= self.tokenizer.vocab_size or int(part.min()) < 0:
                bad = np.flatnonzero((part >= self.tokenizer.vocab_size) | (part < 0))
                raise CorpusError(
                    "tokens",
                    path,
                    expected=f"ids below {self.tokenizer.vocab_size}, the tokenizer's vocabulary",
                    got=f"{part[bad[0]]} at {start + int(bad[0])}, read as {tokens.dtype.name}: give the --tokenizer that made "
                    "the file, or its --token-dtype",
                )
        return tokens

    def _array(self, path: Path) -> np.ndarray:
        try:
            tokens = np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise CorpusError("tokens", f"cannot read {path}: {error}") from None
        if not isinstance(tokens, np.ndarray) or tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not tokens.size:
            got = f"{tokens.dtype} of shape {tokens.shape}" if isinstance(tokens, np.ndarray) else "something else"
            raise CorpusError("tokens", path, expected="integers of shape (N,)", got=got)
        return tokens

    def _raw(self, path: Path) -> np.ndarray:
        size = path.stat().st_size
        head = np.fromfile(path, "<i4", _HEADER // 4)
        if len(head) and int(head[0]) in _DATA:
            return self._with_header(path, size, head)
        what = _OTHERS.get(int(head[0])) if len(head) else None
        if self._dtype is None and what is not None and not head[16:].any():
            raise CorpusError("tokens", path, expected="tokens", got=f"{what} of llm.c")
        if self._dtype is None and len(head) == _HEADER // 4 and head[0] and not head[8:].any():
            raise CorpusError(
                "tokens",
                path,
                expected=f"a magic number of llm.c's token files, {' or '.join(map(str, _DATA))}",
                got=f"{head[0]} at the head of a header (--token-dtype uint16 reads it as ids)",
            )
        dtype = np.dtype(self._dtype or self._told(path)).newbyteorder("<")
        if size % dtype.itemsize or not size:
            raise CorpusError("tokens", path, expected=f"{dtype.name} ids", got=f"{size} bytes")
        return np.memmap(path, dtype, "r")

    def _with_header(self, path: Path, size: int, head: np.ndarray) -> np.ndarray:
        version, kind = _DATA[int(head[0])]
        dtype = np.dtype(kind)
        count, over = divmod(size - _HEADER, dtype.itemsize)
        if len(head) < _HEADER // 4:
            raise CorpusError("tokens", path, expected=f"the {_HEADER} bytes of llm.c's header", got=size)
        if head[1] != version or head[2] != count or over or not count:
            raise CorpusError(
                "tokens",
                path,
                expected=f"version {version} and {count} tokens in llm.c's header",
                got=f"version {head[1]} and {head[2]} tokens",
            )
        return np.memmap(path, dtype, "r", _HEADER)

    def _told(self, path: Path) -> str:
        """Return the type of the ids in a raw file. Of wider ones than the vocabulary needs the upper halves are 0."""
        size = path.stat().st_size
        sample = np.fromfile(path, np.uint8, _LOOKED_AT * 8)

        def padded(kind: str) -> bool:
            width = np.dtype(kind).itemsize
            halves = sample[: len(sample) // width * width].view(f"<u{width // 2}")
            enough = size % width == 0 and size >= _FEW * width
            return enough and not halves[1::2].any() and bool(halves.any())

        if padded("<u8"):
            return "int64"
        if padded("<u4"):
            return "uint32"
        if self.tokenizer.vocab_size <= 1 << 16:
            return "uint16"
        wide = sample[: len(sample) // 4 * 4].view("<u4")
        if size % 4 == 0 and size and (wide < self.tokenizer.vocab_size).all():
            return "uint32"
        raise CorpusError(
            "tokens",
            path,
            expected=f"uint32 ids, which a vocabulary of {self.tokenizer.vocab_size} needs",
            got="others: give the --tokenizer that made the file, or say --token-dtype uint16",
        )

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
        return self._spelled(self._held_out)

    @cached_property
    def train_bytes(self) -> int:
        """Estimate the size of the training text from the bytes per token of the held-out text, or of its beginning."""
        sample = self._held_out if len(self._held_out) else self._tokens[: 1 << 20]
        return round(self._spelled(sample) / len(sample) * self._cut)

    def _spelled(self, tokens: np.ndarray) -> int:
        """Return the bytes of tokens without those around documents."""
        ids = np.array(tokens, np.int64)
        around = [*self.tokenizer.begin, *([] if self.tokenizer.end_of_text is None else [self.tokenizer.end_of_text])]
        return len(self.tokenizer.decode_bytes(ids[~np.isin(ids, around)]))
