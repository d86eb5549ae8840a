"""The tokens that files beside a tokenizer.json name: tokenizer_config.json (added_tokens_decoder, eos_token and the like),
and, where that has no added_tokens_decoder, special_tokens_map.json and added_tokens.json. transformers 5 takes them so."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmcore._files import read_json
from llmcore.tokenizer.formats.files import Reader

CONFIG, _MAP, _ADDED = "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"
_NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


def has_tokens(folder: Path) -> bool:
    return any((folder / name).is_file() for name in (CONFIG, _MAP, _ADDED))


def add_tokens(
    folder: Path,
    read: Reader,
    document: dict[str, Any],
    find: Callable[[list[str]], list[int | None]],
    size: int,
    roles: Mapping[str, str] | None = None,
) -> None:
    """Put the tokens into a tokenizer.json's added_tokens. find: gives the ids that the model's vocabulary has for some
    texts; size: how many tokens are in it. roles: the tokens with a role where tokenizer_config.json names none."""
    config = {**(roles or {}), **_object(folder / CONFIG)}
    entries: dict[str, dict[str, Any]] = {}
    for entry in read.get(document, "added_tokens", list, default=[]):
        if isinstance(entry, dict) and isinstance(entry.get("content"), str):
            read.utf8(entry["content"], "added_tokens")
            entries[entry["content"]] = entry
    given: dict[str, tuple[Reader, str, Any]] = {}  # the id that a file gives a token, and where
    found: list[dict[str, Any]] = []
    names = dict.fromkeys(config, Reader(folder / CONFIG))
    if config.get("added_tokens_decoder") is not None:
        reader = Reader(folder / CONFIG)
        decoder = reader.get(config, "added_tokens_decoder", dict)
        for key in sorted(decoder, key=lambda key: (len(key), key)):
            where = f"added_tokens_decoder[{key!r}]"
            if not key.isdecimal():
                raise reader.fail(where, "an id", key)
            entry = _entry(reader, reader.get(decoder, key, dict, "added_tokens_decoder"), where)
            if entry["content"] in given:
                raise reader.fail(f"{where}.content", "a text that no other id has", entry["content"])
            given[entry["content"]] = reader, where, int(key)
            found.append(entry)
    else:
        given_roles, reader = _object(folder / _MAP), Reader(folder / _ADDED)
        config |= given_roles
        names |= dict.fromkeys(given_roles, Reader(folder / _MAP))
        ids = {text: reader.id(id, repr(text), 1 << 31) for text, id in _object(folder / _ADDED).items() if text}
        for text, id in sorted(ids.items(), key=lambda item: item[1]):
            reader.utf8(text, repr(text))
            given[text] = reader, repr(text), id
            if text not in entries:
                found.append({"content": text, **dict.fromkeys(_FLAGS, False), "normalized": True})
    known = entries | {entry["content"]: entry for entry in found}
    for entry in _named_tokens(names, config):
        if entry["content"] in known:
            known[entry["content"]]["special"] = True
        else:
            known[entry["content"]] = entry
    ids_known = {text: entry.get("id") for text, entry in entries.items()}
    missing = [text for text in known if text not in entries]
    ids_known |= dict(zip(missing, find(missing), strict=True))
    used = [id for id in ids_known.values() if isinstance(id, int)]
    fresh = max(size, max(used, default=-1) + 1)
    for text in missing:
        if ids_known[text] is None:
            ids_known[text], fresh = fresh, fresh + 1
    for text, (reader, where, id) in given.items():
        if id != ids_known[text]:
            theirs = "what" if text in missing else "the id that"
            raise reader.fail(where, f"{theirs} {read.path.name} gives {text!r}, {ids_known[text]}", id)
    document["added_tokens"] = [{**entry, "id": ids_known[text]} for text, entry in known.items()]


def _object(path: Path) -> dict[str, Any]:
    return read_json(path, "load") if path.is_file() else {}


def _entry(read: Reader, value: Any, where: str) -> dict[str, Any]:
    """Check a token that is given as an object."""
    if not isinstance(value, dict):
        raise read.fail(where, "an object", value)
    special = read.get(value, "special", bool, where, False)
    flags = {name: read.get(value, name, bool, where, name == "normalized" and not special) for name in _FLAGS}
    content = read.get(value, "content", str, where)
    if not content:
        raise read.fail(f"{where}.content", "a text", content)
    read.utf8(content, f"{where}.content")
    return {"content": content, **flags}


def _special(value: Any) -> Any:
    if isinstance(value, str):
        return {"content": value, "special": True, "normalized": False}
    return {"normalized": False, **value, "special": True} if isinstance(value, dict) else value


def _named_tokens(names: dict[str, Reader], config: dict[str, Any]) -> list[dict[str, Any]]:
    """The tokens with a role, in the order in which they get ids; these are special tokens, whatever their flags. names:
    the files that the names stand in."""
    values: dict[str, Any] = {name: config.get(name) for name in _NAMED}
    values |= {name: v for name, v in config.items() if name.endswith("_token") and isinstance(v, (str, dict))}
    for name in _LISTS:
        more = config.get(name) or []
        items = more.items() if isinstance(more, dict) else enumerate(more) if isinstance(more, list) else None
        if items is None:
            raise names[name].fail(name, "a list of tokens", more)
        values |= {f"{name}[{key!r}]": value for key, value in items}
    found = []
    for name, value in values.items():
        if value:
            found.append(_entry(names[name.split("[")[0]], _special(value), name))
    return found
