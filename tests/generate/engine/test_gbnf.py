"""GBNF: what its grammars accept, as llama.cpp does (these answers are llama.cpp's), and what is wrong with a grammar."""

import re

import numpy as np
import pytest

from llmcore.generate.engine.constrain import Vocabulary
from llmcore.generate.engine.gbnf import to_lark
from support.last_token_model import last_token_model

pytest.importorskip("llguidance")

JSON = r"""
# values
root   ::= object
value  ::= object | array | string | number | ("true" | "false" | "null") ws
object ::=
  "{" ws (
    string ":" ws value
    ("," ws string ":" ws value)*
  )? "}" ws
array  ::= "[" ws ( value ("," ws value)* )? "]" ws
string ::= "\"" ( [^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}) )* "\"" ws
number ::= "-"? ([0-9] | [1-9] [0-9]{0,15}) ("." [0-9]+)? ([eE] [-+]? [0-9]+)? ws
ws ::= | " " | "\n" [ \t]{0,20}
"""
ARITHMETIC = r"""root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
"""
CHESS = r"""root ::= (
    # the first move
    "1. " move " " move "\n"

    ([1-9] [0-9]? ". " move " " move "\n")+
)
move    ::= (pawn | nonpawn | castle) [+#]?
nonpawn ::= [NBKQR] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn    ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBKQR])?
castle  ::= "O-O" "-O"?
"""
LIST = r"root ::= item+" "\n\n" r'item ::= "- " [^\r\n\x0b\x0c\x85\u2028\u2029]+ "\n"'

TEXTS = [
    (JSON, '{"a": [1, -2.5e3, true, {"b": null}],\n  "c": "x\\n\\u00e9é"}', True),
    (JSON, "{}", True),
    (JSON, '{"a": 1,}', False),
    (JSON, '{"a":  1}', False),
    (JSON, '{"a": 01}', False),
    (JSON, '["a"]', False),
    (ARITHMETIC, "(1 +x_2)*3 = 9\na=b\n", True),
    (ARITHMETIC, "1 + = 2\n", False),
    (ARITHMETIC, "1=2", False),
    (CHESS, "1. e4 e5\n2. Nf3 Nc6\n3. O-O exd8=Q#\n", True),
    (CHESS, "1. e4 e5\n", False),
    (CHESS, "1. e9 e5\n2. a1 a1\n", False),
    (LIST, "- one\n- zwei ü\n", True),
    (LIST, "- a\x85b\n", False),
    (LIST, "one\n", False),
    ('root ::= [a-z]+ "c" ("ab")* "a" "b"?', "abcab", True),  # words that take all they can would not find it
    ('root ::= [a-z]+ "c" ("ab")* "a" "b"?', "abcaba", True),
    ('root ::= [a-z]+ "c" ("ab")* "a" "b"?', "aba", False),
    ('root ::= "a" root "a" | "b" root "b" | "" | "a"', "abba", True),
    ('root ::= "a" root "a" | "b" root "b" | "" | "a"', "abab", False),
    ('root ::= ws "a" ws rest\nws ::= ([ \\t] ws)?\nrest ::= "b" rest | "c" | "d" "e" rest', "  a\t bdebc", True),
    ('root ::= ws "a" ws rest\nws ::= ([ \\t] ws)?\nrest ::= "b" rest | "c" | "d" "e" rest', "a bd", False),
    ('root ::= ([ab]{2}){1,3} "c"{0,} "d"{2,} .', "abbaccdd\n", True),
    ('root ::= ([ab]{2}){1,3} "c"{0,} "d"{2,} .', "abacccdd", False),
    ('root ::= "\\x41\\u00e9\\U0001F600" [^a-]', "Aé😀b", True),
    ('root ::= "\\x41\\u00e9\\U0001F600" [^a-]', "Aé😀-", False),
    ('root ::= "a"{0} [b-d]{0,0} "e" "f"{0}', "e", True),
    ('root ::= "a"{0} [b-d]{0,0} "e" "f"{0}', "ae", False),
    ('root ::=\n  "a"\n  "b"', "a", None),
]


@pytest.fixture(scope="module")
def lm():
    return last_token_model({})


@pytest.mark.parametrize(("grammar", "text", "accepted"), TEXTS)
def test_as_llama_cpp(lm, grammar, text, accepted):
    if accepted is None:
        with pytest.raises(ValueError, match=r"\[constrain\] grammar, line 3: expected the name of a rule"):
            lm.vocabulary.grammar(grammar=grammar)
        return
    constraint = lm.vocabulary.grammar(grammar=grammar).constraint()
    assert constraint.begins_with([*text.encode(), lm.end_ids[0]]) == accepted


def test_what_is_written_has_the_form(lm):
    text = lm.generate("x", 200, grammar=CHESS, temperature=5.0, seed=1, banned=[ord("\n")]).text
    for move in text.split()[1::3]:
        assert re.fullmatch(r"([NBKQR]?[a-h]?[1-8]?x?[a-h][1-8](=[NBKQR])?|O-O(-O)?)[+#]?", move)
    c = lm.generate("x", 30, grammar='start: "(" WORD ("," WORD)* ")"\nWORD: /[a-z]{1,3}/', temperature=5.0, seed=1)
    assert re.fullmatch(r"\([a-z]{1,3}(,[a-z]{1,3})*\)", c.text) or c.finish_reason == "length"


