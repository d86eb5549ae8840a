"""Fuzzes what reads vocabularies: a file is a Tokenizer or a ValueError that names it, whatever is in it. See README.md.

    python tests/fuzz/fuzz_files.py {json,tiktoken,gguf,pieces.gguf,model} [--replay] CORPUS [libFuzzer's options]

An input is a file, or, if it begins with a zero, edits of a good one. `--replay` runs every file of CORPUS once and
needs no atheris: for a core that was built with sanitizers.
"""

from __future__ import annotations

import base64
import copy
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

SAMPLE = "ab abc 12345 don't é中😀\n\n <|endoftext|>"
VALUES = [None, True, False, 0, -1, 1e99, 2**31, 2**63, "", "a", "ab", "\ud800", "Ġ", [], {}, ["a", "b"], [0, 0]]
VALUES += [r"\p{L}+", "[a-", "(?i:s)", "(a|b)*c{2,9}", "Split", "Digits", "ByteLevel", "Isolated", "Sequence", "BPE"]


class Edits:
    """Numbers drawn from an input; zeros when it is used up."""

    def __init__(self, data: bytes):
        self._data = iter(data)

    def __call__(self, limit: int) -> int:
        return (next(self._data, 0) << 8 | next(self._data, 0)) % max(limit, 1)


def edit_json(good: bytes, draw: Edits) -> bytes:
    """Replaces, removes or copies fields anywhere in the document."""
    document = json.loads(good)
    for _ in range(1 + draw(4)):
        where = document
        while True:
            keys = list(where) if isinstance(where, dict) else list(range(len(where)))
            if not keys:
                break
            key = keys[draw(len(keys))]
            if isinstance(where[key], (dict, list)) and draw(4):
                where = where[key]
                continue
            if action := draw(4):
                value = where[keys[draw(len(keys))]] if action == 1 else VALUES[draw(len(VALUES))]
                where[key] = copy.deepcopy(value)
            else:
                del where[key]
            break
    return json.dumps(document).encode()


def edit_bytes(good: bytes, draw: Edits) -> bytes:
    data = bytearray(good)
    for _ in range(1 + draw(8)):
        at = draw(len(data))
        data[at : at + draw(2)] = bytes(draw(256) for _ in range(draw(9)))
    return bytes(data)


def edit_metadata(fields: dict, draw: Edits) -> bytes:
    """Replaces, removes or changes fields of a GGUF file, and elements of its arrays."""
    import numpy as np

    from support.gguf_files import gguf

    changed = dict(fields)
    values = [
        "",
        "a",
        "<s>",
        "\u2581",
        "NFC",
        "default",
        "tekken",
        "gpt2",
        "llama",
        "</s>",
        "<0x0A>",
        "[x]",
        np.bool_(draw(2)),
    ]
    values += [
        np.uint32(draw(400)),
        np.int32(-1),
        np.float32("nan"),
        np.zeros(3, np.float32),
        np.arange(4),
        ["a"],
        ["a", "b"],
    ]
    for _ in range(1 + draw(4)):
        key = list(fields)[draw(len(fields))]
        value, action = changed.get(key), draw(4)
        if action == 0:
            changed.pop(key, None)
        elif action == 1 or value is None or isinstance(value, (str, np.generic)):
            changed[key] = values[draw(len(values))]
        elif isinstance(value, list):
            texts = [v for v in values if isinstance(v, str)]
            at = draw(len(value))
            changed[key] = [*value[:at], texts[draw(len(texts))], *value[at + draw(2) :]]
        else:
            value = value.copy()
            value[draw(max(len(value), 1)) : draw(400)] = draw(8)
            changed[key] = value
    return gguf(changed)


def good_file(kind: str) -> bytes:
    from llmcore.tokenizer import Tokenizer

    tokenizer = Tokenizer.train(iter([SAMPLE * 3]), 270)
    if kind == "json":
        return tokenizer.save(Path(tempfile.mkdtemp())).read_bytes()
    if kind == "tekken":
        tokens = [token for token in tokenizer.vocabulary.tokens if token]
        vocab = [{"rank": i, "token_bytes": base64.b64encode(token).decode()} for i, token in enumerate(tokens)]
        sizes = {"default_vocab_size": 2 + len(tokens), "default_num_special_tokens": 2}
        specials = [{"rank": i, "token_str": text} for i, text in enumerate(["<|endoftext|>", "<s>"])]
        config = {"pattern": r"\p{L}+|[^\p{L}]+", **sizes}
        return json.dumps({"config": config, "vocab": vocab, "special_tokens": specials}).encode()
    if kind == "config":
        token = {"content": "<|endoftext|>", "special": True, "lstrip": False}
        decoder = {str(tokenizer.end_of_text): token, str(tokenizer.vocab_size): {"content": "<a>", "rstrip": True}}
        roles = {"eos_token": token, "pad_token": "<a>", "additional_special_tokens": ["<a>", token]}
        return json.dumps({"added_tokens_decoder": decoder, **roles}).encode()
    if kind == "vocab":
        document = json.loads(tokenizer.save(Path(tempfile.mkdtemp())).read_bytes())
        return json.dumps({text: id for text, id in document["model"]["vocab"].items() if id < 256}).encode()
    if kind == "tiktoken":
        tokens = enumerate(tokenizer.vocabulary.tokens)
        return b"".join(base64.b64encode(token) + b" %d\n" % id for id, token in tokens if token)
    if kind == "model":
        from support import sentencepiece_files

        return sentencepiece_files.model(sentencepiece_files.llama_pieces(["ab", "abc", "\u2581ab", "\u2581abc"]))
    from support.gguf_files import gguf

    if kind == "pieces.gguf":
        return gguf(pieces_metadata())
    return gguf(byte_level_metadata())


