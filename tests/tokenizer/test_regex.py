"""Custom patterns: regular expressions as automata, against the standard library's backtracking engine."""

import random
import re
from itertools import pairwise

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
        _core.check_pattern(expression)
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


# What `tokenizers` 0.23.3 cuts by Split(Regex(expression), "isolated"), which test_as_oniguruma_at_random asks.
ONIGURUMA = [
    (r"\d{1,3}+", "1234567", ["1234567"]),  # a repeated group, not a possessive quantifier
    (r"\d{2}+", "12345", ["1234", "5"]),
    (r"a{,3}", "aaaaab", ["aaa", "aa", "b"]),
    (r"a{1,2}?", "aaa", ["a", "a", "a"]),
    (r"a++a|.", "aab", ["a", "a", "b"]),
    (r"(?:ab)++a|.", "abab", ["a", "b", "a", "b"]),
    (r"x$", "x\nxy", ["x", "\nxy"]),  # where a line ends
    (r"^x", "x\nxx", ["x", "\n", "x", "x"]),
    (r"\n^", "a\nb\n", ["a", "\n", "b\n"]),  # no line begins at the end
    (r"x\Z", "xx\n", ["x", "x", "\n"]),
    (r"x\z", "x\nx", ["x\n", "x"]),
    (r"\Ax", "xx", ["x", "x"]),
    (r"\h+", "xyzabc09 ", ["xyz", "abc09", " "]),
    (r"\R", "a\r\nb\n\n", ["a", "\r\n", "b", "\n", "\n"]),
    (r"\b", "ab, cd", ["ab", ", ", "cd"]),
    (r"\B", "ab cd", ["a", "b c", "d"]),
    (r"\N", "ab\n", ["a", "b", "\n"]),
    (r"[[:alpha:]]+", "ab1\u00e9_", ["ab", "1", "\u00e9", "_"]),
    (r"[[:^alpha:]]+", "ab1_\u00e9", ["ab", "1_", "\u00e9"]),
    (r"[[:punct:]]", "a!$", ["a", "!", "$"]),
    (r"\p{Punct}", "a!$$", ["a", "!", "$$"]),
    (r"[[:word:]]+", "a\u00e9_1\u00b2", ["a\u00e9_1", "\u00b2"]),
    (r"\w+", "a\u00e9_\u00b2\u200d", ["a\u00e9_\u00b2", "\u200d"]),  # outside of a class
    (r"[\w]+", "a\u00e9_\u00b2", ["a\u00e9_", "\u00b2"]),  # in one
    (r"[[:upper:]]+", "aA\u00c9\u01c5", ["a", "A\u00c9", "\u01c5"]),
    (r"[[:xdigit:]]+|[[:blank:]]", "fgF9\t", ["f", "g", "F9", "\t"]),
    (r"[a-c&&[^b]]+", "acbd", ["ac", "bd"]),
    (r"[a[bc]]+", "abcd", ["abc", "d"]),
    (r"[]a]+", "]ab", ["]a", "b"]),
    (r"a(?i)b|c", "aBxAC", ["aB", "xAC"]),  # (?i) reaches over the alternatives
    (r"(?i:a)b", "AbaB", ["Ab", "aB"]),
    (r"(?m:a.)", "a\nb", ["a\n", "b"]),
    (r"\p{han}+|\p{Old_Italic}", "\u6f22\u5b57a", ["\u6f22\u5b57", "a"]),
    (r"\p{Uppercase Letter}|\P{^Nd}", "aA1", ["a", "A", "1"]),
    (r"(?>a+)a|b", "aaab", ["aaa", "b"]),
    (r"(?<=a)b", "abb", ["a", "b", "b"]),
    (r"(?<!a)b", "abb", ["ab", "b"]),
    (r"(?<=ab|c)d", "abdcd", ["ab", "d", "c", "d"]),
    (r"(?<name>a)(?#a comment)b", "abb", ["ab", "b"]),
    (r"(?=[A-Z])", "aBcD", ["a", "Bc", "D"]),  # empty matches cut too
    (r"(?<=[a-z])(?=[A-Z])", "camelCaseX", ["camel", "Case", "X"]),
    (r"\s*", "a  b", ["a", "  ", "b"]),
    (r"a*", "baac", ["b", "aa", "c"]),
    (r"a{x}]", "a{x}]]", ["a{x}]", "]"]),
    (r"\d{1,3}(?=(?:\d{3})*\b)", "1234567 12", ["1", "234", "567", " ", "12"]),
    (r"a+?+b", "aab", ["aab"]),
    (r"\x{1F600}|\a", "\U0001f600\x07", ["\U0001f600", "\x07"]),
]


