"""A readable twin of the tokenizer: slow, per character, and written from the definitions.

Splitting runs the published regular expressions on a small backtracking matcher; training counts every pair
anew for every merge; encoding searches for the lowest merge again and again. Character classes are the
interpreter's own `unicodedata`, so texts must keep to characters that it knows (see `KNOWN`).
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise

from hypothesis import strategies as st

# A matcher yields the ends of its matches from a start, in the order in which a backtracking engine tries them.
Matcher = Callable[[str, int], Iterator[int]]

WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"


def category(*prefixes: str) -> Callable[[str], bool]:
    return lambda c: unicodedata.category(c).startswith(prefixes)


letter, number, space = category("L"), category("N"), WHITE_SPACE.__contains__


def one(accepts: Callable[[str], bool]) -> Matcher:
    def match(text: str, start: int) -> Iterator[int]:
        if start < len(text) and accepts(text[start]):
            yield start + 1

    return match


def chars(allowed: str) -> Matcher:
    return one(lambda c: c in allowed)


def times(accepts: Callable[[str], bool], least: int, most: int | None = None) -> Matcher:
    """Greedy: the longest run first, then one fewer, and so on."""

    def match(text: str, start: int) -> Iterator[int]:
        end = start
        while end < len(text) and accepts(text[end]) and (most is None or end - start < most):
            end += 1
        yield from range(end, start + least - 1, -1)

    return match


def optional(matcher: Matcher) -> Matcher:
    def match(text: str, start: int) -> Iterator[int]:
        yield from matcher(text, start)
        yield start

    return match


def sequence(*matchers: Matcher) -> Matcher:
    def match(text: str, start: int) -> Iterator[int]:
        if not matchers:
            yield start
            return
        for middle in matchers[0](text, start):
            yield from sequence(*matchers[1:])(text, middle)

    return match


def choice(*matchers: Matcher) -> Matcher:
    def match(text: str, start: int) -> Iterator[int]:
        for matcher in matchers:
            yield from matcher(text, start)

    return match


def not_before_nonspace(text: str, start: int) -> Iterator[int]:
    """(?!\\S)"""
    if start == len(text) or space(text[start]):
        yield start


def at_end(text: str, start: int) -> Iterator[int]:
    if start == len(text):
        yield start


def contraction(fold: bool) -> Matcher:
    def letters(word: str) -> list[Matcher]:
        return [chars(c + c.upper() + ("ſ" if c == "s" else "") if fold else c) for c in word]

    return sequence(chars("'"), choice(*(sequence(*letters(word)) for word in ("s", "t", "re", "ve", "m", "ll", "d"))))


def other(c: str) -> bool:
    """[^\\s\\p{L}\\p{N}]"""
    return not (space(c) or letter(c) or number(c))


def prefix(c: str) -> bool:
    """[^\\r\\n\\p{L}\\p{N}]"""
    return not (c in "\r\n" or letter(c) or number(c))


SPACE, NEWLINES = chars(" "), "\r\n".__contains__
LINES = choice(
    sequence(times(space, 0), times(NEWLINES, 1)),
    sequence(times(space, 1), not_before_nonspace),
    times(space, 1),
)


def gpt4_like(digits: int, spaces: Matcher, word: Callable[[str], bool] = letter) -> Matcher:
    return choice(
        contraction(fold=True),
        sequence(optional(one(prefix)), times(word, 1)),
        times(number, 1, digits),
        sequence(optional(SPACE), times(lambda c: other(c) and not word(c), 1), times(NEWLINES, 0)),
        spaces,
    )


def deepseek() -> Matcher:
    """The third stage; split_text does the first two."""
    symbol, word = category("P", "S"), category("L", "M")
    return choice(
        sequence(chars(string.punctuation), times(string.ascii_letters.__contains__, 1)),
        sequence(optional(one(lambda c: not (c in "\r\n" or letter(c) or symbol(c)))), times(word, 1)),
        sequence(optional(SPACE), times(symbol, 1), times(NEWLINES, 0)),
        LINES,
    )


def o200k() -> Matcher:
    upper, lower = category("Lu", "Lt", "Lm", "Lo", "M"), category("Ll", "Lm", "Lo", "M")
    suffix = optional(contraction(fold=True))
    return choice(
        sequence(optional(one(prefix)), times(upper, 0), times(lower, 1), suffix),
        sequence(optional(one(prefix)), times(upper, 1), times(lower, 0), suffix),
        times(number, 1, 3),
        sequence(optional(SPACE), times(other, 1), times("\r\n/".__contains__, 0)),
        LINES,
    )


GPT2 = choice(
    contraction(fold=False),
    sequence(optional(SPACE), times(letter, 1)),
    sequence(optional(SPACE), times(number, 1)),
    sequence(optional(SPACE), times(other, 1)),
    sequence(times(space, 1), not_before_nonspace),
    times(space, 1),
)
PATTERNS = {
    "gpt2": GPT2,
    "cl100k": gpt4_like(
        3,
        choice(
            sequence(times(space, 1), at_end),
            sequence(times(space, 0), one(NEWLINES)),
            sequence(times(space, 1), not_before_nonspace),
            one(space),
        ),
    ),
    "llama3": gpt4_like(3, LINES),
    "qwen2": gpt4_like(1, LINES),
    "qwen35": gpt4_like(1, LINES, category("L", "M")),
    "nanochat": gpt4_like(2, LINES),
    "deepseek": deepseek(),
    "o200k": o200k(),
}


def isolate(matcher: Matcher, text: str) -> list[str]:
    """The matches and what lies between two of them."""
    pieces, start, at = [], 0, 0
    while at < len(text):
        end = next(matcher(text, at), None)
        if end is None:
            at += 1
            continue
        pieces += [text[start:at], text[at:end]]
        start = at = end
    return [piece for piece in [*pieces, text[start:]] if piece]


def cjk(c: str) -> bool:
    return "一" <= c <= "龥" or "\u3040" <= c <= "\u30ff"


def split_text(pattern: str, text: str) -> list[str]:
    stages = {
        "smollm": [one(number), GPT2],
        "deepseek": [times(number, 1, 3), times(cjk, 1), PATTERNS["deepseek"]],
    }.get(pattern) or [PATTERNS[pattern]]
    pieces = [text]
    for stage in stages:
        pieces = [part for piece in pieces for part in isolate(stage, piece)]
    return pieces


def split(pattern: str, data: bytes) -> list[bytes]:
    """Bytes that are not UTF-8 become lone surrogates, which are in no class, one for each byte."""
    text = data.decode("utf-8", "surrogateescape")
    return [piece.encode("utf-8", "surrogateescape") for piece in split_text(pattern, text)]


def merge_pair(ids: list[int], pair: tuple[int, int], new: int) -> list[int]:
    """Replaces every occurrence, from the left."""
    merged, i = [], 0
    while i < len(ids):
        if tuple(ids[i : i + 2]) == pair:
            merged.append(new)
            i += 2
        else:
            merged.append(ids[i])
            i += 1
    return merged


def train(texts: Iterable[bytes], num_tokens: int, pattern: str) -> tuple[list[bytes], list[tuple[int, int]]]:
    """The tokens and merges: the most frequent pair first, then the smaller one."""
    words = Counter(piece for text in texts for piece in split(pattern, text))
    pieces = [(list(word), count) for word, count in words.items()]
    tokens, merges = [bytes([byte]) for byte in range(256)], []
    while len(tokens) < num_tokens:
        counts: Counter[tuple[int, int]] = Counter()
        for ids, count in pieces:
            for pair in pairwise(ids):
                counts[pair] += count
        if not counts:
            break
        best = min(counts, key=lambda pair: (-counts[pair], pair))
        spelled = tokens[best[0]] + tokens[best[1]]
        if spelled not in tokens:
            tokens.append(spelled)
        merges.append(best)
        pieces = [(merge_pair(ids, best, tokens.index(spelled)), count) for ids, count in pieces]
    return tokens, merges


def merge_piece(ids: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Applies merges one at a time, lowest rank first and leftmost first; ranks: pair -> (rank, id)."""
    while True:
        found = [(*ranks[pair], i) for i, pair in enumerate(pairwise(ids)) if pair in ranks]
        if not found:
            return ids
        rank = min(found)[0]
        _, new, i = min((f for f in found if f[0] == rank), key=lambda f: f[2])
        ids = [*ids[:i], new, *ids[i + 2 :]]


