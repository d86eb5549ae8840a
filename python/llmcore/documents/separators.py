"""Documents that stand in one file with a text between them, such as <|endoftext|> in TinyStories' files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from llmcore.errors import Error

# Texts that end documents or turns in the files of others: GPT-2's, Llama's, ChatML's, Gemma's, Phi's, DeepSeek's.
KNOWN = (
    *("<|endoftext|>", "</s>", "<|im_end|>", "<|end_of_text|>", "<|eot_id|>", "<eos>", "<end_of_turn>", "<|end|>"),
    "<\uff5cend\u2581of\u2581sentence\uff5c>",
)


class Part(NamedTuple):
    """A document, or a stretch of a long one."""

    data: bytes
    position: int  # parts, lines or rows of the file that have been read: what `after` takes
    ends: bool  # whether the document ends here


def check_separators(separators: Sequence[str]) -> None:
    """Raise ValueError for separators that are no texts."""
    for text in separators:
        if not isinstance(text, str) or not text:
            raise Error("corpus", expected="separators that are texts", got=f"{text!r:.50}")


def separated(parts: Iterable[Part], separators: Sequence[str], after: int = 0) -> Iterator[Part]:
    """Yield the documents between separators, from the one after position `after` on, which counts parts of these. A
    separator takes the end of its line with it; documents that are blank are left out."""
    check_separators(separators)
    marks = sorted((text.encode("utf-8", "surrogatepass") for text in separators), key=len, reverse=True)
    mark = re.compile(b"(?:" + b"|".join(map(re.escape, marks)) + rb")(?:\r?\n)?")
    position, held, begun, newline = 0, b"", False, False
    for part in parts:
        data = held + part.data
        if newline:
            data = data.removeprefix(b"\r").removeprefix(b"\n")
        held, at, newline = b"", 0, False
        pieces: list[tuple[bytes, bool]] = []
        for found in mark.finditer(data):
            pieces.append((data[at : found.start()], True))
            at = found.end()
            newline = at == len(data) and not data.endswith(b"\n") and not part.ends
        rest = data[at:]
        if not part.ends:
            keep = _begun_mark(rest, marks)
            rest, held = rest[: len(rest) - keep], rest[len(rest) - keep :]
        pieces.append((rest, part.ends))
        for piece, ends in pieces:
            if piece.strip() or (ends and begun):
                position += 1
                begun = not ends
                if position > after:
                    yield Part(piece, position, ends)
            elif piece and begun:
                held = piece + held  # blanks within a long document
    if held.strip():
        yield Part(held, position + 1, True)


def _begun_mark(data: bytes, marks: Sequence[bytes]) -> int:
    """Return how many bytes at the end may be the beginning of a separator."""
    longest = max(map(len, marks), default=1) - 1
    return next((n for n in range(min(longest, len(data)), 0, -1) if any(m.startswith(data[-n:]) for m in marks)), 0)


def count_known(documents: Iterable[bytes], others: Iterable[str] = ()) -> Counter[str]:
    """Count texts that usually are tokens which end documents, and are letters in these."""
    marks = {text: text.encode() for text in dict.fromkeys((*KNOWN, *others)) if text}
    counts: Counter[str] = Counter()
    for document in documents:
        if b"<" in document or others:
            for text, mark in marks.items():
                counts[text] += document.count(mark)
    return +counts


def told(counts: Mapping[str, int]) -> str:
    """Return what there is to say of such texts."""
    (text, times), *others = Counter(counts).most_common()
    also = f" (also {', '.join(other for other, _ in others)})" if others else ""
    return (
        f"{text} stands {times:,} times in the text{also} and is taken as letters: --separators '{text}' makes ends of "
        "documents of it"
    )