def byte_level_metadata() -> dict:
    from llmcore.tokenizer import Tokenizer
    from support.gguf_files import vocabulary_metadata

    tokenizer = Tokenizer.train(iter([SAMPLE * 3]), 270)
    return vocabulary_metadata(tokenizer, "llama-bpe") | {"llmcore.tokenizer.normalizer": "NFC"}


def pieces_metadata() -> dict:
    """A vocabulary of SentencePiece's kind, with all fields about it that are read."""
    import numpy as np

    from support.sentencepiece_files import USER_DEFINED, llama_pieces

    pieces = [*llama_pieces(["ab", "abc", "\u2581ab", "\u2581abc"]), ("[x]", 0.0, USER_DEFINED)]
    texts, scores, kinds = zip(*pieces, strict=True)
    fields = {
        "model": "llama",
        "tokens": list(texts),
        "scores": np.array(scores, np.float32),
        "token_type": np.array(kinds, np.int32),
        "add_space_prefix": np.bool_(True),
        "add_eos_token": np.bool_(True),
        **{f"{name}_token_id": np.uint32(id) for id, name in enumerate(("unknown", "bos", "eos"))},
    }
    return {f"tokenizer.ggml.{name}": value for name, value in fields.items()} | {"general.name": "phi-3"}


def target(kind: str) -> Callable[[bytes], None]:
    from llmcore.tokenizer import Tokenizer

    folder = Path(tempfile.mkdtemp())
    names = {"tekken": "tekken.json", "config": "tokenizer_config.json", "vocab": "vocab.json"}
    path = folder / names.get(kind, f"tokenizer.{kind}")
    loaded = folder if kind in names else path
    if kind == "config":
        (folder / "tokenizer.json").write_bytes(good_file("json"))
    if kind == "vocab":
        (folder / "merges.txt").write_text("#version: 0.2\na b\n")
        (folder / "config.json").write_text('{"model_type": "gpt2"}')
    arguments = {"pattern": "cl100k", "special_tokens": ["<|endoftext|>"]} if kind == "tiktoken" else {}
    good: Any = good_file(kind)
    edit: Callable[[Any, Edits], bytes] = edit_json if kind in ("json", *names) else edit_bytes
    if kind.endswith("gguf"):
        good, edit = pieces_metadata() if kind == "pieces.gguf" else byte_level_metadata(), edit_metadata

    def run(data: bytes) -> None:
        path.write_bytes(edit(good, Edits(data[1:])) if data[:1] == b"\0" else data)
        try:
            tokenizer = Tokenizer.load(loaded, **arguments)
        except ValueError as error:
            if str(loaded) not in str(error) or "\n" in str(error):
                raise AssertionError("the error does not name the file") from error
            return
        try:
            ids = tokenizer.encode(SAMPLE, allowed_special="all")
        except ValueError:  # the vocabulary lacks some of the bytes
            return
        decoded = tokenizer.decode(ids)  # the others may have lost what is unknown, or what a step takes
        assert decoded == SAMPLE or kind in ("model", "pieces.gguf", "json", "config")

    return run


def main() -> None:
    kind, *rest = sys.argv[1:]
    if rest[0] == "--replay":
        run = target(kind)
        for file in sorted(Path(rest[1]).iterdir()):
            run(file.read_bytes())
        return
    import atheris

    corpus = Path(rest[0])
    corpus.mkdir(parents=True, exist_ok=True)
    with atheris.instrument_imports(include=["llmcore"]):
        run = target(kind)
    (corpus / "good").write_bytes(good_file(kind))
    for number in range(8):
        (corpus / f"edits{number}").write_bytes(bytes([0, *range(number, 40 + number)]))
    atheris.Setup([sys.argv[0], *rest], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
