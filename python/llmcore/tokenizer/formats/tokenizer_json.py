"""Hugging Face's tokenizer.json (https://huggingface.co/docs/tokenizers)."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from llmcore import _core
from llmcore._files import write_atomically
from llmcore.errors import Error
from llmcore.tokenizer.formats import beside, byte_level, metaspace
from llmcore.tokenizer.formats.files import MAX_ID_GAP, AddedToken, Reader
from llmcore.tokenizer.formats.kinds import kind_of
from llmcore.tokenizer.formats.post_processors import post_processor, read_post_processor
from llmcore.tokenizer.vocabulary import (
    NORMALIZED,
    STRIPS_LEFT,
    STRIPS_RIGHT,
    WORD,
    AnyVocabulary,
    PipelineVocabulary,
    SentencePieceVocabulary,
    Vocabulary,
)

_MOST_NESTED = 100
FLAGS = {"single_word": WORD, "lstrip": STRIPS_LEFT, "rstrip": STRIPS_RIGHT, "normalized": NORMALIZED}


def read_tokenizer_json(path: Path, with_folder: bool = False) -> AnyVocabulary:
    """with_folder: also the tokens that the files beside it name."""
    read, data = Reader(path), path.read_bytes()
    with_folder = with_folder and beside.has_tokens(path.parent)
    # Nearly all of a large file is one vocabulary, of which Python need not make a million objects. What C++ does not
    # take as it is, is read here as a whole.
    quick = _core.JsonVocabulary.read(data)
    if quick is not None:
        document = parse(path, quick.rest)
        if kind_of(document) == "byte-level":
            if with_folder:
                beside.add_tokens(path.parent, read, document, quick.find, quick.size)
            vocabulary = _read_byte_level(read, document, quick)
            if vocabulary is not None:
                return vocabulary
    document = parse(path, data)
    if not isinstance(document, dict):
        raise read.fail("the file", "an object", document)
    if with_folder:
        ids = _vocabulary_ids(document)
        beside.add_tokens(path.parent, read, document, lambda texts: [ids.get(text) for text in texts], len(ids))
    return read_document(read, document)


def read_document(read: Reader, document: dict[str, Any]) -> AnyVocabulary:
    kind = kind_of(document)
    if kind == "byte-level":
        vocabulary = _read_byte_level(read, document, None)
        assert vocabulary is not None
        return vocabulary
    begin, end = read_post_processor(read, document.get("post_processor"))
    if kind == "metaspace":
        added = _read_added_tokens(read, document)
        return metaspace.read_metaspace(read, document, added)._replace(begin=begin, end=end)
    document |= {"truncation": None, "padding": None}
    rest = {**document, "model": {**read.get(document, "model", dict), "vocab": None, "merges": None}}
    _check_depth(read, rest)
    text = json.dumps(rest, ensure_ascii=False)
    if half := re.search("[\ud800-\udfff]", text):
        raise read.fail("the file", "text that has a UTF-8 form", ascii(text[max(0, half.start() - 60) : half.end()]))
    return PipelineVocabulary(document, begin, end)


def _check_depth(read: Reader, document: dict[str, Any]) -> None:
    """Refuse what is nested so deep that what works its way down might not come back."""
    level: list[Any] = [document]
    for _ in range(_MOST_NESTED):
        inner = [v for value in level for v in (value.values() if isinstance(value, dict) else value)]
        level = [value for value in inner if isinstance(value, (dict, list))]
    if level:
        raise read.fail("the file", f"at most {_MOST_NESTED} levels", "more")


def _vocabulary_ids(document: dict) -> dict[str, int]:
    """The ids of the model's tokens, as far as they are what they should be, which is checked later."""
    model = document.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocab, list):
        vocab = {piece[0]: id for id, piece in enumerate(vocab) if isinstance(piece, list) and piece}
    if not isinstance(vocab, dict):
        return {}
    return {text: id for text, id in vocab.items() if isinstance(text, str) and isinstance(id, int)}


def parse(path: Path, data: bytes) -> Any:
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


