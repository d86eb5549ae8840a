"""Normalizers, each with what Hugging Face's tokenizers 0.23.3 makes of a text; test_steps_peers.py compares more."""

import base64
import struct
from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from support.pipeline_steps import REPLACEMENTS, bert, charsmap, precompiled, step

DEVANAGARI = "\u0938\u093f"


def read(value):
    return read_normalizer(Reader(Path("tokenizer.json")), value, "normalizer")


def sequence(*steps):
    return step("Sequence", normalizers=list(steps))


@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        (None, " \u00c9", " \u00c9"),
        (
            bert(),
            "H\u00e9llo\tW\u00d6RLD\0\u200d \u4e2d\u6587x \u0391\u03a3 \u0130\u3000" + DEVANAGARI,
            "hello world  \u4e2d  \u6587 x \u03b1\u03c3 i " + DEVANAGARI,
        ),
        (
            {**bert(True, False, False, False), "type": "Bert"},
            "H\u00e9llo\r\nW\u00d6RLD\x07\x85\u4e2d",
            "H\u00e9llo  W\u00d6RLD\u4e2d",
        ),
        (
            bert(False, True, True, False),
            "\U0002b81f\U0002b820\U0002b920 \u00c9\u0345\u09be",
            " \U0002b81f \U0002b820 \U0002b920  E\u09be",
        ),
        (step("Strip", strip_left=True, strip_right=False), "\u3000\x1f a \n", "\x1f a \n"),
        (step("Strip", strip_left=True, strip_right=True), "\u2028\x85 a\u00a0b \n\x0b", "a\u00a0b"),
        (step("Strip", strip_left=False, strip_right=True), " a\n\n", " a"),
        (step("Strip", strip_left=False, strip_right=False), " a ", " a "),
        (
            step("StripAccents"),
            "\u00e9 e\u0301 \u0915\u093f \u20dd\u1cf2\U000111c9",
            "\u00e9 e \u0915 \U000111c9",
        ),
        (step("NFC"), "e\u0301\u0323 \u0958 \u212b \ufb01", "\u1eb9\u0301 \u0915\u093c \u00c5 \ufb01"),
        (step("NFD"), "\u00e9\u1ec7 \ud55c \U00011938", "e\u0301e\u0323\u0302 \u1112\u1161\u11ab \U00011938"),
        (
            step("NFKC"),
            "\ufb01\u2460\u337f\uff71\uff9e \U0001fbf1 \u32ff",
            "fi1\u682a\u5f0f\u4f1a\u793e\u30a2\u3099 \U0001fbf1 \u32ff",
        ),
        (step("NFKD"), "\ufb01\u00e9\u00b2\u00bd \U0001e030", "fie\u030121\u20442 \U0001e030"),
        (
            step("Lowercase"),
            "\u00c0\u0391\u03a3 \u0130 \u1e9e \u1c89 \U00010d50 \U00016ea0 \u2167 \u24b6",
            "\u00e0\u03b1\u03c3 i\u0307 \u00df \u1c8a \U00010d70 \U00016ebb \u2177 \u24d0",
        ),
        (step("Nmt"), "a\x01\x0b\x7f\x8f\tb\n\u200b\u2581\ufeff\ufffd\u3000\x80", "a b     \u3000\x80"),
        (step("ByteLevel"), "a \u00e9\n\u4e2d", "a\u0120\u00c3\u00a9\u010a\u00e4\u00b8\u0143"),
        (step("Replace", pattern={"String": "a."}, content="<\\1>"), "a.b.a.a.", "<\\1>b.<\\1><\\1>"),
        (step("Replace", pattern={"Regex": " {2,}"}, content="_"), "a  b   c d", "a_b_c d"),
        (step("Replace", pattern={"Regex": "^"}, content="_"), "a\nb", "_a\n_b"),
        (step("Replace", pattern={"Regex": "^|b*"}, content="_"), "", ""),
        (step("Prepend", prepend="_x"), "a", "_xa"),
        (step("Prepend", prepend="_x"), "", ""),
        (sequence(step("NFD"), step("StripAccents"), step("Lowercase"), step("Prepend", prepend="_")), "\u00c9", "_e"),
        (sequence(sequence(step("Lowercase")), sequence()), "A", "a"),
    ],
)
def test_as_recorded(normalizer, text, expected):
    assert read(normalizer)(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ea \u4e00!", "Ea_one two!"),
        # The shortest key that a cluster begins with replaces all of it.
        ("e\u0301x", "Ex"),
        ("a\u0323\u0301", "<a.>"),
        ("a\u0301", "a~"),
        # A cluster of 6 bytes or more is looked up character by character.
        ("e\u0301\u0308\u0301", "E~~"),
        ("\u304b\u3099", "\u304b\u3099"),
        ("\u0915\u094d\u0937", "K\u0937"),
        ("\u1100\u1161\u11a8\u0301", "gvt~"),
        # \r\n and what comes after a sign that is put before others are clusters too; fi is none.
        ("\r\n\n\rfi", "CRLFN\rfi"),
        ("\u0600e", "0"),
        # The copyright sign and ZWJ have 5 bytes together, unless a pictograph after them joins in.
        ("\u00a9\u200d", "(c)"),
        ("\u00a9\u200d\u00a9\u0301", "(c)(c)~"),
        ("\u0301\u0301", "~"),
        ("\n\u0301", "N~"),
    ],
)
def test_replaces_clusters(text, expected):
    assert read(precompiled(REPLACEMENTS))(text) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "0 units"),
        (b"\0\0\0\0", "0 units"),
        (b"\xff\xff\xff\xff", "units in 4 bytes"),
        (charsmap({"a": "b"})[:-900], "units in"),
        (charsmap({"a": "\u00e9"})[:-2], "can't decode"),
        (b"\0\4\0\0" + b"\xff\xff\xff\x7f" * 256, "leads to unit"),
        # Every byte a key whose replacement begins after the end; every byte leading back to the root.
        (b"\0\4\0\0" + b"".join(bytes([n, 1, 0, 0]) for n in range(256)) + b"a\0", "a replacement at 257 of 2"),
        (b"\0\4\0\0" + b"".join(struct.pack("<I", n << 10 | n) for n in range(256)) + b"a\0", "branches meet"),
    ],
)
def test_refuses_broken_tables(data, message):
    value = step("Precompiled", precompiled_charsmap=base64.b64encode(data).decode())
    with pytest.raises(ValueError, match=rf"normalizer\.precompiled_charsmap.*{message}"):
        read(value)


