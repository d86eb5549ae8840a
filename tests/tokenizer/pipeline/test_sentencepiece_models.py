"""SentencePiece models other than BPE of raw text. Ids and texts are what sentencepiece 0.2.3 gives for the same files;
test_sentencepiece_models_peers.py compares trained ones."""

import pickle
import struct

import pytest

from llmcore.tokenizer import Tokenizer
from support import sentencepiece_files as files

UNIGRAM, BPE, WORD, CHAR = (files.field(3, kind) for kind in (1, 2, 3, 4))
SPECIALS = [("<unk>", 0.0, files.UNKNOWN), ("<s>", 0.0, files.CONTROL), ("</s>", 0.0, files.CONTROL)]
PIECES = [
    *SPECIALS,
    *(
        (text, -1.0 - number / 2, files.NORMAL)
        for number, text in enumerate(["\u2581the", "\u2581c", "at", "s", "\u2581"])
    ),
    *((text, -5.0, files.NORMAL) for text in "theca."),
    ("foo", 0.0, files.USER_DEFINED),
    ("cats", -0.1, files.UNUSED),
]
PLAIN = files.field(1, "identity") + files.field(4, 0)
DEFAULT = files.field(1, "identity")  # a space in front, none at the ends, none twice
NO_PREFIX = PLAIN + files.field(3, 0)


def charsmap(rules: dict[str, str]) -> bytes:
    """A precompiled_charsmap of rules for single bytes: a double array of one level. The value of byte b's rule is at the
    unit at its own place XOR 256 there."""
    units = [0] * 1024
    units[0] = 256 << 10  # the root's children are at 256 XOR their byte
    replacements = b""
    for key, text in rules.items():
        at = 256 ^ ord(key)
        units[at] = (512 << 10) | 1 << 8 | ord(key)
        units[at ^ 512] = 1 << 31 | len(replacements)
        replacements += text.encode() + b"\0"
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + replacements


MODELS = {
    "unigram": files.model(PIECES, UNIGRAM, PLAIN),
    "fewer spaces": files.model(PIECES, UNIGRAM, DEFAULT),
    "no prefix": files.model(PIECES, UNIGRAM, NO_PREFIX),
    "bytes": files.model([*PIECES, *files.BYTES], UNIGRAM + files.field(35, 1), DEFAULT),
    "rules": files.model(PIECES, UNIGRAM, DEFAULT + files.field(2, charsmap({"T": "t", "x": "", "\t": " "}))),
    "words": files.model(PIECES, WORD, DEFAULT),
    "characters": files.model(PIECES, CHAR, PLAIN),
    "bpe": files.model(PIECES[:-1], BPE, DEFAULT),
}
RECORDED = [
    ("unigram", "the cats.", [3, 4, 5, 6, 13], "the cats."),
    ("unigram", "  the  cxy at ", [7, 7, 3, 7, 4, 0, 7, 5, 7], "  the  c at "),
    ("unigram", "foothe▁c\tTx", [7, 14, 8, 9, 10, 4, 0], "foothe c"),
    ("unigram", "éa中ca", [7, 0, 12, 0, 11, 12], "aca"),
    ("fewer spaces", "the cats.", [3, 4, 5, 6, 13], "the cats."),
    ("fewer spaces", "  the  cxy at ", [3, 4, 0, 7, 5], "the c at"),
    ("fewer spaces", "foothe▁c\tTx", [7, 14, 8, 9, 10, 4, 0], "foothe c"),
    ("fewer spaces", "éa中ca", [7, 0, 12, 0, 11, 12], "aca"),
    ("no prefix", "the cats.", [8, 9, 10, 4, 5, 6, 13], "the cats."),
    ("no prefix", "  the  cxy at ", [7, 3, 7, 4, 0, 7, 5, 7], "  the  c at "),
    ("no prefix", "foothe▁c\tTx", [14, 8, 9, 10, 4, 0], "foothe c"),
    ("no prefix", "éa中ca", [0, 12, 0, 11, 12], "aca"),
    ("bytes", "the cats.", [3, 4, 5, 6, 13], "the cats."),
    ("bytes", "  the  cxy at ", [3, 4, 136, 137, 7, 5], "the cxy at"),
    ("bytes", "foothe▁c\tTx", [7, 14, 8, 9, 10, 4, 25, 100, 136], "foothe c\tTx"),
    ("bytes", "éa中ca", [7, 211, 185, 12, 244, 200, 189, 11, 12], "éa中ca"),
    ("rules", "the cats.", [3, 4, 5, 6, 13], "the cats."),
    ("rules", "  the  cxy at ", [3, 4, 0, 7, 5], "the c at"),
    ("rules", "foothe▁c\tTx", [7, 14, 8, 9, 10, 4, 7, 8], "foothe c t"),
    ("rules", "éa中ca", [7, 0, 12, 0, 11, 12], "aca"),
    ("words", "the cats.", [3, 0], "the"),
    ("words", "  the  cxy at ", [3, 0], "the"),
    ("words", "foothe▁c\tTx", [0], ""),
    ("words", "éa中ca", [0], ""),
    ("characters", "the cats.", [7, 8, 9, 10, 7, 11, 12, 8, 6, 13], "the cats."),
    ("characters", "  the  cxy at ", [7, 7, 7, 8, 9, 10, 7, 7, 11, 0, 7, 12, 8, 7], "  the  c at "),
    ("characters", "foothe▁c\tTx", [7, 14, 8, 9, 10, 7, 11, 0], "foothe c"),
    ("characters", "éa中ca", [7, 0, 12, 0, 11, 12], "aca"),
    ("bpe", "the cats.", [7, 8, 9, 10, 4, 5, 6, 13], "the cats."),
    ("bpe", "  the  cxy at ", [7, 8, 9, 10, 4, 0, 7, 5], "the c at"),
    ("bpe", "foothe▁c\tTx", [7, 14, 8, 9, 10, 4, 0], "foothe c"),
    ("bpe", "éa中ca", [7, 0, 12, 0, 11, 12], "aca"),
    *((name, "", [], "") for name in MODELS),
]


