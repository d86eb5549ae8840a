"""Hugging Face's tokenizer.json (https://huggingface.co/docs/tokenizers): BPE of both kinds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore._files import write_atomically
from llmcore.errors import Error
from llmcore.tokenizer.formats import byte_level, metaspace
from llmcore.tokenizer.formats.files import MAX_ID_GAP, AddedToken, Reader
from llmcore.tokenizer.formats.post_processors import post_processor, read_post_processor
from llmcore.tokenizer.vocabulary import STRIPS_LEFT, STRIPS_RIGHT, WORD, SentencePieceVocabulary, Vocabulary

FLAGS = {"single_word": WORD, "lstrip": STRIPS_LEFT, "rstrip": STRIPS_RIGHT}


def read_tokenizer_json(path: Path) -> Vocabulary | SentencePieceVocabulary:
    read, data = Reader(path), path.read_bytes()
    # Nearly all of a large file is one vocabulary, of which Python need not make a million objects. What C++ does not
    # take as it is, is read here as a whole.
    quick = _core.JsonVocabulary.read(data)
    if quick is not None:
        document = _parse(path, quick.rest)
        vocabulary = None if metaspace.is_metaspace(document) else _read_document(read, document, quick)
        if vocabulary is not None:
            return vocabulary
    vocabulary = _read_document(read, _parse(path, data), None)
    assert vocabulary is not None
    return vocabulary


def _parse(path: Path, data: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            for twice, _ in pairs:
                if twice in seen:
                    break
                seen.add(twice)
            raise ValueError(f"{json.dumps(twice[:60], ensure_ascii=False)} twice in one object")
        return found

    try:
        return json.loads(data, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise Error("load", path, expected="JSON", got=error) from None


def _read_document(
    read: Reader, document: Any, quick: _core.JsonVocabulary | None
) -> Vocabulary | SentencePieceVocabulary | None:
    """quick: the vocabulary and the merges, where the document has null for them. None if these are not as they should
    be."""
    if not isinstance(document, dict):
        raise read.fail("the file", "an object", document)
    model = read.get(document, "model", dict)
    if read.get(model, "type", str, "model", "BPE") != "BPE":
        raise read.fail("model.type", "BPE", model["type"])
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            raise read.fail(f"model.{name}", "none (it is not supported)", model[name])
    added = _read_added_tokens(read, document)
    begin, end = read_post_processor(read, document.get("post_processor"))
    if metaspace.is_metaspace(document):
        return metaspace.read_metaspace(read, document, added)._replace(begin=begin, end=end)

    if model.get("byte_fallback"):
        raise read.fail("model.byte_fallback", "none (it is not supported here)", model["byte_fallback"])
    all_added = {content: token.id for content, token in added.items()}
    spaces = {content: token.id for content, token in added.items() if byte_level.is_space_token(content, token)}
    special_tokens = {content: id for content, id in all_added.items() if content not in spaces}
    tokens: list[bytes] = []
    merges: list[tuple[int, int]] = []
    parts = None
    if quick is not None:
        parts = quick.parts(list(all_added.items()), "".join(byte_level.byte_alphabet()), MAX_ID_GAP)
        if parts is None:
            return None
    else:
        tokens, ids = _read_vocab(read, read.get(model, "vocab", dict, "model"), all_added)
        merges = read.merges(read.get(model, "merges", list, "model"), ids, "model.merges")
    return Vocabulary(
        tokens=tokens,
        merges=merges,
        pattern=byte_level.read_pattern(read, document),
        whole_piece_first=read.get(model, "ignore_merges", bool, "model", False),
        special_tokens=special_tokens,
        added_tokens=spaces,
        flags={content: token.flags for content, token in added.items() if token.flags},
        begin=begin,
        end=end,
        normalizer=byte_level.read_normalizer(read, document, added),
        parts=parts,
    )


def _read_added_tokens(read: Reader, document: dict) -> dict[str, AddedToken]:
    tokens: dict[str, AddedToken] = {}
    added = read.get(document, "added_tokens", list, default=[])
    for number, entry in enumerate(added):
        where = f"added_tokens[{number}]"
        if not isinstance(entry, dict):
            raise read.fail(where, "an object", entry)
        content = read.get(entry, "content", str, where)
        if not content or content in tokens:
            raise read.fail(f"{where}.content", "a string that no other added token has", content)
        id = read.id(entry.get("id"), f"{where}.id", 1 << 31)
        special = read.get(entry, "special", bool, where, False)
        flags = sum(flag for name, flag in FLAGS.items() if read.get(entry, name, bool, where, False))
        tokens[content] = AddedToken(id, special, read.get(entry, "normalized", bool, where, not special), flags)
    return tokens


def _read_vocab(read: Reader, vocab: dict, special_tokens: dict[str, int]) -> tuple[list[bytes], dict[str, int]]:
    """The tokens by id, and the ids by their spelling in the file, without the special tokens."""
    for special, id in special_tokens.items():
        if vocab.get(special, id) != id or isinstance(vocab.get(special), bool):
            raise read.fail(_entry(special), f"the id in added_tokens, {id}", vocab[special])
    ids = {spelling: id for spelling, id in vocab.items() if spelling not in special_tokens}
    read.ids(ids, special_tokens, _entry)
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for (spelling, id), token in zip(ids.items(), byte_level.unspell(list(ids)), strict=True):
        if not token:
            raise read.fail(_entry(spelling), "the byte-level alphabet, and not nothing", spelling)
        tokens[id] = token
    return tokens, ids


def _entry(spelling: str) -> str:
    return f"model.vocab[{json.dumps(spelling[:60], ensure_ascii=False)}]"


def write_tokenizer_json(path: Path, vocabulary: Vocabulary | SentencePieceVocabulary) -> None:
    """Writes a vocabulary that has merges."""
    v = vocabulary
    if isinstance(v, SentencePieceVocabulary):
        pipeline, text = metaspace.pipeline(v), metaspace.spellings(v)
        added = [_added_token(c, id, False, False, v.flags.get(c, 0)) for c, id in v.added_tokens.items()]
        added += [_added_token(text[id], id, False, True) for id in v.symbols.values()]
        names = {id: content for content, id in v.special_tokens.items()}
        unknown = names.get(v.unknown) if v.unknown is not None else None
        model = {"unk_token": unknown, "fuse_unk": v.fuse_unknown, "byte_fallback": bool(v.byte_tokens)}
    else:
        pipeline = byte_level.pipeline(v)
        added = [_added_token(content, id, False, True) for content, id in v.added_tokens.items()]
        text = {id: byte_level.spell(token) for id, token in enumerate(v.tokens) if token}
        model = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": v.whole_piece_first}
    vocab = {token: id for id, token in text.items()}
    for special, id in v.special_tokens.items():
        if special in vocab:
            raise Error("save", expected="special tokens unlike ordinary ones", got=f"{special!r}, which is both")
        vocab[special] = id
        added.append(_added_token(special, id, True, False, v.flags.get(special, 0)))
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": sorted(added, key=lambda token: token["id"]),
        **pipeline,
        "post_processor": post_processor(v.begin, v.end, v.special_tokens),
        "model": {
            "type": "BPE",
            "dropout": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "ignore_merges": False,
            **model,
            "vocab": vocab,
            "merges": [[text[left], text[right]] for left, right in v.merges or []],
        },
    }
    write_atomically(path, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())


def _added_token(content: str, id: int, special: bool, normalized: bool, flags: int = 0) -> dict[str, Any]:
    found = {name: bool(flags & flag) for name, flag in FLAGS.items()}
    return {"id": id, "content": content, **found, "normalized": normalized, "special": special}
