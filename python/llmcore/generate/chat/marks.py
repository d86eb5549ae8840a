"""Marks: how the control tokens that a chat template writes are told from those that anybody else spells.

A character of a control token has a twin, a private-use character of Unicode's last plane. In a template's own literals, the
characters of control tokens are replaced by their twins before it is compiled; in what comes from outside, twins are
replaced by U+FFFD. So whatever the template joins, trims, repeats or changes the case of, a control token in its result is
the template's exactly if it is spelled in twins; all else that looks like one is text. Because outside text stays as it is, a
template can look into it as ever.
"""

from __future__ import annotations

import bisect
import functools
import re
import weakref
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from llmcore.errors import Error
from llmcore.tokenizer import Tokenizer

END = "\U0010fffd"  # ends a message that is to be continued
BEGINS, ENDS = "\U0010fffb", "\U0010fffc"  # of what a template says the model writes
_FIRST, _LAST = 0x100000, 0x10FFFA  # where twins are
_FEW = 100  # texts that an expression finds faster
_LONGEST = 256  # characters of a control token that a template may put together from pieces
# What messages may contribute to a control token that a template puts together: '<|' + message.role + '|>'.
_ROLES = (
    *("system", "developer", "user", "human", "assistant", "model", "bot", "tool", "tools", "function", "ipython"),
    *("observation", "environment", "context", "document", "documents"),
)
_WHITE_SPACE = "\t\n\x0b\x0c\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
_BEFORE, _AFTER = re.compile(f"[{_WHITE_SPACE}]+\\Z"), re.compile(f"\\A[{_WHITE_SPACE}]+")


