"""vocab.json and merges.txt, as GPT-2's tokenizer came: read as the tokenizer.json that transformers makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore.errors import Error
from llmcore.tokenizer.formats import beside
from llmcore.tokenizer.formats.files import Reader
from llmcore.tokenizer.formats.tokenizer_json import parse, read_document
from llmcore.tokenizer.patterns import REGEX
from llmcore.tokenizer.vocabulary import AnyVocabulary

_END = "<|endoftext|>"
# tokenizer_class -> (normalizer, pattern, the tokens that have a role where tokenizer_config.json names none).
_KINDS = {
    "GPT2Tokenizer": (None, None, {"bos_token": _END, "eos_token": _END, "unk_token": _END}),
    "Qwen2Tokenizer": ({"type": "NFC"}, REGEX["qwen2"], {"eos_token": _END, "unk_token": _END, "pad_token": _END}),
}
_OF_MODELS = {"gpt2": "GPT2Tokenizer", "gpt_neo": "GPT2Tokenizer", "qwen2": "Qwen2Tokenizer", "qwen3": "Qwen2Tokenizer"}


def class_of(folder: Path) -> str | None:
    """Return the tokenizer_class of a folder (without Fast), or the one that goes with its model_type."""
    config = read_json(folder / beside.CONFIG, "load") if (folder / beside.CONFIG).is_file() else {}
    name = config.get("tokenizer_class")
    if isinstance(name, str):
        return name.removesuffix("Fast")
    model = read_json(folder / "config.json", "load") if (folder / "config.json").is_file() else {}
    kind = model.get("model_type")
    return _OF_MODELS.get(kind) if isinstance(kind, str) else None


def read_vocab_merges(folder: Path) -> AnyVocabulary:
    path, kind = folder / "vocab.json", class_of(folder)
    if kind not in _KINDS:
        expected = f"tokenizer_class in {beside.CONFIG}, one of {', '.join(_KINDS)}, beside vocab.json and merges.txt"
        raise Error("load", folder, expected=f"{expected}; or a tokenizer.json", got=repr(kind))
    normalizer, regex, roles = _KINDS[kind]
    read = Reader(path)
    vocab = parse(path, path.read_bytes())
    if not isinstance(vocab, dict):
        raise read.fail("the file", "an object", vocab)
    config = read_json(folder / beside.CONFIG, "load") if (folder / beside.CONFIG).is_file() else {}
    config_reader = Reader(folder / beside.CONFIG)
    if config.get("add_bos_token"):
        raise config_reader.fail("add_bos_token", "false (it is not supported beside vocab.json)", True)
    prefix = config_reader.get(config, "add_prefix_space", bool, default=False)
    byte_level = {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex is None}
    steps: list[dict[str, Any]] = [byte_level]
    if regex is not None:
        steps.insert(0, {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False})
    document: dict[str, Any] = {
        "added_tokens": [],
        "normalizer": normalizer,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocab, "merges": _merges(folder / "merges.txt")},
    }
    ids = {text: id for text, id in vocab.items() if isinstance(id, int)}
    beside.add_tokens(folder, read, document, lambda texts: [ids.get(text) for text in texts], len(ids), roles)
    return read_document(read, document)


def _merges(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError:
        raise Error("load", path, expected="UTF-8") from None
    lines = [line.removesuffix("\r") for line in lines]
    merges = [line for line in lines[1 if lines[0].startswith("#version") else 0 :] if line]
    if wrong := next((line for line in merges if line.count(" ") != 1), None):
        raise Error("load", path, expected="two tokens on each line", got=repr(wrong[:80]))
    return merges