@pytest.mark.parametrize(("expression", "text", "pieces"), ONIGURUMA)
def test_what_constructs_mean_to_oniguruma(expression, text, pieces):
    assert split(expression, text) == pieces
    ranges, at = _core.Regex(expression).matches(text), 0
    cuts = sorted({0, len(text), *(place for found in ranges for place in found)})
    assert [text[a:b] for a, b in pairwise(cuts)] == pieces
    assert all(at <= a <= b for a, b in ranges)


@pytest.mark.peers
@pytest.mark.parametrize("expression", [expression for expression, _, _ in ONIGURUMA])
def test_as_oniguruma_at_random(expression):
    tokenizers = pytest.importorskip("tokenizers")
    theirs = tokenizers.pre_tokenizers.Split(tokenizers.Regex(expression), "isolated")
    draw = random.Random(0)
    letters = "aab bcdxABZ_-]{}019\n\r\t!,$\u00e9\u00c9\u00df\u017f\u00b2\u2167\u24d0\u6f22\u0301\u200d\u00a0\x85\u2028\U0001f600"
    for _ in range(150):
        text = "".join(draw.choices(letters, k=draw.randint(0, 12)))
        assert split(expression, text) == [piece for piece, _ in theirs.pre_tokenize_str(text)]


@pytest.mark.parametrize(
    ("expression", "what"),
    [
        (r"a\G", r"the escape '\\G' at character 1"),
        (r"\X", r"the escape '\\X'"),
        (r"a\K", r"the escape '\\K'"),
        (r"(a)\1", r"the escape '\\1'"),
        (r"(?P<n>a)", r"the group '\(\?P<'"),
        (r"(?~ab)", r"the group '\(\?~a'"),
        (r"(?x) a", r"the group '\(\?x'"),
        (r"(?<=a+)b", r"a lookbehind of unlimited or great length, '\(\?<=a\+\)'"),
        (r"\p{Klingon}", r"the property '\\p{Klingon}'"),
        (r"[[:letter:]]", r"the class '\[:letter:\]'"),
        (r"a{2}?", r"'\{2}\?', which engines interpret differently"),
        (r"(?i)\u00e9", r"a character outside ASCII under \(\?i\)"),
        (r"(a*)*", r"repetition of '\(a\*\)\*', which can match the empty string"),
        (r"(?=a)*b", "a quantifier on a lookahead"),
        ("(?=" * 200 + "a" + ")" * 200, "more than 100 nested groups"),
        ("((a{1000}){1000}){1000}", "at most 8192 instructions"),
    ],
)
def test_what_of_oniguruma_is_not_supported_is_named(expression, what):
    with pytest.raises(ValueError, match=what):
        _core.Regex(expression)


def test_backtracking_tries_nothing_twice():
    text = "a" * 2000
    assert split(r"(?:a|a|aa)*b(?=cc)|.", text[:200]) == list(text[:200])
    assert split(r"(?=(?:(?=(?:(?=(?:(?=a+).)*).)*).)*b)c|.+", text) == [text]


def test_an_automaton_that_would_be_too_large_is_left_to_backtracking():
    assert split(r"(?:[ab]*a[ab]{20}|c)", "ab" * 12 + "c") == ["ab" * 11 + "a", "b", "c"]


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
        _core.check_pattern(expression)


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
        _core.check_pattern(expression)


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
