"""Normalizers and pre-tokenizers of a tokenizer.json with many settings, texts for them, and SentencePiece's table of
replacements written byte by byte."""

import base64
import itertools
import random
import struct


def step(kind: str, **fields) -> dict:
    return {"type": kind, **fields}


def bert(clean=True, spread=True, strip=None, lower=True) -> dict:
    return step("BertNormalizer", clean_text=clean, handle_chinese_chars=spread, strip_accents=strip, lowercase=lower)


def charsmap(replacements: dict[str, str]) -> bytes:
    """Write a table: the trie's size in bytes, its units, and the replacements, each ended by a zero byte."""
    tree: dict = {}
    texts = b""
    for key, value in replacements.items():
        node = tree
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(texts)  # no key holds a zero byte
        texts += value.encode() + b"\0"
    units = {0: 0}
    stretches = itertools.count(1)  # of 256 units: one for the children of each node that has any
    ends = (place for stretch in stretches for place in range(stretch << 8, (stretch + 1) << 8))

    def place(node: dict, at: int, label: int) -> None:
        base = next(ends) if node.keys() == {0} else next(stretches) << 8
        units[at] = (at ^ base) << 10 | (0 in node) << 8 | label
        for child, below in node.items():
            if child == 0:
                units[base] = 1 << 31 | below
            else:
                place(below, base ^ child, child)

    place(tree, 0, 0)
    size = (max(units) | 0xFF) + 1
    array = [units.get(at, 1 << 31) for at in range(size)]
    return struct.pack(f"<I{size}I", 4 * size, *array) + texts


def precompiled(replacements: dict[str, str]) -> dict:
    return step("Precompiled", precompiled_charsmap=base64.b64encode(charsmap(replacements)).decode())


# Keys of one and of several characters, one that another begins with, and characters that join clusters.
REPLACEMENTS = {
    **{"e": "E", "e\u0301": "[e']", "a\u0323": "<a.>", "\u0301": "~", "\u0308": "", "\u00e9": "", "\u0915": "K"},
    **{"\u094d": "", "\u00a9": "(c)", "\u200d": "", "\u0600": "0", "\r\n": "CRLF", "\n": "N", "fi": "fI"},
    **{"\u1100": "g", "\u1161": "v", "\u11a8": "t", "\u304b\u3099": "\u304c", "\u4e00": "one two", " ": "_"},
    **{"\U0001f468": "man", "\ufe0f": "", "\u0e33": "am", "\u093f": "i"},
}

