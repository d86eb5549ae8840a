"""Custom patterns: regular expressions as automata, against the standard library's backtracking engine."""

import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

import llmcore
from llmcore import _core
from llmcore.tokenizer import Tokenizer

# Expressions that both engines read, with every construct that ours has in common with `re`.
SETS = st.sampled_from(["a", "b", "é", " ", "[ab]", "[^ab]", "[a-c1]", ".", r"[\s\S]", r"[^\n]", r"\n", r"\x41", r"\."])
QUANTIFIERS = st.sampled_from(["", "", "", "?", "*", "+", "??", "*?", "+?", "{2}", "{0,2}", "{1,}", "{2,3}?"])
LOOKS = st.builds("({}{})".format, st.sampled_from(["?!", "?="]), SETS)


def larger(expressions):
    atoms = st.one_of(SETS, SETS, st.builds("(?:{})".format, expressions), st.builds("({})".format, expressions))
    items = st.one_of(st.builds("{}{}".format, atoms, QUANTIFIERS), LOOKS)
    return st.lists(st.lists(items, min_size=1, max_size=3).map("".join), min_size=1, max_size=3).map("|".join)


EXPRESSIONS = st.recursive(SETS, larger, max_leaves=8)


def pieces_of(expression: str, text: str) -> list[str]:
    pieces, start = [], 0
    for match in re.finditer(expression, text):
        pieces += [text[start : match.start()], match.group()]
        start = match.end()
    return [piece for piece in [*pieces, text[start:]] if piece]


def split(pattern, text: str) -> list[str]:
    return [piece.decode() for piece in _core.split(pattern, text)]


@given(EXPRESSIONS, st.lists(st.text("aabbcé1 \nA.", max_size=12), min_size=3, max_size=3))
@example("a*?b|(a|aa)+c", ["aab", "aaac", "aaa"])
@example("(?:a|ab)(?:c|bcd)(?:d*)", ["abcd", "acd", "abcdd"])
def test_agrees_with_a_backtracking_engine(expression, texts):
    try:
        _core.split(expression, "")
    except ValueError:
        assume(False)
    for text in texts:
        assert split(expression, text) == pieces_of(expression, text)


@pytest.mark.parametrize(
    ("expression", "text", "pieces"),
    [
        (r"\p{Lu}\p{Ll}++|\d+", "FooBar12é", ["Foo", "Bar", "12", "é"]),
        (r"\p{^L}+", "ab, c", ["ab", ", ", "c"]),
        (r"[\p{L}&&[^\p{Han}]]+|\p{Han}", "ab中文c", ["ab", "中", "文", "c"]),
        (r"(?i:'s|k)", "'S'ſKkK", ["'S", "'ſ", "K", "k", "K"]),
        (r"a?+a|b", "ab", ["a", "b"]),  # a?+ gives nothing back, so that only b matches
        (r"\s+(?!\S)|\s+", "a  b ", ["a", " ", " ", "b", " "]),
        (r"\w+(?=[,;])|.", "ab,c", ["ab", ",", "c"]),
        (r"\p{Hiragana}+|\p{Katakana}+", "ひらカナ", ["ひら", "カナ"]),
        (r".+\z|.", "a\nb", ["a", "\n", "b"]),
    ],
)
def test_what_constructs_mean(expression, text, pieces):
    assert split(expression, text) == pieces


def test_stages_cut_the_pieces_of_the_one_before():
    assert split([r"\p{N}{1,3}", "gpt2"], "ab 12345") == ["ab", " ", "123", "45"]


