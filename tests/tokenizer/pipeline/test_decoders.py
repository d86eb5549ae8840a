"""Decoders, one token at a time: what they give is worked out by hand; test_pipeline_peers.py compares with Hugging
Face's own."""

from pathlib import Path

import pytest

from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.pipeline.decoders import read_decoder

REPLACE = {"type": "Replace", "pattern": {"String": "_"}, "content": " "}
LLAMA = [REPLACE, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]

BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def sequence(*decoders):
    return {"type": "Sequence", "decoders": list(decoders)}


@pytest.mark.parametrize(
    ("decoder", "tokens", "text"),
    [
        (None, ["a", "b", "##c"], "a b ##c"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, ["un", "til</w>", "now</w>"], "until now"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": False}, ["##a", "b", "##c", "."], "##a bc ."),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, ["a", "b", "##c", ".", "'m"], "a bc.'m"),
        ({"type": "Metaspace", "replacement": "_"}, ["_a", "_b_", "c"], "a b c"),
        ({"type": "Metaspace", "replacement": "_", "prepend_scheme": "never"}, ["_a", "_b"], " a b"),
        (BYTE_LEVEL, ["\u0120\u00c3", "\u00a9", "\u4e2d", "\u00c3"], " \u00e9\u4e2d\ufffd"),
        (
            {"type": "CTC", "pad_token": "<pad>", "word_delimiter_token": "|", "cleanup": True},
            ["h", "h", "<pad>", "h", "|", "|", "i"],
            "hh i",
        ),
        ({"type": "ByteFallback"}, ["a", "<0xC3>", "<0xA9>", "b", "<0xC3>", "<0x41>"], "a\u00e9b\ufffd\ufffd"),
        ({"type": "Strip", "content": "_", "start": 1, "stop": 2}, ["__a___", "_", "b"], "_a_b"),
        (
            sequence({"type": "Fuse"}, {"type": "Strip", "content": "_", "start": 1, "stop": 1}),
            ["__a_", "_b_"],
            "_a__b",
        ),
        (sequence(*LLAMA), ["_", "_a", "<0xE4>", "<0xB8>", "<0xAD>", "_b"], " a\u4e2d b"),
        (sequence({"type": "Fuse"}, {"type": "WordPiece", "prefix": "a", "cleanup": False}), ["a", "b"], "ab"),
        (sequence({"type": "Fuse"}, REPLACE | {"pattern": {"String": "ab"}}), ["a", "b", "a"], " a"),
        (sequence(), ["a", "b"], "ab"),
    ],
)
def test_decoding(decoder, tokens, text):
    read = read_decoder(Reader(Path("file")), decoder, "decoder")
    assert read.decode(tokens) == text
    stream = read.start(False)
    assert "".join([*map(stream.push, tokens), stream.finish()]) == text


def test_streams_give_what_is_certain_at_once():
    stream = read_decoder(Reader(Path("file")), sequence(*LLAMA), "decoder").start(False)
    assert [stream.push(token) for token in ["_a", "_b", "<0x41>", "_c"]] == ["a", " b", "", "A c"]
    stream = read_decoder(Reader(Path("file")), sequence(*LLAMA), "decoder").start(True)
    assert stream.push("_a") == " a"  # goes on from another text


@pytest.mark.parametrize(
    ("decoder", "token", "spelled"),
    [
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "##ing", b"ing"),
        ({"type": "WordPiece", "prefix": "##", "cleanup": True}, "ing", b" ing"),
        ({"type": "BPEDecoder", "suffix": "</w>"}, "a</w>", b"a "),
        (BYTE_LEVEL, "\u0120\u00c3", b" \xc3"),
        (sequence(*LLAMA), "<0xC3>", b"\xc3"),
        (sequence(*LLAMA), "_a", b" a"),
        (None, "a", b" a"),
    ],
)
def test_what_a_token_spells(decoder, token, spelled):
    assert read_decoder(Reader(Path("file")), decoder, "decoder").spell(token) == spelled


@pytest.mark.parametrize(
    ("decoder", "message"),
    [
        ({"type": "Magic"}, "decoder.type: expected BPEDecoder, .* got Magic"),
        (sequence(REPLACE, {"type": "Magic"}), r"decoder.decoders\[1\].type"),
        ({"type": "Strip", "content": "ab", "start": 0, "stop": 0}, "decoder.content: expected one character"),
        ({"type": "Strip", "content": "a", "start": -1, "stop": 0}, "decoder.start"),
        ({"type": "Metaspace", "replacement": "_", "add_prefix_space": False}, "decoder.add_prefix_space"),
        ([], "decoder: expected an object"),
    ],
)
def test_broken_decoders_are_refused(decoder, message):
    with pytest.raises(ValueError, match=message):
        read_decoder(Reader(Path("file")), decoder, "decoder")


def test_nesting_is_bounded():
    decoder = sequence()
    for _ in range(200):
        decoder = sequence(decoder)
    with pytest.raises(ValueError, match="at most 20 sequences"):
        read_decoder(Reader(Path("file")), decoder, "decoder")
