"""The pre-tokenizers of a tokenizer.json: how a text is cut into the pieces that the model takes one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from llmcore import _core
from llmcore.tokenizer.formats import byte_level
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.patterns import GPT2
from llmcore.tokenizer.pipeline import unicode_tables
from llmcore.tokenizer.pipeline.characters import SPACE, members, script
from llmcore.tokenizer.pipeline.steps import Matches, Step, read_step


class Piece(NamedTuple):
    """A part of a text. first: how many of its leading characters stand where the original text begins: 0 for a piece
    from further on, True or 1 for one that begins there, more if steps before have put something in front."""

    text: str
    first: int


PreTokenizer = Callable[[list[Piece]], list[Piece]]

_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def read_pre_tokenizer(read: Reader, value: dict | None, where: str = "pre_tokenizer") -> PreTokenizer:
    """Read the object in a tokenizer.json; null cuts nothing."""
    return (lambda pieces: pieces) if value is None else read_step(read, value, where, _KINDS)


def _slice(piece: Piece, start: int, end: int) -> Piece:
    return Piece(piece.text[start:end], max(0, min(piece.first, end) - start))


def _each(cut: Callable[[Piece], Iterable[Piece]]) -> PreTokenizer:
    return lambda pieces: [part for piece in pieces for part in cut(piece)]


def _found(expression: str) -> PreTokenizer:
    """Return a step that keeps what an expression matches."""
    pattern = re.compile(expression)

    def cut(pieces: list[Piece]) -> list[Piece]:
        found: list[Piece] = []
        for text, first in pieces:
            at = 0
            while at < first and (match := pattern.search(text, at)):
                at = match.end()
                found.append(Piece(match[0], max(0, min(first, at) - match.start())))
            found += [Piece(part, 0) for part in pattern.findall(text, at)]
        return found

    return cut


def _split(matches: Matches, behavior: str, invert: bool = False) -> PreTokenizer:
    """Return a step that cuts a text where the matches are. invert: what does not match counts as the matches."""
    merge = _MERGES[behavior]

    def cut(piece: Piece) -> Iterable[Piece]:
        runs: list[tuple[int, int, bool]] = []
        at = 0
        for start, end in matches(piece.text):
            if at < start:
                runs.append((at, start, invert))
            runs.append((start, end, not invert))
            at = end
        if at < len(piece.text):
            runs.append((at, len(piece.text), invert))
        return [_slice(piece, start, end) for start, end in merge(runs)]

    return _each(cut)


Runs = list[tuple[int, int, bool]]  # start, end, whether it is a match


def _removed(runs: Runs) -> list[tuple[int, int]]:
    return [(start, end) for start, end, match in runs if not match]


def _isolated(runs: Runs) -> list[tuple[int, int]]:
    return [(start, end) for start, end, _ in runs]


def _merged_with_previous(runs: Runs) -> list[tuple[int, int]]:
    cuts: list[tuple[int, int]] = []
    before = False
    for start, end, match in runs:
        if match and not before and cuts:
            cuts[-1] = cuts[-1][0], end
        else:
            cuts.append((start, end))
        before = match
    return cuts


def _merged_with_next(runs: Runs) -> list[tuple[int, int]]:
    backwards = [(-end, -start, match) for start, end, match in reversed(runs)]
    return [(-end, -start) for start, end in reversed(_merged_with_previous(backwards))]


def _contiguous(runs: Runs) -> list[tuple[int, int]]:
    cuts: list[tuple[int, int]] = []
    before = False
    for start, end, match in runs:
        if match == before and cuts:
            cuts[-1] = cuts[-1][0], end
        else:
            cuts.append((start, end))
        before = match
    return cuts


_MERGES = dict(
    zip(_BEHAVIORS, (_removed, _isolated, _merged_with_previous, _merged_with_next, _contiguous), strict=True)
)

# ---- the types -----------------------------------------------------------------------------------------


def _bert(step: Step) -> PreTokenizer:
    marks = members(unicode_tables.PUNCTUATION)
    return _found(f"[{marks}]|[^{marks}{SPACE}]+")


def _byte_level(step: Step) -> PreTokenizer:
    prefix = step.get("add_prefix_space", bool)
    step.get("trim_offsets", bool)  # about offsets
    use_regex = step.get("use_regex", bool, True)
    cut = _split(_core.Regex(GPT2).matches, "Isolated") if use_regex else (lambda pieces: pieces)
    alphabet = dict(enumerate(byte_level.byte_alphabet()))

    def spell(text: str) -> str:
        return text.encode().decode("latin-1").translate(alphabet)

    def apply(pieces: list[Piece]) -> list[Piece]:
        if prefix:
            pieces = [piece if piece.text.startswith(" ") else _prepend(" ", piece) for piece in pieces if piece.text]
        return [
            Piece(spell(text), len(text[:first].encode()) if first > 1 or not text.isascii() else first)
            for text, first in cut(pieces)
            if text
        ]

    return apply


def _prepend(prefix: str, piece: Piece) -> Piece:
    return Piece(prefix + piece.text, piece.first + len(prefix) if piece.first else 0)


def _delimiter(step: Step) -> PreTokenizer:
    return _found(f"[^{re.escape(step.character('delimiter'))}]+")


def _metaspace(step: Step) -> PreTokenizer:
    mark = step.character("replacement")
    scheme = step.choice("prepend_scheme", ("always", "first", "never"), "always")
    step.get("str_rep", str, None)  # the same character in older files
    if step.get("add_prefix_space", bool, None) is False and scheme != "never":
        raise step.fail("add_prefix_space", f"true, or none, beside prepend_scheme {scheme}", False)
    escaped = re.escape(mark)
    cut = _found(f"{escaped}[^{escaped}]*|[^{escaped}]+") if step.get("split", bool, True) else (lambda pieces: pieces)

    def mark_spaces(piece: Piece) -> Piece:
        piece = Piece(piece.text.replace(" ", mark), piece.first)
        wanted = scheme == "always" or (scheme == "first" and piece.first)
        return _prepend(mark, piece) if wanted and not piece.text.startswith(mark) else piece

    return lambda pieces: cut([mark_spaces(piece) for piece in pieces if piece.text])


def _whitespace(step: Step) -> PreTokenizer:
    word = members(unicode_tables.WORD)
    return _found(f"[{word}]+|[^{word}{SPACE}]+")


def _whitespace_split(step: Step) -> PreTokenizer:
    return _found(f"[^{SPACE}]+")


def _sequence(step: Step) -> PreTokenizer:
    steps = step.sequence("pretokenizers", read_pre_tokenizer)

    def apply(pieces: list[Piece]) -> list[Piece]:
        for cut in steps:
            pieces = cut(pieces)
        return pieces

    return apply


def _split_step(step: Step) -> PreTokenizer:
    return _split(step.pattern("pattern"), step.choice("behavior", _BEHAVIORS), step.get("invert", bool))


def _punctuation(step: Step) -> PreTokenizer:
    marks = members(unicode_tables.PUNCTUATION)
    behavior = step.choice("behavior", _BEHAVIORS, "Isolated")
    if behavior == "Isolated":
        return _found(f"[{marks}]|[^{marks}]+")
    find = re.compile(f"[{marks}]").finditer
    return _split(lambda text: [match.span() for match in find(text)], behavior)


def _digits(step: Step) -> PreTokenizer:
    numbers = members(unicode_tables.NUMBERS)
    return _found(f"[{numbers}]{'' if step.get('individual_digits', bool) else '+'}|[^{numbers}]+")


def _unicode_scripts(step: Step) -> PreTokenizer:
    """Cut where the script changes. What any script takes stays with what comes before, and is lost where nothing
    does."""

    def cut(piece: Piece) -> Iterable[Piece]:
        starts: list[int] = []
        last = None
        for at, character in enumerate(piece.text):
            found = script(character)
            if found and found != last:
                starts.append(at)
                last = found
        ends = [*starts[1:], len(piece.text)]
        return [_slice(piece, start, end) for start, end in zip(starts, ends, strict=False)]

    return _each(cut)


def _fixed_length(step: Step) -> PreTokenizer:
    length = step.get("length", int, 5)
    if length < 1:
        raise step.fail("length", "a positive number", length)
    return _each(lambda piece: [_slice(piece, at, at + length) for at in range(0, len(piece.text), length)])


_KINDS: dict[str, Callable[[Step], PreTokenizer]] = {
    "BertPreTokenizer": _bert,
    "ByteLevel": _byte_level,
    "CharDelimiterSplit": _delimiter,
    "Digits": _digits,
    "FixedLength": _fixed_length,
    "Metaspace": _metaspace,
    "Punctuation": _punctuation,
    "Sequence": _sequence,
    "Split": _split_step,
    "UnicodeScripts": _unicode_scripts,
    "Whitespace": _whitespace,
    "WhitespaceSplit": _whitespace_split,
}
