"""How text is cut into pieces, against the published expressions run by the twin."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from llmcore import _core
from llmcore.tokenizer import Tokenizer, patterns
from llmcore.tokenizer.patterns import NAMES
from support import plain_tokenizer


@given(st.sampled_from(NAMES), plain_tokenizer.DATA)
@example("cl100k", b"a \n  ")
@example("llama3", b"a \n  ")
@example("smollm", b"x  12   3 4's")
@example("o200k", "HTTPServer's ÉCOLEé a\u0301B\u0301 中A'LL don't//\n/".encode())
@example("gpt2", b"\xe2\x82 \xf0\x9f\x98 \xed\xa0\x80 \xc0\xaf \xf4\x90\x80\x80 'S's")
@example("cl100k", b"'\xc5\xbf '\xc5 '")
def test_split_agrees_with_the_expression(pattern, data):
    pieces = _core.split(pattern, data)
    assert pieces == plain_tokenizer.split(pattern, data)
    assert b"".join(pieces) == data


# As much as GGUF files with a tokenizer of the one pattern, under the name of the other, ask for.
@given(
    st.lists(
        st.sampled_from([*"aé中1 .'\n\r\t\u3000\u2028\x85", "'LL", "'\u017f", "  ", "\r\n", "!?"]), max_size=14
    ).map("".join)
)
@example("a \n  ")
@example("a\n\n \r\nb\n ")
def test_cl100k_is_llama3_but_for_line_breaks_in_the_blanks_at_the_end(text):
    same = _core.split("cl100k", text) == _core.split("llama3", text)
    assert same or set(text[len(text.rstrip()) :]) & set("\r\n")


# Runs about as long as the 64 bytes that are cut at a time, and what each pattern treats apart.
RUNS = st.builds(
    lambda unit, times: unit * times,
    st.sampled_from([*" \n\r\t'sSlLtvedaAzZ19!/(é中\u0301\xa0\u017f", "'ll", "n't", "aB", " (", "\n ", ";\n//", "12"]),
    st.one_of(st.integers(1, 5), st.integers(1, 70)),
)


@given(st.sampled_from(NAMES), st.lists(RUNS, max_size=30).map("".join))
def test_split_of_longer_texts_agrees_with_the_expression(pattern, text):
    assert _core.split(pattern, text) == plain_tokenizer.split(pattern, text.encode())


# What is cut apart at the end of 64 bytes: characters, contractions, runs of spaces, line ends, numbers, cased words.
ACROSS = [
    "é",
    "中国",
    "\U0001f600!",
    "don't",
    "'ll 're'S",
    "a'\u017f",
    "   x",
    " \n  \n y",
    "12345",
    "aB'sC",
    "!\r\n/",
    "\xa0 \u3000a",
]


@pytest.mark.parametrize("pattern", NAMES)
@pytest.mark.parametrize("filler", ["a", "b ", "1", "!", " "])
def test_split_at_every_offset_of_64_bytes(pattern, filler):
    for across in ACROSS:
        for offset in range(58, 66):
            text = (filler * offset)[:offset] + across + "z" * 3
            assert _core.split(pattern, text) == plain_tokenizer.split(pattern, text.encode()), (across, offset)


@pytest.mark.parametrize("pattern", NAMES)
@pytest.mark.parametrize("unit", ["a", "A", " ", "\n", " \n", "1", "!", "'s", "中", "\u0301", "aB", "\xa0", "!\n/"])
def test_long_runs_are_linear(pattern, unit):
    text = (unit * 300_000).encode()
    assert b"".join(_core.split(pattern, text)) == text


def test_classes_are_the_unicode_categories():
    """The tables are Unicode 16; the interpreter may be older, but categories of known characters do not
    change."""
    for code_point in range(0x110000):
        name = unicodedata.category(chr(code_point))
        if name == "Cn":
            continue
        expected = {"L": 1, "N": 2, "M": 8}.get(name[0], 0)
        expected |= {"Lu": 16, "Lt": 16, "Ll": 32}.get(name, 0) | 128 * (name[0] in "PS")
        expected |= 4 * (chr(code_point) in plain_tokenizer.WHITE_SPACE) | 64 * (code_point in (10, 13))
        assert _core.unicode_class(code_point) == expected, f"U+{code_point:04X} {name}"


def test_class_counts_are_those_of_unicode_16():
    classes = [_core.unicode_class(code_point) for code_point in range(0x110000)]
    assert [sum(1 for bits in classes if bits & bit) for bit in (1, 2, 4, 8)] == [141_028, 1_911, 25, 2_501]


# The patterns whose twin is not in the standard library, against the automaton of the published expressions, which is
# itself checked in test_regex.py.
EXPRESSIONS = {name: patterns.stages_of(name) for name in NAMES}


@given(
    st.sampled_from(NAMES), st.one_of(plain_tokenizer.DATA, st.lists(RUNS, max_size=20).map("".join).map(str.encode))
)
@example("deepseek", "ab12345 中文ゝ・x,don't\u3040\u200d\x00\x01y (a)\r\n\n ".encode())
@example("qwen35", "a\u0301b \u0301 !\u0301\n".encode())
def test_scanners_agree_with_the_automaton_of_their_expressions(pattern, data):
    assert _core.split(pattern, data) == _core.split(list(EXPRESSIONS[pattern]), data)


def test_unknown_pattern_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"gpt2, cl100k, .*, or a regular expression, got 'cl100k_base'"):
        Tokenizer.train(iter(["text"]), 300, pattern="cl100k_base")