@pytest.mark.parametrize(
    ("normalizer", "message"),
    [
        ([], r"normalizer: expected an object"),
        ({}, r"normalizer\.type: expected a string"),
        (step("nfc"), r"normalizer\.type: expected .*BertNormalizer.*NFC.*nfc"),
        (step("NFC", form=1), r"normalizer\.form: expected no other fields than type"),
        (step("BertNormalizer", clean_text=True), r"normalizer\.handle_chinese_chars: expected true or false"),
        ({**bert(), "lowercase": 1}, r"normalizer\.lowercase: expected true or false"),
        (step("Strip", strip_left=True), r"normalizer\.strip_right"),
        (step("Prepend", prepend=""), r"normalizer\.prepend: expected a text that is not empty"),
        (step("Replace", pattern="a", content=""), r"normalizer\.pattern: expected an object"),
        (step("Replace", pattern={"String": "a", "Regex": "a"}, content=""), r"normalizer\.pattern: expected \{"),
        (step("Replace", pattern={"String": ""}, content=""), r"normalizer\.pattern\.String"),
        (step("Replace", pattern={"Regex": r"a\G"}, content=""), r"normalizer\.pattern\.Regex.*'\\G'"),
        (step("Replace", pattern={"Regex": "("}, content=""), r"normalizer\.pattern\.Regex"),
        (step("Replace", pattern={"Regex": "a"}), r"normalizer\.content: expected a string"),
        (step("Precompiled"), r"normalizer\.precompiled_charsmap: expected a string"),
        (step("Precompiled", precompiled_charsmap="a*"), r"normalizer\.precompiled_charsmap: expected base64"),
        (step("Prepend", prepend="\ud800"), r"normalizer\.prepend: expected text that has a UTF-8 form"),
        (sequence(step("NFC"), step("Foo")), r"normalizer\.normalizers\[1\]\.type"),
        (step("Sequence", normalizers=step("NFC")), r"normalizer\.normalizers: expected an array"),
    ],
)
def test_refuses(normalizer, message):
    with pytest.raises(ValueError, match=message):
        read(normalizer)


def test_refuses_deep_nesting():
    value = step("NFC")
    for _ in range(500):
        value = sequence(value)
    with pytest.raises(ValueError, match="sequences within each other"):
        read(value)