class Marks:
    """The twins for a tokenizer's control tokens, {text: id}. `words`: texts in a template that may stand in the middle of a
    control token, which it puts together."""

    def __init__(self, specials: Mapping[str, int], words: Iterable[str] = ()):
        self.specials = dict(specials)
        spelled = "".join(self.specials)
        characters = sorted({*spelled, *spelled.lower(), *spelled.upper()})
        if not any(map(str.isspace, self.specials)):
            characters = [c for c in characters if not c.isspace()]  # so that templates can trim it
        if len(characters) > _LAST - _FIRST:
            raise Error("chat", expected=f"at most {_LAST - _FIRST} characters in control tokens", got=len(characters))
        lowest = _LAST + 1 - len(characters)
        self._twins = {ord(c): lowest + i for i, c in enumerate(characters)}
        self._plain = {twin: c for c, twin in self._twins.items()}
        self._twin = re.compile(f"[{chr(lowest)}-{END}]")
        self._run = re.compile(f"[{chr(lowest)}-{END}]+")
        self._ids = {text.translate(self._twins): id for text, id in self.specials.items()}
        inner = "\n".join(text[1:-1] for text in self.specials)
        cases = (case for w in _ROLES for case in (w, w.upper(), w.capitalize()))
        for word in {w for w in (*cases, *words) if w in inner}:
            for text, id in self.specials.items():
                for found in re.finditer(re.escape(word), text[1:-1]):
                    start, end = found.start() + 1, found.end() + 1
                    spelled = text[:start].translate(self._twins) + word + text[end:].translate(self._twins)
                    self._ids.setdefault(spelled, id)
        self._written = _Spellings(self._ids)
        self._found_ids: frozenset[int] | None = None

    def with_words(self, words: Iterable[str]) -> Marks:
        """Return marks for a template that has these literals."""
        inner = "\n".join(text[1:-1] for text in self.specials)
        used = {w for w in words if len(w) > 1 and w in inner and any(map(str.isalnum, w))}
        return Marks(self.specials, used) if used else self

    @functools.cached_property
    def _spelling(self) -> _Spellings:
        return _Spellings(self.specials)

    @functools.cached_property
    def _lower(self) -> tuple[_Spellings, list[str], list[str]]:
        """Control tokens in lower case, and sorted by how they begin and by how they end (reversed)."""
        texts = {text.lower() for text in self.specials if len(text.lower()) == len(text)}
        short = [text for text in texts if len(text) <= _LONGEST]
        return _Spellings(texts), sorted(short), sorted(text[::-1] for text in short)

    @functools.cached_property
    def telling(self) -> frozenset[str]:
        """The characters of which a text has one if it has a piece of a control token in twins."""
        words = "".join(text for text in self.specials if not _telling(text))
        return frozenset(words).union(c for c in map(chr, self._twins) if _telling(c))

    def spelled(self, text: str) -> str | None:
        """Return the first control token that a text spells, or None."""
        start, end = next(iter(self._spelling.spans(text)), (0, 0))
        return text[start:end] or None

    # ---- before rendering ----

    def literal(self, text: str, looked_for: bool = False) -> str:
        """Return a template's literal with twins in its control tokens, and in beginnings and ends of them at its edges, in
        upper and lower case: the template may change that. looked_for: the literal is compared with other text, so that
        only whole control tokens count."""
        text = self._twin.sub("\ufffd", text)
        if not self.specials or not text:
            return text
        if looked_for:
            spans = [(start, end) for start, end in self._spelling.spans(text) if _telling(text[start:end])]
        else:
            tokens, beginnings, ends = self._lower
            low = text.lower() if len(text.lower()) == len(text) else text
            spans = [*self._spelling.spans(text), *tokens.spans(low)]
            sizes = range(min(len(text), _LONGEST), 0, -1)
            spans += [(len(text) - n, len(text)) for n in sizes if _begins(beginnings, low[-n:])][:1]
            spans += [(0, n) for n in sizes if _begins(ends, low[n - 1 :: -1])][:1]
        for start, end in spans:
            text = text[:start] + text[start:end].translate(self._twins) + text[end:]
        return text

    def token(self, text: str) -> str:
        """Return the value of a variable that is a token, such as eos_token."""
        return text.translate(self._twins) if text in self.specials else self.clean(text)

    def clean(self, text: str) -> str:
        """Return text from outside, in which no twins can be."""
        return text if text.isascii() else self._twin.sub("\ufffd", text)

    # ---- while rendering ----

    def settled(self, value: Any) -> Any:
        """Return a text as others are compared with it: with twins only in whole control tokens."""
        if not isinstance(value, str) or value.isascii() or not self._twin.search(value):
            return value
        parts, last = [], 0
        for start, end, _ in self.tokens(value):
            if _telling(value[start:end].translate(self._plain)):
                parts += [self.plain(value[last:start]), value[start:end].translate(self._twins)]
                last = end
        return "".join([*parts, self.plain(value[last:])])

    def finding(self, text: str, looked_for: str) -> re.Pattern[str] | None:
        """Return what finds one text in another, a character with a twin or without, but whole control tokens as they are;
        None where there are no twins."""
        if text.isascii() or not looked_for or not self._twin.search(text):
            return None
        classes = (f"[{re.escape(c)}{chr(self._twins.get(ord(c), ord(c)))}]" for c in self.settled(looked_for))
        return re.compile("".join(classes))

    def keeping(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function of a text that changes single characters as one that changes those in twins, too."""

        def lifted(text: Any, *args: Any, **named: Any) -> Any:
            if not isinstance(text, str) or text.isascii() or not self._twin.search(text):
                return function(text, *args, **named)
            changed = function(self.plain(text), *args, **named)
            if len(changed) != len(text):
                return changed
            twins = self._twins
            pairs = zip(text, changed, strict=True)
            return "".join(chr(twins.get(ord(c), ord(c))) if ord(old) in self._plain else c for old, c in pairs)

        return lifted

    def plain(self, value: Any) -> Any:
        """Return a text without twins."""
        if not isinstance(value, str) or value.isascii():
            return value
        return self._run.sub(lambda run: run[0].translate(self._plain), value)

    def escaped(self, text: str) -> str:
        """Return JSON with escapes for what is not ASCII, but for twins."""
        return re.sub("[^\x00-\x7f]", lambda m: m[0] if self._twin.match(m[0]) else _escape(m[0]), text)

    # ---- after rendering ----

    def tokens(self, text: str) -> list[tuple[int, int, int]]:
        """Return where the template's control tokens are, and their ids: the leftmost first, the longest if several begin at
        one place."""
        return [(start, end, self._ids[text[start:end]]) for start, end in self._written.spans(text)]

    def whole(self, text: str) -> str:
        """Return a rendered text with all of each control token in twins, also where a template put it together."""
        parts, last = [], 0
        for start, end, _ in self.tokens(text):
            parts += [text[last:start], text[start:end].translate(self._twins)]
            last = end
        return "".join([*parts, text[last:]])

    def encode(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Return the ids of a rendered text: the template's control tokens are tokens, others are text."""
        spans = self.tokens(text)
        text = self.plain(text)
        if self._spelling.spans(text) == [(start, end) for start, end, _ in spans]:
            ids = tokenizer.encode(text, allowed_special="all")
            if sum(map(self._telling_ids(tokenizer).__contains__, ids)) <= len(spans):
                return ids
        ids = []
        before, last = "", 0
        for start, end, id in spans:
            ids += [*self._stretch(tokenizer, before, text[last:start], text[start:end]), id]
            before, last = text[start:end], end
        return ids + self._stretch(tokenizer, before, text[last:], "")

    def _stretch(self, tokenizer: Tokenizer, before: str, text: str, after: str) -> list[int]:
        """Return the ids of a text between two control tokens, or at the beginning or the end (""), with none in itself."""
        if not text:
            return []
        whole = before + text + after
        edges = [span for span in ((0, len(before)), (len(before + text), len(whole))) if span[0] < span[1]]
        if self._spelling.spans(whole) == edges:
            ids = tokenizer.encode(whole, allowed_special="all")
            ids = ids[len(before) > 0 : len(ids) - (len(after) > 0)]
            if self._telling_ids(tokenizer).isdisjoint(ids):
                return ids
        # What tokens take of the space beside them, and a space that the tokenizer puts only before a whole text, can be
        # seen where nothing is spelled.
        if before and tokenizer.encode(before + " ", allowed_special="all") == [self.specials[before]]:
            text = _AFTER.sub("", text)
        if after and tokenizer.encode(" " + after, allowed_special="all") == [self.specials[after]]:
            text = _BEFORE.sub("", text)
        if before and tokenizer.encode(before + "a", allowed_special="all")[1:] != tokenizer.encode_ordinary("a"):
            line, ids = tokenizer.encode_ordinary("\n"), self._ordinary(tokenizer, "\n" + text)
            if ids[: len(line)] == line:
                return ids[len(line) :]
        return self._ordinary(tokenizer, text)

    def _ordinary(self, tokenizer: Tokenizer, text: str) -> list[int]:
        """Return the ids of a text without control tokens: character by character where the tokenizer has them as words of
        its own, or where what it makes of other characters spells them."""
        ids = tokenizer.encode_ordinary(text)
        if self._telling_ids(tokenizer).isdisjoint(ids):
            return ids
        pieces, last = [], 0
        for start, end in self._spelling.spans(text):
            pieces += [text[last:start], *text[start:end]]
            last = end
        ids = [id for piece in [*pieces, text[last:]] for id in tokenizer.encode_ordinary(piece)]
        if self._telling_ids(tokenizer).isdisjoint(ids):
            return ids
        return [id for c in text for id in tokenizer.encode_ordinary(c)]

    def _telling_ids(self, tokenizer: Tokenizer) -> frozenset[int]:
        """Return the ids of control tokens, but for that of what is unknown, which is in any text."""
        if self._found_ids is None:
            try:
                unknown = tokenizer.encode_ordinary("\U0010abcd")
            except ValueError:  # nothing stands for what is unknown
                unknown = []
            self._found_ids = frozenset(self.specials.values()) - frozenset(unknown)
        return self._found_ids


class _Spellings:
    """Finds texts in others, the leftmost first, the longest where several begin: as an expression of alternatives does, but
    where there are many in a time that does not grow with their number."""

    def __init__(self, texts: Iterable[str]):
        self._texts = frozenset(texts)
        self._few: re.Pattern[str] | None = None
        if len(self._texts) <= _FEW:
            longest_first = sorted(self._texts, key=len, reverse=True)
            self._few = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
        self._lengths = sorted({len(text) for text in self._texts}, reverse=True)
        first = "".join(re.escape(c) for c in sorted({text[0] for text in self._texts}))
        self._first = re.compile(f"[{first}]" if first else "(?!)")

    def spans(self, text: str) -> list[tuple[int, int]]:
        if self._few is not None:
            return [found.span() for found in self._few.finditer(text)]
        found = []
        at = self._first.search(text)
        while at is not None:
            start = at.start()
            end = next((start + n for n in self._lengths if text[start : start + n] in self._texts), 0)
            if end:
                found.append((start, end))
            at = self._first.search(text, end or start + 1)
        return found


def _begins(texts: list[str], beginning: str) -> bool:
    """Whether one of these sorted texts begins so, and goes on; not for letters alone, with which any word may end."""
    i = bisect.bisect_right(texts, beginning)
    return i < len(texts) and texts[i].startswith(beginning) and _telling(beginning)


def marks_of(tokenizer: Tokenizer) -> Marks:
    """Return the marks for a tokenizer, always the same."""
    key = id(tokenizer)
    known = _known.get(key)
    if known is None or known[0]() is not tokenizer:
        known = (weakref.ref(tokenizer, lambda _: _known.pop(key, None)), Marks(tokenizer.special_tokens))
        _known[key] = known
    return known[1]


_known: dict[int, tuple[weakref.ref, Marks]] = {}
UNMARKED = Marks({})


def _telling(text: str) -> bool:
    """Whether there is a character in a text that is no letter, digit or space."""
    return any(not c.isalnum() and not c.isspace() for c in text)


def _escape(character: str) -> str:
    """Return JSON's escape for a character."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