def test_long_texts_of_recursive_rules(lm):
    """A rule that ends with itself does not fill the parser."""
    mask = np.zeros(-(-lm.config.vocab_size // 32), np.uint32)
    for grammar in (
        'root ::= [ab] root | "c"',
        "root ::= ([ab] root)?",
        'root ::= root [ab] | ""',
        "root ::= [ab]{0,5000}",
    ):
        constraint = lm.vocabulary.grammar(grammar=grammar).constraint()
        for _ in range(2500):
            constraint.accept(ord("a"))
        constraint.fill(mask)
        assert mask[ord("a") // 32] >> ord("a") % 32 & 1


class Words:
    """A tokenizer of 18,000 tokens: all texts of one to three small letters."""

    spells_alike = True

    def __init__(self):
        letters = [bytes([b]) for b in range(97, 97 + 26)]
        pairs = [a + b for a in letters for b in letters]
        self.words = [b"<end>", *letters, *pairs, *(a + b for a in pairs for b in letters), b"<mark>"]
        self.added_tokens, self.special_tokens = {}, {"<end>": 0, "<mark>": len(self.words) - 1}

    def token_bytes(self, i):
        return self.words[i]

    def encode_ordinary(self, text):
        return [self.words.index(bytes([b])) for b in text.encode() if bytes([b]) in self.words]


def test_thousands_of_ways(lm):
    words = [f"w{i}" for i in range(3000)]
    grammar = "\ufeffroot ::= " + " | ".join(f'"{word}"' for word in words)
    assert lm.generate("x", 9, grammar=grammar, temperature=5.0, seed=1).text in words


def test_any_token_of_a_large_vocabulary_may_come():
    """Character by character this takes more steps of the parser than llguidance makes by itself."""
    size = len(Words().words)
    vocabulary = Vocabulary(Words(), size, [0])
    mask = np.zeros(-(-size // 32), np.uint32)
    vocabulary.grammar(grammar='root ::= .+ "c" | "a" root "b"').constraint().fill(mask)
    assert sum(bin(word).count("1") for word in mask) == size - 2


@pytest.mark.parametrize("grammar", ['root ::= "ab" <mark> "c"', 'start: "ab" <mark> "c"'])
def test_a_special_token_is_all_that_may_come(grammar):
    words = Words().words
    vocabulary = Vocabulary(Words(), len(words), [0])  # which does not spell all bytes
    constraint = vocabulary.grammar(grammar=grammar).constraint()
    mask = np.zeros(-(-len(words) // 32), np.uint32)
    for token in (b"ab", b"<mark>", b"c"):
        constraint.fill(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little"))
        assert {words[i] for i in allowed} == ({b"a", b"ab"} if token == b"ab" else {token})
        constraint.accept(words.index(token))
    assert constraint.complete


def test_tokens_of_the_model(lm):
    end = lm.end_ids[0]
    assert lm.generate("a", 4, grammar="root ::= <[65]> !<[66]> <[67]>", temperature=0).text[0::2] == "AC"
    name = lm.token_text(end)
    assert to_lark(f'root ::= {name} "a"', {name: end}.get) == f"start: <[{end}]> /\\x{{61}}/\n"


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ('root ::= a\n', r"grammar, line 1: expected a rule that is defined, got a"),
        ('a ::= "x"', r"grammar: expected a rule root, got a"),
        ('root ::= "a"\n\n# x\nb ::= "x\n', r"grammar, line 4: expected the end of a literal or a set in its line"),
        ('root ::= ("a"\n', r"grammar, line 2: expected \) for the \( of line 1, got the end of the line"),
        ('root ::= "a")', r"grammar, line 1: expected an item, \| or the end of the line, got '\)'"),
        ('root ::= "\\q"', r"grammar, line 1: expected an escape .*, got '\\\\q\"'"),
        ('root ::= "\\ud800"', r"grammar, line 1: expected an escape"),
        ("root ::= [z-a]", r"grammar, line 1: expected a range that ascends, got 'z' to 'a'"),
        ("root ::= []", r"grammar, line 1: expected a set of characters that is not empty, got \[\]"),
        ('root ::= "a"{3,1}', r"grammar, line 1: expected \{m,n\} with m <= n, got \{3,1\}"),
        ('root ::= "a"{x}', r"grammar, line 1: expected \{m\}, \{m,\} or \{m,n\}, got '\{x\}'"),
        ('root ::= "a"\nroot ::= "b"', r"grammar, line 2: expected one rule root \(the first is on line 1\), got another"),
        ('root ::= "a"\nb "c"', r"grammar, line 2: expected ::= after b, got '\"c\"'"),
        ("root ::= <nothing>", r"grammar, line 1: expected a token of the model, got '<nothing>'"),
        ("root ::= " + "(" * 500, r"grammar, line 1: expected parentheses at most 100 deep"),
        ("root ::= root", r"grammar: expected a form that the model's tokens spell, got one that none begins"),
        ('start: "a" other\n\nother: "b" nothing', r"grammar, line 3: expected what llguidance accepts, got: unknown name"),
        ('start: "a" B\nB: /[/', r"grammar, line 2: expected what llguidance accepts, got: invalid regex"),
        ("hello", r"grammar, line 1: expected what llguidance accepts, got: Expected token ':'"),
        ("", r"grammar: expected what llguidance accepts, got: Empty grammar"),
        (3, r"expected grammar a text, got 3"),
    ],
)  # fmt: skip
def test_errors_name_the_line(lm, grammar, message):
    with pytest.raises((ValueError, TypeError), match=rf"\A\[constrain\] {message}") as error:
        lm.generate("a", 4, grammar=grammar)
    assert "\n" not in str(error.value)
