"""tiktoken's files: a line for each token, in order of rank, which is its id."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from llmcore import _core
from llmcore._files import read_json, write_atomically
from llmcore.errors import Error
from llmcore.tokenizer.formats import beside
from llmcore.tokenizer.formats.files import MAX_ID_GAP, Reader
from llmcore.tokenizer.vocabulary import AnyVocabulary, Pattern, Vocabulary

if TYPE_CHECKING:
    from llmcore.tokenizer.encoders import Encoder

_CASES = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]"
_PREFIX, _CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_KIMI = (
    rf"[\p{{Han}}]+|{_PREFIX}{_CASES[0]}*{_CASES[1]}+{_CONTRACTION}|{_PREFIX}{_CASES[0]}+{_CASES[1]}*{_CONTRACTION}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# tokenizer_class or model_type -> pattern, where their files are tiktoken's.
_PATTERNS: dict[str, Pattern] = {
    "QWenTokenizer": "qwen2",
    "qwen": "qwen2",
    "ChatGLM4Tokenizer": "llama3",
    "kimi_k2": _KIMI,
    "TikTokenTokenizer": _KIMI,
    "llama": "llama3",
}


def read_tiktoken(path: Path, pattern: Pattern, special_tokens: dict[str, int] | Iterable[str]) -> Vocabulary:
    """Reads lines of `base64-of-the-bytes id`."""
    data = path.read_bytes()
    parsed = _core.read_ranks(data)
    if parsed is None:
        raise _wrong_line(path, data)
    found, ids = parsed
    tokens = found
    if ids != list(range(len(ids))):
        if len(set(ids)) < len(ids) or max(ids) >= len(ids) + MAX_ID_GAP:
            raise _wrong_line(path, data)
        tokens = [b""] * (max(ids) + 1)
        for id, token in zip(ids, found, strict=True):
            tokens[id] = token
    if not isinstance(special_tokens, dict):
        special_tokens = {special: len(tokens) + number for number, special in enumerate(special_tokens)}
    return Vocabulary(tokens, None, pattern, whole_piece_first=True, special_tokens=special_tokens)


def is_tiktoken(path: Path) -> bool:
    """Say whether a file holds tiktoken's ranks: a .tiktoken file, or one as Llama 3's tokenizer.model."""
    if path.suffix != ".model":
        return path.suffix == ".tiktoken"
    with open(path, "rb") as file:
        line = file.read(4096).split(b"\n")[0]
    return bool(line) and _core.read_ranks(line) is not None


def read_tiktoken_folder(path: Path) -> Vocabulary:
    """Read ranks with the pattern that goes with the folder's tokenizer_class or model_type, and the special tokens of its
    tokenizer_config.json."""
    folder, kinds = path.parent, []
    for name, field in ((beside.CONFIG, "tokenizer_class"), ("config.json", "model_type")):
        found = read_json(folder / name, "load") if (folder / name).is_file() else {}
        kinds.append(found.get(field))
        if name == beside.CONFIG:
            config = found
    pattern = next((_PATTERNS[kind] for kind in kinds if isinstance(kind, str) and kind in _PATTERNS), None)
    if pattern is None:
        known = f"tokenizer_class or model_type one of {', '.join(_PATTERNS)}"
        raise Error(
            "load", path, expected=f"a folder with {known}; or give the file itself and pattern=...", got=repr(kinds)
        )
    vocabulary = read_tiktoken(path, pattern, ())
    special_tokens: dict[str, int] = {}
    added_tokens: dict[str, int] = {}
    read = Reader(folder / beside.CONFIG)
    decoder = read.get(config, "added_tokens_decoder", dict, default={})
    for key in decoder:
        where = f"added_tokens_decoder[{key!r}]"
        entry = read.get(decoder, key, dict, "added_tokens_decoder")
        if not key.isdecimal() or any(entry.get(flag) for flag in ("lstrip", "rstrip", "single_word")):
            raise read.fail(where, "an id, and no lstrip, rstrip or single_word", key if not key.isdecimal() else entry)
        id = read.id(int(key), where, len(vocabulary.tokens) + MAX_ID_GAP)
        special = read.get(entry, "special", bool, where, False)
        (special_tokens if special else added_tokens)[read.get(entry, "content", str, where)] = id
    if not decoder and "QWenTokenizer" in kinds:
        names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))]
        special_tokens = {name: len(vocabulary.tokens) + i for i, name in enumerate(names)}
    elif not decoder:
        raise read.fail("added_tokens_decoder", "the special tokens, which the ranks do not have", None)
    for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
        text = config.get(role)
        text = text.get("content") if isinstance(text, dict) else text
        if text is not None and text not in special_tokens and text not in added_tokens:
            raise read.fail(role, "a token of added_tokens_decoder", text)
    return vocabulary._replace(special_tokens=special_tokens, added_tokens=added_tokens)


def _wrong_line(path: Path, data: bytes) -> ValueError:
    lines, seen = data.split(b"\n"), set()

    def complaint(line: bytes) -> str | None:
        parsed = _core.read_ranks(line)
        if parsed is None:
            return "a token in base64 and its id"
        for id in parsed[1]:
            if id in seen or id >= len(lines) + MAX_ID_GAP:
                return "an id of its own near the others"
            seen.add(id)
        return None

    number, expected = next((n, text) for n, line in enumerate(lines, 1) if (text := complaint(line)))
    return Error("load", f"{path}: line {number}", expected=expected, got=f"{lines[number - 1][:80]!r}")


def write_tiktoken(path: Path, vocabulary: AnyVocabulary, bpe: Encoder) -> None:
    """Writes the ordinary tokens. ValueError unless tiktoken's rule gives the same ids as the vocabulary's own."""
    if not isinstance(vocabulary, Vocabulary):
        raise Error("save", path, expected="a byte-level vocabulary for a .tiktoken file", got="one of another kind")
    assert isinstance(bpe, _core.BPE)
    if not bpe.merges_by_rank():
        raise Error(
            "save",
            path,
            expected="a token for each byte and merges that make one token each, in order of their ids, for a "
            ".tiktoken file, which has no merges; save as .json",
        )
    lines = (b"%s %d\n" % (base64.b64encode(token), id) for id, token in enumerate(vocabulary.tokens) if token)
    write_atomically(path, b"".join(lines))