@pytest.fixture(scope="module")
def load(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")

    def load(data):
        path = folder / "tokenizer.model"
        path.write_bytes(data)
        return Tokenizer.load(path)

    return load


@pytest.mark.parametrize(("name", "text", "ids", "decoded"), RECORDED)
def test_ids_and_text(load, name, text, ids, decoded):
    tokenizer = load(MODELS[name])
    assert tokenizer.encode(text) == tokenizer.encode_ordinary(text) == ids
    assert tokenizer.encode_array(text.encode()).tolist() == ids
    assert tokenizer.encode_batch([text]) == [ids]
    known = [id for id in ids if id]
    assert tokenizer.decode(known) == tokenizer.decode(ids, skip_special_tokens=True) == decoded
    stream = tokenizer.stream_decoder(skip_special_tokens=True)
    for _ in range(2):
        assert "".join([*map(stream.push, ids), stream.finish()]) == decoded


@pytest.mark.parametrize("name", MODELS)
def test_saved_loaded_and_pickled(load, tmp_path, name):
    tokenizer = load(MODELS[name])
    saved = tokenizer.save(tmp_path)
    assert saved == tmp_path / "tokenizer.model"
    assert saved.read_bytes() == MODELS[name]
    for other in (Tokenizer.load(tmp_path), pickle.loads(pickle.dumps(tokenizer)), Tokenizer(tokenizer.vocabulary)):
        assert other == tokenizer
        assert other.digest == tokenizer.digest
    with pytest.raises(ValueError, match=r"x.json: expected a path that ends in \.model for this vocabulary"):
        tokenizer.save(tmp_path / "x.json")


def test_special_tokens(load):
    tokenizer = load(MODELS["unigram"])
    assert tokenizer.special_tokens == {"<unk>": 0, "<s>": 1, "</s>": 2}
    assert tokenizer.added_tokens == {"foo": 14}
    with pytest.raises(ValueError, match="the text holds the special token '</s>'"):
        tokenizer.encode("the</s>")
    assert tokenizer.encode("the</s>the", allowed_special="all") == [3, 2, 3]
    assert tokenizer.encode_ordinary("</s>") == [7, 0, 6, 0]
    assert tokenizer.decode([3, 2, 3]) == "the</s> the"
    assert [tokenizer.token_bytes(id) for id in (1, 3, 14, 99)] == [b"<s>", b" the", b"foo", b""]
    assert tokenizer.drops_first_space
    assert tokenizer.stream_decoder(continues=True).push(3) == " the"


def test_leading_pieces_of_spaces(load):
    """Where texts have no such spaces, decoding leaves one out of each piece until there is text."""
    assert load(MODELS["fewer spaces"]).decode([7, 7, 3, 7, 3]) == "the  the"
    assert load(MODELS["unigram"]).decode([7, 7, 3]) == "  the"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (files.model(PIECES[1:], UNIGRAM), "pieces: expected an unknown token, got none"),
        (files.model([*PIECES, ("zz", float("nan"))], UNIGRAM), "pieces: expected finite scores"),
        (
            files.model([*PIECES, ("at", 0.0)], UNIGRAM),
            r"pieces\[16\]: expected a string that no other token has, got at",
        ),
        (files.model(PIECES, UNIGRAM, files.field(2, b"\1\0\0\0\0")), "expected precompiled_charsmap to be"),
        (files.model(PIECES, UNIGRAM, files.field(2, b"\4\0\0\0\0\0\0\0a")), "expected precompiled_charsmap to be"),
        (files.model([*PIECES, *files.BYTES[1:]], UNIGRAM), "expected tokens for all of the 256 bytes"),
        (files.model(PIECES, UNIGRAM + files.field(24, 1)), "treat_whitespace_as_suffix: expected false"),
        (files.model(PIECES, BPE, DEFAULT), "no piece of type UNUSED"),
    ],
)
def test_broken_models_are_named(load, data, message):
    with pytest.raises(ValueError, match=r"^\[load\] .*tokenizer\.model: .*" + message) as error:
        load(data)
    assert "\n" not in str(error.value)


def test_damaged_rules_read_nothing_outside(load):
    """Units that point anywhere: there are no such children, or values, and nothing else happens."""
    rules = bytearray(charsmap({"T": "t"}))
    for at in range(4, len(rules) - 3, 4):
        if rules[at : at + 4] != bytes(4):
            rules[at + 1 : at + 4] = b"\xff" * 3
    tokenizer = load(files.model(PIECES, UNIGRAM, DEFAULT + files.field(2, bytes(rules))))
    assert tokenizer.encode("the T cats") == [3, 7, 0, 4, 5, 6]