class Encoder:
    """Encodes with a merge list, or, where merges is None, by tiktoken's rule: what two neighbours spell,
    lowest id first, pieces that are tokens before all."""

    def __init__(self, tokens: list[bytes], merges: list[tuple[int, int]] | None, pattern: str):
        self.pattern = pattern
        self.id_of = {token: id for id, token in enumerate(tokens) if token}
        self.whole_piece_first = merges is None
        if merges is None:
            cuts = ((token[:i], token[i:], id) for token, id in self.id_of.items() for i in range(1, len(token)))
            self.ranks = {
                (self.id_of[a], self.id_of[b]): (id, id) for a, b, id in cuts if a in self.id_of and b in self.id_of
            }
        else:
            self.ranks = {
                pair: (rank, self.id_of[tokens[pair[0]] + tokens[pair[1]]]) for rank, pair in enumerate(merges)
            }

    def encode(self, data: bytes) -> list[int]:
        ids: list[int] = []
        for piece in split(self.pattern, data):
            if self.whole_piece_first and piece in self.id_of:
                ids.append(self.id_of[piece])
            else:
                ids += merge_piece([self.id_of[bytes([byte])] for byte in piece], self.ranks)
        return ids


# Characters whose category the interpreter's Unicode version knows; surrogates have no UTF-8.
KNOWN = st.characters(exclude_categories=("Cn", "Cs"))
# One or more of everything that a pattern looks at: classes, cases, contractions, line ends, odd spaces.
TRICKY = st.sampled_from(
    [*" \t\n\r\v'/!_-.sSſtTmdDlLreEvVxX017²½٣中ªʰǅéÉßЖ\u0301\x85\xa0\u2028\u3000\x1c\ufffd😀", "'ll", "'RE"]
)
TEXTS = st.lists(st.one_of(TRICKY, TRICKY, KNOWN), max_size=40).map("".join)


