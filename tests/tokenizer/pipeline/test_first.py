"""Where a normalized text begins, which decides on the mark that Metaspace puts first; as recorded from tokenizers 0.23.3."""

from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.first import Leading
from llmcore.tokenizer.pipeline.normalizers import read_normalizer
from llmcore.tokenizer.pipeline.pre_tokenizers import read_pre_tokenizer
from support.pipeline_steps import bert, precompiled, step

READER = Reader(Path("tokenizer.json"))
FIRST = step("Metaspace", replacement="_", prepend_scheme="first", split=False)
LETTERS = step("Sequence", pretokenizers=[step("FixedLength", length=1), FIRST])
TABLE = {"\x01": "", "\x02": "", "e": "xy", "\u0301": "", "ab": "c"}


def strip(left, right):
    return step("Strip", strip_left=left, strip_right=right)


@pytest.mark.parametrize(
    ("normalizer", "text", "expected"),
    [
        (strip(True, True), " a ", ["a"]),
        (strip(True, True), "a ", ["_a"]),
        (strip(False, True), "  a  ", ["_", "_", "a"]),
        (step("NFKD"), "\ufb01n", ["_f", "_i", "n"]),
        (step("NFC"), "e\u0301n", ["_\u00e9", "n"]),
        (step("Prepend", prepend="x"), "ab", ["_x", "_a", "b"]),
        (step("Replace", pattern={"String": "a"}, content="xy"), "ab", ["_x", "_y", "b"]),
        (step("Replace", pattern={"String": "a"}, content=""), "ab", ["b"]),
        (bert(), "\x07ab", ["a", "b"]),
        (bert(), "\u4e00b", ["_", "_\u4e00", "_", "b"]),
        # What the table drops at the beginning is not counted, so that the rest stands where the text begins.
        (precompiled(TABLE), "\x01ab", ["_a", "b"]),
        (precompiled(TABLE), "\x01\x02eb", ["_x", "_y", "b"]),
        (precompiled(TABLE), "e\u0301b", ["_x", "y", "b"]),
        (precompiled(TABLE), "b\x01e", ["_b", "x", "y"]),
    ],
)
def test_as_recorded(normalizer, text, expected):
    first = Leading(READER, {"normalizer": normalizer, "pre_tokenizer": LETTERS}).count(text)
    assert read_pre_tokenizer(READER, LETTERS).cut(read_normalizer(READER, normalizer)(text), first) == expected