NORMALIZERS = [
    *(bert(*flags) for flags in [(), (False,), (True, False), (True, True, False), (False, False, True, False)]),
    *(step("Strip", strip_left=left, strip_right=right) for left in (True, False) for right in (True, False)),
    *map(step, ("StripAccents", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Nmt", "ByteLevel")),
    precompiled(REPLACEMENTS),
    step("Replace", pattern={"String": " "}, content="\u2581"),
    step("Replace", pattern={"String": "a."}, content="\\1"),
    step("Replace", pattern={"Regex": r"\s+"}, content=" "),
    step("Replace", pattern={"Regex": r"[^\p{L}\p{N}]"}, content=""),
    step("Prepend", prepend="\u2581"),
    step("Prepend", prepend="xy \u00e9"),
]

BEHAVIORS = ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous")
_PATTERNS = ({"String": " "}, {"String": "a."}, {"Regex": r"\s+"}, {"Regex": r"\p{L}+|\p{N}"})
PRE_TOKENIZERS = [
    *map(step, ("BertPreTokenizer", "Whitespace", "WhitespaceSplit", "UnicodeScripts", "FixedLength", "Punctuation")),
    *(
        step("ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=regex)
        for prefix in (True, False)
        for regex in (True, False)
    ),
    *(step("CharDelimiterSplit", delimiter=delimiter) for delimiter in "a -]^\n\\\u00e9"),
    *(
        step("Metaspace", replacement=mark, prepend_scheme=scheme, split=split)
        for mark in "\u2581_ ]"
        for scheme in ("always", "first", "never")
        for split in (True, False)
    ),
    *(step("Punctuation", behavior=behavior) for behavior in BEHAVIORS),
    *(step("Digits", individual_digits=individual) for individual in (True, False)),
    *(step("FixedLength", length=length) for length in (1, 3)),
    *(
        step("Split", pattern=pattern, behavior=behavior, invert=invert)
        for pattern in _PATTERNS
        for behavior in BEHAVIORS
        for invert in (True, False)
    ),
]


def _metaspace(**fields) -> dict:
    return step("Metaspace", replacement="\u2581", **fields)


def _split(regex: str, behavior: str = "Isolated", invert: bool = False) -> dict:
    return step("Split", pattern={"Regex": regex}, behavior=behavior, invert=invert)


def _bytes(prefix: bool = False, regex: bool = True) -> dict:
    return step("ByteLevel", add_prefix_space=prefix, trim_offsets=True, use_regex=regex)


def _normalizers(*steps) -> dict:
    return step("Sequence", normalizers=list(steps))


def _cuts(*steps) -> dict:
    return step("Sequence", pretokenizers=list(steps))


_QUOTES = [step("Replace", pattern={"String": mark}, content='"') for mark in ("``", "''")]
_ONE_SPACE = step("Replace", pattern={"Regex": " {2,}"}, content=" ")
_CLIP = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
# The normalizers and pre-tokenizers of models as their files have them, with REPLACEMENTS for SentencePiece's tables.
CHAINS = {
    "bert-base-uncased": (bert(), step("BertPreTokenizer")),
    "bert-base-cased": (bert(lower=False), step("BertPreTokenizer")),
    "bert-base-multilingual, distilbert": (bert(strip=False), step("BertPreTokenizer")),
    "xlm-roberta-base": (precompiled(REPLACEMENTS), _cuts(step("WhitespaceSplit"), _metaspace())),
    "t5-base": (precompiled(REPLACEMENTS), _cuts(step("WhitespaceSplit"), _metaspace(add_prefix_space=True))),
    "t5 without legacy": (precompiled(REPLACEMENTS), _metaspace(prepend_scheme="first", split=True)),
    "nllb-200, mbart-50": (_normalizers(precompiled(REPLACEMENTS), _ONE_SPACE), _metaspace(prepend_scheme="always")),
    "albert-base-v2": (
        _normalizers(
            *_QUOTES,
            *map(step, ("NFKD", "StripAccents", "Lowercase")),
            *(precompiled(REPLACEMENTS), _ONE_SPACE),
        ),
        _cuts(step("WhitespaceSplit"), _metaspace()),
    ),
    "deberta-v3-base": (
        _normalizers(step("Strip", strip_left=True, strip_right=True), precompiled(REPLACEMENTS), _ONE_SPACE),
        _metaspace(prepend_scheme="always"),
    ),
    "clip-vit-base-patch32": (
        _normalizers(step("NFC"), step("Replace", pattern={"Regex": r"\s+"}, content=" "), step("Lowercase")),
        _cuts(_split(_CLIP, "Removed", True), _bytes()),
    ),
    "falcon-7b": (
        None,
        _cuts(
            step("Punctuation", behavior="Contiguous"),
            _bytes(),
            step("Digits", individual_digits=False),
            _split("[0-9][0-9][0-9]"),
        ),
    ),
    "starcoder": (None, _cuts(step("Digits", individual_digits=True), _bytes())),
    "gemma-2b": (
        step("Replace", pattern={"String": " "}, content="\u2581"),
        step("Split", pattern={"String": " "}, behavior="MergedWithPrevious", invert=False),
    ),
    "roberta-base": (None, _bytes(prefix=True)),
    "wordlevel": (_normalizers(*map(step, ("NFD", "Lowercase", "StripAccents"))), step("Whitespace")),
    "esm2": (None, step("WhitespaceSplit")),
}

_WORDS = (
    *("ab", "c", " ", "  ", "\t", "\n", "\r\n", ".", "a.", "-", "_", "\u2581", "!?", "$", "hello", "World", "don't"),
    *("\u00e9", "e\u0301", "\u0301", "\u0323", "\u0308\u0301", "\u0345", "\u0344", "\u0f73", "\u0391\u03a3", "\u0130"),
    *("\u00df", "\u017f", "\u212b", "\ufb01", "\u2460", "\u337f", "\uff71\uff9e", "\ufdfa", "\u00b2", "\u00bd"),
    *("3.14", "\u0663", "\u2167", "\u24b6", "\u4e00\u4e8c", "\u304b\u3099", "\u30ab", "\u30fc", "\ud55c", "\uac00"),
    *("\u1100\u1161\u11a8", "\u1112\u1161", "\uac00\u11a8", "\u0600", "\u0600a", "\u0915\u094d\u0937", "\u0915\u093f"),
    *("\u0958", "\u0939\u093f\u0928\u094d\u0926\u0940", "\u0e01\u0e33", "\u05d1\u05bc", "\u0627\u0644", "\u0416"),
    *("\U0001f468\u200d\U0001f469\u200d\U0001f467", "\U0001f44d\U0001f3fd", "\U0001f1e9\U0001f1ea", "\U0001f1eb"),
    *("\u00a9\u200d", "\u00a9", "\u2764\ufe0f", "\u200b", "\u200c", "\u200d", "\u2028", "\u3000", "\u00a0", "\u0085"),
    *("\0", "\x01", "\x07", "\x7f", "\u009f", "\ufeff", "\ufffd", "\ud7ff", "\ue000", "\uffff", "\U0010ffff"),
    # Of newer versions of Unicode, and of none.
    *("\U0001fbf0", "\U0001ccd6", "\ua7cb", "\U00016ea0", "\u1acf", "\U00011b0a", "\U0001e030", "\u2e43", "\u0378"),
)
_BLOCKS = ((1, 0x300), (0x300, 0x370), (0x590, 0x700), (0x900, 0x1200), (0x1A00, 0x2600), (0x3000, 0x3100))
_BLOCKS += ((0xA000, 0xAC00), (0xFB00, 0x10000), (0x10000, 0x12000), (0x1D000, 0x20000), (0xE0000, 0xE0200))


def random_text(random: random.Random) -> str:
    parts = []
    for _ in range(random.choice((0, 1, 2, 3, 5, 8, 13, 25))):
        parts.append(random.choice(_WORDS) if random.random() < 0.8 else chr(random.randrange(*random.choice(_BLOCKS))))
    return "".join(parts)
