"""The pre-tokenizers of a tokenizer.json: how a text is cut into the pieces that the model takes one by one."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from llmcore import _core
from llmcore.tokenizer.formats import byte_level
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.patterns import GPT2
from llmcore.tokenizer.pipeline import unicode_tables
from llmcore.tokenizer.pipeline.characters import WORD, literals, script
from llmcore.tokenizer.pipeline.steps import Matches, Step, read_step


class Piece(NamedTuple):
    """A part of a text. first: how many of its leading characters stand where the original text begins: 0 for a piece
    from further on, True or 1 for one that begins there, more if steps before have put something in front."""

    text: str
    first: int


# Pieces, and `first` of those from the beginning on that have any.
Pieces = tuple[list[str], list[int]]
Cut = Callable[[Pieces], Pieces]


class PreTokenizer:
    """Cuts pieces into smaller ones. Empty ones are left out."""

    def __init__(self, cut: Cut):
        self._cut = cut

    def cut(self, text: str, first: int) -> list[str]:
        """Return the pieces of a text; first: as in `Piece`."""
        return self._cut(([text], [first] if first else []))[0]


_BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")


def read_pre_tokenizer(read: Reader, value: dict | None, where: str = "pre_tokenizer") -> PreTokenizer:
    """Read the object in a tokenizer.json; null cuts nothing."""
    return PreTokenizer((lambda pieces: pieces) if value is None else _read(read, value, where))


def _read(read: Reader, value: dict, where: str) -> Cut:
    return read_step(read, value, where, _KINDS)


def _each(find: Callable[[str], list[str]], leading: Callable[[str, int], list[tuple[int, int]]]) -> Cut:
    """Return a step that keeps parts of every piece. leading: where those begin and end that begin before a place."""

    def cut(pieces: Pieces) -> Pieces:
        texts, firsts = pieces
        found = [part for text in texts for part in find(text)]
        left = [
            min(first, end) - start
            for text, first in zip(texts, firsts, strict=False)
            for start, end in leading(text, first)
        ]
        return found, left

    return cut


def _at(spans: Matches) -> Cut:
    """Return a step that keeps what is between these places of a piece, unless that is nothing."""

    def cut(pieces: Pieces) -> Pieces:
        texts, firsts = pieces
        found: list[str] = []
        left: list[int] = []
        for number, text in enumerate(texts):
            places = [(start, end) for start, end in spans(text) if start < end]
            found += [text[start:end] for start, end in places]
            if number < len(firsts):
                first = firsts[number]
                left += [min(first, end) - start for start, end in places if start < first]
        return found, left

    return cut


def _found(expression: str) -> Cut:
    """Return a step that keeps what an expression matches."""
    regex = _core.Regex(expression)
    return _each(regex.find_all, regex.matches)


def _split(matches: Matches, behavior: str, invert: bool = False) -> Cut:
    """Return a step that cuts a text where the matches are. invert: what does not match counts as the matches."""
    merge = _MERGES[behavior]

    def spans(text: str) -> list[tuple[int, int]]:
        runs: list[tuple[int, int, bool]] = []
        at = 0
        for start, end in matches(text):
            if at < start:
                runs.append((at, start, invert))
            runs.append((start, end, not invert))
            at = end
        if at < len(text):
            runs.append((at, len(text), invert))
        return merge(runs)

    return _at(spans)


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


def _bert(step: Step) -> Cut:
    marks = literals(unicode_tables.PUNCTUATION)
    return _found(rf"[{marks}]|[^{marks}\s]+")


def _byte_level(step: Step) -> Cut:
    prefix = step.get("add_prefix_space", bool)
    step.get("trim_offsets", bool)  # about offsets
    cut = _found(GPT2) if step.get("use_regex", bool, True) else None
    alphabet = dict(enumerate(byte_level.byte_alphabet()))

    def apply(pieces: Pieces) -> Pieces:
        texts, firsts = _after_space(pieces) if prefix else pieces
        if cut:
            texts, firsts = cut((texts, firsts))
        lengths = [len(text[:first].encode()) for text, first in zip(texts, firsts, strict=False)]
        return [text.encode().decode("latin-1").translate(alphabet) for text in texts if text], lengths

    return apply


def _after_space(pieces: Pieces) -> Pieces:
    """Put a space before the pieces that have none."""
    texts, firsts = pieces
    lacking = [bool(text) and text[0] != " " for text in texts]
    texts = [" " + text if lacks else text for text, lacks in zip(texts, lacking, strict=True)]
    return texts, [first + lacks for first, lacks in zip(firsts, lacking, strict=False)]


def _delimiter(step: Step) -> Cut:
    delimiter = step.character("delimiter")

    def leading(text: str, before: int) -> list[tuple[int, int]]:
        ends = [at for at, character in enumerate(text) if character == delimiter]
        starts = [0, *(end + 1 for end in ends)]
        return [(start, end) for start, end in zip(starts, [*ends, len(text)], strict=True) if start < min(before, end)]

    return _each(lambda text: list(filter(None, text.split(delimiter))), leading)


def _metaspace(step: Step) -> Cut:
    mark = step.character("replacement")
    scheme = step.choice("prepend_scheme", ("always", "first", "never"), "always")
    step.get("str_rep", str, None)  # the same character in older files
    if step.get("add_prefix_space", bool, None) is False and scheme != "never":
        raise step.fail("add_prefix_space", f"true, or none, beside prepend_scheme {scheme}", False)
    split = step.get("split", bool, True)
    escaped = re.escape(mark)
    words = re.compile(f"{escaped}[^{escaped}]*|[^{escaped}]+")

    def marked(text: str, wanted: bool) -> str:
        if " " in text:
            text = text.replace(" ", mark)
        return mark + text if wanted and text[0] != mark else text

    def apply(pieces: Pieces) -> Pieces:
        texts, firsts = pieces
        found: list[str] = []
        left: list[int] = []
        for number, text in enumerate(filter(None, texts)):
            at_start = number < len(firsts)
            text = marked(before := text, scheme == "always" or (scheme == "first" and at_start))
            if at_start:
                first = firsts[number] + len(text) - len(before)
                for word in words.finditer(text) if split else ():
                    if word.start() < first:
                        left.append(min(first, word.end()) - word.start())
                if not split:
                    left.append(first)
            if split and text.find(mark, 1) >= 0:
                found += words.findall(text)
            else:
                found.append(text)
        return found, left

    return apply


def _whitespace(step: Step) -> Cut:
    return _found(rf"[{WORD}]+|[^{WORD}\s]+")


def _whitespace_split(step: Step) -> Cut:
    return _found(r"\S+")


def _sequence(step: Step) -> Cut:
    steps = step.sequence("pretokenizers", _read)

    def apply(pieces: Pieces) -> Pieces:
        for cut in steps:
            pieces = cut(pieces)
        return pieces

    return apply


def _split_step(step: Step) -> Cut:
    return _split(step.pattern("pattern"), step.choice("behavior", _BEHAVIORS), step.get("invert", bool))


def _punctuation(step: Step) -> Cut:
    marks = literals(unicode_tables.PUNCTUATION)
    behavior = step.choice("behavior", _BEHAVIORS, "Isolated")
    if behavior == "Isolated":
        return _found(f"[{marks}]|[^{marks}]+")
    return _split(_core.Regex(f"[{marks}]").matches, behavior)


def _digits(step: Step) -> Cut:
    numbers = literals(unicode_tables.NUMBERS)
    return _found(f"[{numbers}]{'' if step.get('individual_digits', bool) else '+'}|[^{numbers}]+")


def _unicode_scripts(step: Step) -> Cut:
    """Cut where the script changes. What any script takes stays with what comes before, and is lost where nothing
    does."""

    def spans(text: str) -> list[tuple[int, int]]:
        starts: list[int] = []
        last = None
        for at, character in enumerate(text):
            found = script(character)
            if found and found != last:
                starts.append(at)
                last = found
        return list(zip(starts, [*starts[1:], len(text)], strict=False))

    return _at(spans)


def _fixed_length(step: Step) -> Cut:
    length = step.get("length", int, 5)
    if length < 1:
        raise step.fail("length", "a positive number", length)
    return _at(lambda text: [(at, min(at + length, len(text))) for at in range(0, len(text), length)])


_KINDS: dict[str, Callable[[Step], Cut]] = {
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
