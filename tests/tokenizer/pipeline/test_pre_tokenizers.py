"""Pre-tokenizers, each with what Hugging Face's tokenizers 0.23.3 makes of a text; test_steps_peers.py compares more."""

from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.pre_tokenizers import read_pre_tokenizer
from support.pipeline_steps import step


def read(value):
    return read_pre_tokenizer(Reader(Path("tokenizer.json")), value, "pre_tokenizer")


def cut(value, text, first=True):
    return read(value).cut(text, first)


def sequence(*steps):
    return step("Sequence", pretokenizers=list(steps))


def split(behavior, invert):
    return step("Split", pattern={"String": "a"}, behavior=behavior, invert=invert)


FIRST = step("Metaspace", replacement="_", prepend_scheme="first")
BYTES = step("ByteLevel", add_prefix_space=True, trim_offsets=True, use_regex=False)


@pytest.mark.parametrize(
    ("pre_tokenizer", "text", "expected"),
    [
        (None, "a b", ["a b"]),
        (
            step("BertPreTokenizer"),
            "Hey, a.b  $1\u3000\u00abx\u00bb \u2e43",
            ["Hey", ",", "a", ".", "b", "$", "1", "\u00ab", "x", "\u00bb", "\u2e43"],
        ),
        (
            step("Whitespace"),
            "don't x_y\u0301 \u24b6\u00b2 --a\u200d\u3000\u0939\u093f",
            ["don", "'", "t", "x_y\u0301", "\u24b6", "\u00b2", "--", "a\u200d", "\u0939\u093f"],
        ),
        (step("WhitespaceSplit"), "  a,b\u00a0c\u0085\u2028d\u200be ", ["a,b", "c", "d\u200be"]),
        (
            step("UnicodeScripts"),
            "  .a b\u3042\u30a2\u30fc\u4e00 \u0391\u0301b,\u0431",
            [".", "a b", "\u3042\u30a2\u30fc\u4e00 ", "\u0391", "\u0301", "b", ",", "\u0431"],
        ),
        (step("UnicodeScripts"), "  ", []),
        (step("FixedLength"), "abcdefghijk", ["abcde", "fghij", "k"]),
        (step("FixedLength", length=2), "\u4e00\u4e8cx", ["\u4e00\u4e8c", "x"]),
        (step("Punctuation"), "a--b!c$", ["a", "-", "-", "b", "!", "c", "$"]),
        (step("Punctuation", behavior="Contiguous"), "a--b!c", ["a", "--", "b", "!", "c"]),
        (step("Punctuation", behavior="MergedWithPrevious"), "--a--b!c", ["-", "-", "a-", "-", "b!", "c"]),
        (step("Punctuation", behavior="MergedWithNext"), "a--b!c--", ["a", "-", "-b", "!c", "-", "-"]),
        (step("Punctuation", behavior="Removed"), "a--b!c", ["a", "b", "c"]),
        (
            step("ByteLevel", add_prefix_space=True, trim_offsets=True),
            "Hey you, \u00e9  12",
            ["\u0120Hey", "\u0120you", ",", "\u0120\u00c3\u00a9", "\u0120", "\u012012"],
        ),
        (step("ByteLevel", add_prefix_space=False, trim_offsets=True, use_regex=False), "Hey you", ["Hey\u0120you"]),
        (step("CharDelimiterSplit", delimiter="-"), "--a-b", ["a", "b"]),
        (step("Metaspace", replacement="_"), "Hey  you _x ", ["_Hey", "_", "_you", "_", "_x", "_"]),
        (step("Metaspace", replacement="_", prepend_scheme="never", split=False), " Hey you", ["_Hey_you"]),
        ({**FIRST, "add_prefix_space": True, "str_rep": "_"}, "Hey you", ["_Hey", "_you"]),
        (step("Digits", individual_digits=True), "a12\u00bd\u2167b", ["a", "1", "2", "\u00bd", "\u2167", "b"]),
        (step("Digits", individual_digits=False), "a12\u00bdb3", ["a", "12\u00bd", "b", "3"]),
        (split("Removed", False), "aabbac", ["bb", "c"]),
        (split("Removed", True), "aabbac", ["a", "a", "a"]),
        (split("Isolated", False), "aabbac", ["a", "a", "bb", "a", "c"]),
        (split("Isolated", True), "aabbac", ["a", "a", "bb", "a", "c"]),
        (split("MergedWithPrevious", False), "aabbac", ["a", "a", "bba", "c"]),
        (split("MergedWithPrevious", True), "aabbac", ["a", "abb", "ac"]),
        (split("MergedWithNext", False), "aabbac", ["a", "abb", "ac"]),
        (split("MergedWithNext", True), "aabbac", ["a", "a", "bba", "c"]),
        (split("Contiguous", False), "aabbac", ["aa", "bb", "a", "c"]),
        (split("Contiguous", True), "aabbac", ["aa", "bb", "a", "c"]),
        (
            sequence(
                step("Split", pattern={"Regex": r"\d{1,3}"}, behavior="Isolated", invert=False), step("Punctuation")
            ),
            "a1234.b",
            ["a", "123", "4", ".", "b"],
        ),
        # What stands at the beginning of the text, where `first` puts a mark.
        (sequence(step("WhitespaceSplit"), FIRST), "a b", ["_a", "b"]),
        (sequence(step("WhitespaceSplit"), FIRST), " a b", ["a", "b"]),
        (sequence(BYTES, step("FixedLength", length=1), FIRST), "\u00e9b", ["_\u0120", "_\u00c3", "_\u00a9", "b"]),
    ],
)
def test_as_recorded(pre_tokenizer, text, expected):
    assert cut(pre_tokenizer, text) == expected
    assert cut(pre_tokenizer, "") == [""] * (pre_tokenizer is None)