def test_bytes_that_are_not_utf8_are_in_no_class_but_in_complements():
    data = b"a\xff\xe2\x82b"
    assert _core.split(r"\p{L}+|\p{C}", data) == [b"a", b"\xff\xe2\x82", b"b"]
    assert _core.split(r"[^a]", data) == [b"a", b"\xff", b"\xe2", b"\x82", b"b"]


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        (r"(?<=a)b", r"the group '\(\?<=' at character 0"),
        (r"a(?<!b)", r"the group '\(\?<!' at character 1"),
        (r"(?P<n>a)", r"the group '\(\?P<'"),
        (r"(?i)a", r"the group '\(\?i'"),
        (r"(?>a)", r"the group '\(\?>a'"),
        (r"a$", r"the anchor '\$'"),
        (r"^a", r"the anchor '\^'"),
        (r"(a)\1", r"the escape '\\1' at character 3"),
        (r"a\b", r"the escape '\\b'"),
        (r"\h", r"the escape '\\h'"),
        (r"\p{Klingon}", r"the property '\\p{Klingon}'"),
        (r"\pL", r"without {name}"),
        (r"(?!ab)c", r"a lookahead of more than one character, '\(\?!ab\)'"),
        (r"\p{N}{1,3}+", r"'\{1,3}\+', which is a repeated group in Oniguruma"),
        (r"(?:ab)++", "a possessive quantifier on more than one character"),
        (r"(?:a*)*", r"repetition of '\(\?:a\*\)\*', which can match the empty string"),
        (r"a**", "a quantifier on a quantifier"),
        (r"a{5000}", r"'\{5000}', which repeats more than 1000 times"),
        (r"a{3,2}", r"'\{3,2}'"),
        (r"a{,2}", r"'{' that does not begin"),
        (r"(a", r"'\(' without '\)' at character 0"),
        (r"a)", r"'\)' without '\('"),
        (r"[a", r"'\[' without '\]'"),
        (r"[]a]", "an empty class"),
        (r"[b-a]", r"the range 'b-a'"),
        (r"[a-\d]", r"the escape '\\d'"),
        (r"[[:alpha:]]", r"'\[:' in a class"),
        (r"[--b]", "'--' in a class"),
        (r"*a", r"'\*' with nothing to apply to"),
        ("a\\", r"'\\' at the end"),
        (r"\u12", r"the escape '\\u12'"),
        (r"\x{110000}", r"the escape"),
        (r"(?i:é)", r"a character outside ASCII under \(\?i\)"),
        (r"(?i:\p{L})", r"'\\p{L}' under \(\?i\)"),
        (r"(?i:ss)", "a ligature"),
        ("(" * 200 + "a" + ")" * 200, "more than 100 nested groups"),
        ("[" * 200, "more than 100 nested groups"),
    ],
)
def test_what_is_not_supported_is_named(expression, what):
    with pytest.raises(ValueError, match=what):
        _core.split(expression, "")


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        ("a*|b", "got one that can match the empty string"),
        ("a|(?!b)", "got one that can match the empty string"),
        ("((a{1000}){1000}){1000}", "at most 8192 instructions"),
        ("((((){1}){1000}){1000}){1000}", "can match the empty string"),
        ("[ab]*a[ab]{20}", "at most 8192 states"),
        ("a" * 20_000 + ".", "at most 16384 bytes"),
        ("|".join(chr(0x4E00 + i) for i in range(400)), "at most 255 kinds of characters"),
    ],
)
def test_sizes_are_bounded(expression, what):
    with pytest.raises(ValueError, match=what):
        _core.split(expression, "")


@given(st.text("ab[](){}|*+?\\^$.-&,:!=<>ipPLsSdwz0129u ~é", max_size=20))
def test_any_expression_is_refused_or_understood(expression):
    try:
        pieces = _core.split(expression, "ab é\n12")
    except ValueError as error:
        assert str(error).startswith("[tokenizer] expected ")  # noqa: PT017
    else:
        assert b"".join(pieces).decode() == "ab é\n12"


CAMEL = r"\p{Lu}?\p{Ll}+|\p{Lu}+|\p{N}|\s+|[^\s\p{L}\p{N}]+"


@pytest.mark.parametrize("unit", ["a", "A", " ", "é", "中", "\U0001f600", "\n"])
def test_long_runs_are_linear(unit):
    text = unit * 1_000_000
    assert "".join(split(CAMEL, text)) == text


@pytest.mark.parametrize("pattern", [CAMEL, [r"\p{N}{1,3}", CAMEL], r"[^\n]+|\n", r"[\s\S]{1,9}", r"\s+|\S+?\s?"])
def test_threads_and_files(pattern, corpus, tmp_path):
    tokenizer = Tokenizer.train(iter([corpus[:50_000]]), 400, pattern=pattern)
    text = corpus[:300_000]
    expected = tokenizer.encode_batch([text])  # threads, where the pattern lets them cut
    before = llmcore.num_threads()
    try:
        llmcore.set_num_threads(1)
        assert tokenizer.encode(text) == expected[0]
    finally:
        llmcore.set_num_threads(before)
    assert tokenizer.decode(expected[0]) == text
    loaded = Tokenizer.load(tokenizer.save(tmp_path))
    assert loaded == tokenizer
    assert loaded.pattern == (tuple(pattern) if isinstance(pattern, list) else pattern)
    assert loaded.encode(text) == expected[0]
