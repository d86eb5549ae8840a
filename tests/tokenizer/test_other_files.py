"""Vocabularies in files other than tokenizer.json: tekken.json, vocab.json with merges.txt, tiktoken's ranks beside a
configuration. Ids by the formats' own rules; the peers' tests ask mistral-common, transformers and tiktoken."""

import base64
import json

import pytest

from llmcore.tokenizer import Tokenizer
from llmcore.tokenizer.patterns import REGEX

TEKKEN_PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
MERGES = [("h", "e"), ("l", "l"), ("he", "ll"), ("hell", "o"), (" ", "hello"), ("3", "4")]
RANKS = [*(bytes([byte]) for byte in range(256)), *("".join(pair).encode() for pair in MERGES)]
SPECIAL = ["<unk>", "<s>", "</s>", "[INST]"]


def tekken(special_tokens=SPECIAL, **changes):
    vocab = [{"rank": i, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for i, t in enumerate(RANKS)]
    sizes = {"num_vocab_tokens": len(RANKS), "default_vocab_size": 6 + len(RANKS) - 1, "default_num_special_tokens": 6}
    document = {"config": {"pattern": TEKKEN_PATTERN, "version": "v7", **sizes}, "vocab": vocab}
    if special_tokens is not None:
        entries = [{"rank": i, "token_str": text, "is_control": True} for i, text in enumerate(special_tokens)]
        document["special_tokens"] = entries
    return document | changes


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return folder


def test_tekken(tmp_path):
    tokenizer = Tokenizer.load(write(tmp_path, tekken__json=tekken()))
    assert tokenizer.special_tokens == {**{t: i for i, t in enumerate(SPECIAL)}, "<SPECIAL_4>": 4, "<SPECIAL_5>": 5}
    assert tokenizer.begin == (1,)
    assert tokenizer.vocab_size == 6 + len(RANKS) - 1  # the last rank is beyond config.default_vocab_size
    assert tokenizer.encode("hello hello 34") == [6 + 259, 6 + 260, 6 + 32, 6 + 51, 6 + 52]
    assert tokenizer.encode("[INST]a", allowed_special="all") == [3, 6 + 97]
    assert tokenizer.decode([1, 6 + 260]) == "<s> hello"
    assert Tokenizer.load(tmp_path / "tekken.json") == tokenizer
    again = Tokenizer.load(tokenizer.save(tmp_path / "saved"))
    assert again.encode("hello hello 34") == tokenizer.encode("hello hello 34")
    old = Tokenizer.load(write(tmp_path / "old", tekken__json=tekken(None)) / "tekken.json")
    assert list(old.special_tokens.items())[-1] == ("[AVAILABLE_TOOLS]", 5)


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (tekken(vocab=[]), r"vocab: expected at least 261 tokens \(config.default_vocab_size\), got 0"),
        (tekken(config={}), r"config.default_vocab_size: expected an id from 0"),
        (tekken(vocab=[{"rank": 1}] * 300), r"vocab\[0\]: expected the token of rank 0"),
        (
            tekken(vocab=[{"rank": 0, "token_bytes": "!"}] * 300),
            r"vocab\[0\].token_bytes: expected bytes in base64, got !",
        ),
        (tekken(["<s>"] * 2), "special_tokens: expected distinct texts"),
        (tekken([*SPECIAL, "a", "b", "c"]), r"special_tokens\[6\].rank: expected an id from 0 to 5, got 6"),
    ],
)
def test_broken_tekken(tmp_path, document, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(write(tmp_path, tekken__json=document))


@pytest.mark.peers
def test_tekken_as_mistral(tmp_path):
    tekken_module = pytest.importorskip("mistral_common.tokens.tokenizers.tekken")
    write(tmp_path, tekken__json=tekken())
    theirs = tekken_module.Tekkenizer.from_file(tmp_path / "tekken.json")
    ours = Tokenizer.load(tmp_path)
    for text in ("hello hello 34", "Hello\n\n  wörld", "[INST] 日本 \U0001f600"):
        assert ours.encode_ordinary(text) == theirs.encode(text, bos=False, eos=False)


# ---- vocab.json and merges.txt ----


def gpt2_files(**config):
    from llmcore.tokenizer.formats.byte_level import spell

    vocab = {spell(token): id for id, token in enumerate(RANKS)}
    lines = [f"{spell(left.encode())} {spell(right.encode())}" for left, right in MERGES]
    return {
        "vocab__json": vocab,
        "merges__txt": "#version: 0.2\n" + "\n".join(lines) + "\n",
        "tokenizer_config__json": config,
    }


KINDS = [
    ({"tokenizer_class": "GPT2Tokenizer", "eos_token": "<x>"}, {"<|endoftext|>": 262, "<x>": 263}, [51, 52], False),
    ({"tokenizer_class": "Qwen2TokenizerFast", "eos_token": "<x>"}, {"<x>": 262, "<|endoftext|>": 263}, [51, 52], True),
    ({"tokenizer_class": "GPT2Tokenizer"}, {"<|endoftext|>": 262}, [51, 52], False),
]


@pytest.mark.parametrize(("config", "specials", "digits", "composed"), KINDS)
def test_vocab_and_merges(tmp_path, config, specials, digits, composed):
    tokenizer = Tokenizer.load(write(tmp_path, **gpt2_files(**config)))
    assert tokenizer.special_tokens == specials
    assert tokenizer.encode("hello hello") == [259, 260]
    assert tokenizer.encode("34") == (digits if composed else [261])
    assert tokenizer.encode("e\u0301") == list(("\u00e9" if composed else "e\u0301").encode())
    assert Tokenizer.load(tokenizer.save(tmp_path / "saved")) == tokenizer


@pytest.mark.peers
@pytest.mark.parametrize(("config", "specials", "digits", "composed"), KINDS)
def test_vocab_and_merges_as_transformers(tmp_path, config, specials, digits, composed):
    transformers = pytest.importorskip("transformers")
    write(tmp_path, **gpt2_files(**config), config__json={"model_type": "gpt2"})
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    text = "hello hello 1234 e\u0301<|endoftext|><x>\n\n x"
    assert Tokenizer.load(tmp_path).encode(text, allowed_special="all") == theirs(text).input_ids


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer_config__json": {"tokenizer_class": "XLMTokenizer"}}, "one of GPT2Tokenizer, .* got 'XLMTokenizer'"),
        ({"tokenizer_config__json": {}}, "expected tokenizer_class in tokenizer_config.json, .* got None"),
        ({"merges__txt": "a b c\n"}, "merges.txt: expected two tokens on each line, got 'a b c'"),
        ({"merges__txt": "a \u00ff\u0100\n"}, "vocab.json: model.merges.0.: expected tokens of the vocabulary"),
        ({"vocab__json": []}, "vocab.json: the file: expected an object"),
        ({"tokenizer_config__json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True}}, "add_bos_token: expected false"),
    ],
)  # fmt: skip
def test_broken_vocab_and_merges(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(write(tmp_path, **gpt2_files(tokenizer_class="GPT2Tokenizer") | changes))


# ---- tiktoken's ranks ----

LINES = "".join(f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(RANKS))
DECODER = {"262": {"content": "<|begin|>", "special": True}, "265": {"content": "<tool>", "special": False}}


def test_ranks_beside_a_configuration(tmp_path):
    config = {"added_tokens_decoder": DECODER, "bos_token": "<|begin|>"}
    files = {"tokenizer__model": LINES, "tokenizer_config__json": config, "config__json": {"model_type": "llama"}}
    tokenizer = Tokenizer.load(write(tmp_path / "llama", **files))
    assert tokenizer.pattern == "llama3"
    assert (tokenizer.special_tokens, tokenizer.added_tokens) == ({"<|begin|>": 262}, {"<tool>": 265})
    assert tokenizer.encode("hello hello 34<tool>") == [259, 260, 32, 261, 265]
    kimi = {"tiktoken__model": LINES, "tokenizer_config__json": config | {"tokenizer_class": "TikTokenTokenizer"}}
    kimi_tokenizer = Tokenizer.load(write(tmp_path / "kimi", **kimi))
    assert [kimi_tokenizer.decode([i]) for i in kimi_tokenizer.encode("34漢a")][:1] == ["34"]
    qwen = {"qwen__tiktoken": LINES, "tokenizer_config__json": {"tokenizer_class": "QWenTokenizer"}}
    qwen_tokenizer = Tokenizer.load(write(tmp_path / "qwen", **qwen))
    assert qwen_tokenizer.special_tokens["<|im_end|>"] == 264
    assert qwen_tokenizer.special_tokens["<|extra_204|>"] == 262 + 207
    assert qwen_tokenizer.encode("34") == [51, 52]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "a folder with tokenizer_class or model_type one of .*; or give the file itself and pattern="),
        ({"tokenizer_class": "ChatGLM4Tokenizer"}, "added_tokens_decoder: expected the special tokens"),
        (
            {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": DECODER, "eos_token": "<e>"},
            "eos_token: expected a token of added_tokens_decoder, got <e>",
        ),
        (
            {"tokenizer_class": "ChatGLM4Tokenizer", "added_tokens_decoder": {"x": {}}},
            r"added_tokens_decoder\['x'\]: expected an id",
        ),
    ],
)
def test_ranks_without_what_they_need(tmp_path, config, message):
    write(tmp_path, tokenizer__model=LINES, tokenizer_config__json=config)
    with pytest.raises(ValueError, match=message):
        Tokenizer.load(tmp_path)
    with pytest.raises(ValueError, match=r"expected pattern=... \(tiktoken's files"):
        Tokenizer.load(tmp_path / "tokenizer.model")
    given = Tokenizer.load(tmp_path / "tokenizer.model", pattern="llama3", special_tokens=["<s>"])
    assert given.encode("34<s>", allowed_special="all") == [261, 262]


@pytest.mark.peers
def test_ranks_as_tiktoken(tmp_path):
    tiktoken = pytest.importorskip("tiktoken")
    config = {"added_tokens_decoder": DECODER}
    write(tmp_path, tokenizer__model=LINES, tokenizer_config__json=config, config__json={"model_type": "llama"})
    ours = Tokenizer.load(tmp_path)
    ranks = {token: rank for rank, token in enumerate(RANKS)}
    theirs = tiktoken.Encoding("x", pat_str=REGEX["llama3"], mergeable_ranks=ranks, special_tokens={"<|begin|>": 262})
    for text in ("hello hello 34", "<|begin|>3434 hellohello", "é日本\n\n x"):
        assert ours.encode(text, allowed_special="all") == theirs.encode(text, allowed_special="all")