def test_first_is_told_where_a_piece_begins():
    assert cut(FIRST, "a b", first=False) == ["a", "_b"]
    assert cut(sequence(step("FixedLength", length=1), FIRST), "abc", first=2) == ["_a", "_b", "c"]


@pytest.mark.parametrize(
    ("pre_tokenizer", "message"),
    [
        ("Whitespace", r"pre_tokenizer: expected an object"),
        (step("CharDelimiter"), r"pre_tokenizer\.type: expected .*CharDelimiterSplit.*UnicodeScripts"),
        (step("Whitespace", behavior="Removed"), r"pre_tokenizer\.behavior: expected no other fields than type"),
        (step("CharDelimiterSplit", delimiter="ab"), r"pre_tokenizer\.delimiter: expected one character"),
        (step("Metaspace"), r"pre_tokenizer\.replacement: expected a string"),
        (step("Metaspace", replacement=""), r"pre_tokenizer\.replacement: expected one character"),
        ({**FIRST, "prepend_scheme": "First"}, r"pre_tokenizer\.prepend_scheme: expected always, first or never"),
        ({**FIRST, "add_prefix_space": False}, r"pre_tokenizer\.add_prefix_space: .*prepend_scheme first"),
        (step("ByteLevel", trim_offsets=True), r"pre_tokenizer\.add_prefix_space: expected true or false"),
        (step("Digits"), r"pre_tokenizer\.individual_digits: expected true or false"),
        (step("Digits", individual_digits=1), r"pre_tokenizer\.individual_digits: expected true or false"),
        (step("FixedLength", length=0), r"pre_tokenizer\.length: expected a positive number"),
        (step("FixedLength", length=2.0), r"pre_tokenizer\.length: expected an integer"),
        (step("Punctuation", behavior="removed"), r"pre_tokenizer\.behavior: expected Removed, .* or Contiguous"),
        (
            step("Split", pattern={"String": "a"}, behavior="Removed"),
            r"pre_tokenizer\.invert: expected true or false",
        ),
        (split("isolated", False), r"pre_tokenizer\.behavior: expected Removed"),
        (
            step("Split", pattern={"Regex": r"(a)\1"}, behavior="Removed", invert=False),
            r"pre_tokenizer\.pattern\.Regex",
        ),
        (step("CharDelimiterSplit", delimiter="\ud800"), r"pre_tokenizer\.delimiter: expected text that has"),
        (sequence(step("Digits")), r"pre_tokenizer\.pretokenizers\[0\]\.individual_digits"),
    ],
)
def test_refuses(pre_tokenizer, message):
    with pytest.raises(ValueError, match=message):
        read(pre_tokenizer)