def _read_byte_level(read: Reader, document: dict, quick: _core.JsonVocabulary | None) -> Vocabulary | None:
    """quick: the vocabulary and the merges, where the document has null for them. None if these are not as they should
    be."""
    model, added = read.get(document, "model", dict), _read_added_tokens(read, document)
    begin, end = read_post_processor(read, document.get("post_processor"))
    special_tokens = {content: token.id for content, token in added.items() if token.special}
    others = {content: token.id for content, token in added.items() if not token.special}
    tokens: list[bytes] = []
    merges: list[tuple[int, int]] = []
    parts = None
    if quick is not None:
        alphabet = "".join(byte_level.byte_alphabet())
        parts = quick.parts([(content, token.id) for content, token in added.items()], alphabet, MAX_ID_GAP)
        if parts is None:
            return None
    else:
        pairs = read.get(model, "merges", list, "model")
        tokens, ids = _read_vocab(read, read.get(model, "vocab", dict, "model"), special_tokens | others, pairs)
        merges = read.merges(pairs, ids, "model.merges")
    return Vocabulary(
        tokens=tokens,
        merges=merges,
        pattern=byte_level.read_pattern(read, document),
        whole_piece_first=read.get(model, "ignore_merges", bool, "model", False),
        special_tokens=special_tokens,
        added_tokens=others,
        flags={content: token.flags for content, token in added.items() if token.flags},
        begin=begin,
        end=end,
        normalizer="NFC" if document.get("normalizer") else None,
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
        given = {name: read.get(entry, name, bool, where, name == "normalized" and not special) for name in FLAGS}
        tokens[content] = AddedToken(id, special, sum(flag for name, flag in FLAGS.items() if given[name]))
    return tokens


def _read_vocab(read: Reader, vocab: dict, named: dict[str, int], merges: list) -> tuple[list[bytes], dict[str, int]]:
    """The tokens by id, and the ids by their spelling in the file. `named`: special and added tokens, which are left out
    unless merges go through them."""
    shared = [text for text in named if text in vocab]
    for text in shared:
        if vocab[text] != named[text] or isinstance(vocab[text], bool):
            raise read.fail(_entry(text), f"the id in added_tokens, {named[text]}", vocab[text])
    merged = _merged(merges) if shared else set()
    alone = {text for text in shared if text not in merged and text not in byte_level.byte_alphabet()}
    ids = {spelling: id for spelling, id in vocab.items() if spelling not in alone}
    read.ids(ids, {text: id for text, id in named.items() if text not in ids}, _entry)
    tokens = [b""] * (max(ids.values(), default=-1) + 1)
    for (spelling, id), token in zip(ids.items(), byte_level.unspell(list(ids)), strict=True):
        if not token:
            raise read.fail(_entry(spelling), "the byte-level alphabet, and not nothing", spelling)
        tokens[id] = token
    return tokens, ids


def _merged(merges: list) -> set[str]:
    """What merges join and make."""
    found: set[str] = set()
    for entry in merges:
        sides = entry.split(" ") if isinstance(entry, str) else entry
        if isinstance(sides, list) and all(isinstance(side, str) for side in sides):
            found.update((*sides, "".join(sides)))
    return found


def _entry(spelling: str) -> str:
    return f"model.vocab[{json.dumps(spelling[:60], ensure_ascii=False)}]"


def file_name(vocabulary: AnyVocabulary) -> str:
    """Return the name of the file that a vocabulary is written to in a folder."""
    model = isinstance(vocabulary, PipelineVocabulary) and isinstance(vocabulary.document, bytes)
    return "tokenizer.model" if model else "tokenizer.json"


def write_tokenizer_json(path: Path, vocabulary: AnyVocabulary) -> None:
    """Writes a vocabulary that has merges, or what was read."""
    v = vocabulary
    if path.suffix != Path(file_name(v)).suffix:
        raise Error("save", path, expected=f"a path that ends in {Path(file_name(v)).suffix} for this vocabulary")
    if isinstance(v, PipelineVocabulary):
        return write_atomically(path, v.document) if isinstance(v.document, bytes) else _write(path, v.document)
    if isinstance(v, SentencePieceVocabulary):
        pipeline, text = metaspace.pipeline(v), metaspace.spellings(v)
        added = [_added_token(text[id], id, False, NORMALIZED) for id in v.symbols.values()]
        names = {id: content for content, id in v.special_tokens.items()}
        unknown = names.get(v.unknown) if v.unknown is not None else None
        model = {"unk_token": unknown, "fuse_unk": v.fuse_unknown, "byte_fallback": bool(v.byte_tokens)}
    else:
        pipeline, added = byte_level.pipeline(v), []
        text = {id: byte_level.spell(token) for id, token in enumerate(v.tokens) if token}
        model = {"unk_token": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": v.whole_piece_first}
    vocab = {token: id for id, token in text.items()}
    for content, id in {**v.special_tokens, **v.added_tokens}.items():
        if vocab.get(content, id) != id:
            raise Error("save", expected="special and added tokens unlike others", got=f"{content!r}, which is both")
        added.append(_added_token(content, id, content in v.special_tokens, v.flags.get(content, 0)))
    vocab |= v.special_tokens
    added.sort(key=lambda token: token["id"])
    # `tokenizers` gives those that are not in the vocabulary the ids that come next, whatever ids are written here.
    last = -1
    for token in added:
        if token["content"] not in vocab and token["id"] != max(len(vocab), last + 1):
            vocab |= v.added_tokens
        last = max(last, token["id"])
    document = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
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
    _write(path, document)


def _write(path: Path, document: dict[str, Any]) -> None:
    write_atomically(path, json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode())


def _added_token(content: str, id: int, special: bool, flags: int) -> dict[str, Any]:
    return {
        "id": id,
        "content": content,
        **{name: bool(flags & flag) for name, flag in FLAGS.items()},
        "special": special,
    }