def is_known(data: bytes) -> bool:
    return all(unicodedata.category(c) != "Cn" for c in data.decode("utf-8", "surrogateescape"))


# Bytes: any at all, or text that was damaged.
DATA = st.one_of(
    st.binary(max_size=60),
    st.builds(
        lambda text, i, junk: text[:i] + junk + text[i:],
        TEXTS.map(str.encode),
        st.integers(0, 40),
        st.binary(max_size=3),
    ),
).filter(is_known)


class SentencePieceEncoder:
    """SentencePiece's BPE on strings: characters merge, the best pair first and the leftmost among equals."""

    def __init__(self, vocabulary):
        self.v = v = vocabulary
        special = {v.unknown, *v.special_tokens.values(), *v.byte_tokens}
        self.id_of = {token.decode(): id for id, token in enumerate(v.tokens) if token and id not in special}
        texts = [token.decode() if id not in v.byte_tokens else "" for id, token in enumerate(v.tokens)]
        self.ranks = {(texts[a], texts[b]): rank for rank, (a, b) in enumerate(v.merges or [])}

    def rank(self, left: str, right: str) -> float | None:
        if self.v.merges is not None:
            return self.ranks.get((left, right))
        id = self.id_of.get(left + right)
        return None if id is None else -self.v.scores[id]

    def encode(self, data: bytes) -> list[int]:
        """The ids of a text without special and added tokens."""
        text = data.decode("utf-8", "surrogateescape").replace("\u2581", " ")
        if text and self.v.prefix != "never" and not (self.v.prefix_unless_space and text[0] == " "):
            text = " " + text
        ids: list[int] = []
        while text:
            starts = {s: text.find(s) for s in self.v.symbols if s in text}
            symbol = min(starts, key=lambda s: (starts[s], -len(s)), default=None)
            stretch = text if symbol is None else text[: starts[symbol]]
            pieces = re.findall(" ?[^ ]+| ", stretch) if self.v.split_at_spaces else [stretch]
            for piece in pieces:
                found = list(self.encode_piece(piece))
                for i, id in enumerate(found):
                    if not (i and id == found[i - 1] == self.v.unknown and self.v.fuse_unknown):
                        ids.append(id)
            if symbol is None:
                break
            ids.append(self.v.symbols[symbol])
            text = text[starts[symbol] + len(symbol) :]
        return ids

    def encode_piece(self, piece: str) -> Iterator[int]:
        parts = list(piece)
        while True:
            ranked = [(self.rank(*pair), i) for i, pair in enumerate(pairwise(parts))]
            best = min(((rank, i) for rank, i in ranked if rank is not None), default=None)
            if best is None:
                break
            i = best[1]
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        for part in parts:
            if part in self.id_of:
                yield self.id_of[part]
            elif self.v.byte_tokens:
                spelled = part.replace(" ", "\u2581").encode("utf-8", "surrogateescape")
                yield from (self.v.byte_tokens[byte] for byte in spelled)
            else:
                yield self.v.unknown
