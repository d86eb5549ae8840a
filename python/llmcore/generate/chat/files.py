"""Chat templates in model files: where Hugging Face folders and GGUF files keep them, one or several with names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmcore._files import read_json, write_atomically
from llmcore.errors import Error
from llmcore.generate.chat.template import DEFAULT, ChatTemplate

FILE, FOLDER = "chat_template.jinja", "additional_chat_templates"
_CONFIG_FILE, _MAP_FILE, _PROCESSOR_FILE = "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"
_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
_GGUF_KEY, _GGUF_NAMES = "tokenizer.chat_template", "tokenizer.chat_templates"
_GGUF_TOKENS = {"bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding"}  # as GGUF spells it


def read_chat_template(folder: Path) -> ChatTemplate | None:
    """Read the templates of a model folder: chat_template.jinja and additional_chat_templates/NAME.jinja, then what
    these do not name in the field chat_template of tokenizer_config.json or else of chat_template.json: a template, or a
    list of {"name", "template"}. None if there are none; ValueError names a broken file."""
    config = _read_config(folder / _CONFIG_FILE)
    sources: dict[str, str] = {}
    where = str(folder / FILE)
    for path in [folder / FILE, *sorted((folder / FOLDER).glob("*.jinja"))]:
        if path.is_file():
            try:
                sources[DEFAULT if path.name == FILE else path.stem] = path.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise Error("load", path, expected="UTF-8") from None
    field, at = config.get("chat_template"), folder / _CONFIG_FILE
    if field is None:
        at = folder / _PROCESSOR_FILE
        field = _read_config(at).get("chat_template")
    if field is not None:
        more = _named(field, f"{at}: chat_template")
        where = where if sources else f"{at}: chat_template"
        sources = {**more, **sources}
    return ChatTemplate(sources, where, tokens=_tokens(folder, config)) if sources else None


def gguf_chat_template(
    metadata: Mapping[str, Any], where: object, token: Callable[[str], str | None]
) -> ChatTemplate | None:
    """Read the templates of a GGUF file's metadata: tokenizer.chat_template, and tokenizer.chat_template.NAME for each of
    the names in tokenizer.chat_templates. token: returns the text of "bos", "eos", "unknown", ... or None."""
    sources = {}
    for key, source in metadata.items():
        if key == _GGUF_KEY or key.startswith(_GGUF_KEY + "."):
            sources[key[len(_GGUF_KEY) + 1 :] or DEFAULT] = source
    names = metadata.get(_GGUF_NAMES)
    for name in names if isinstance(names, list) else []:
        if name not in sources:
            raise Error("load", where, expected=f"{_GGUF_KEY}.{name:.100}, which {_GGUF_NAMES} names", got="none")
    tokens = {f"{name}_token": token(key) for name, key in _GGUF_TOKENS.items()}
    found = {name: text for name, text in tokens.items() if text}
    return ChatTemplate(sources, f"{where}: {_GGUF_KEY}", tokens=found) if sources else None


def save_chat_template(template: ChatTemplate | None, folder: Path) -> None:
    """Write templates to a model folder, as transformers does. ValueError for a name that no file can have."""
    for name, source in ({} if template is None else template.sources).items():
        if name == DEFAULT:
            write_atomically(folder / FILE, source.encode())
            continue
        if not re.fullmatch(r"\w[\w .-]{0,99}", name):
            raise Error("save", expected="names of chat templates that are names of files", got=f"{name!r:.100}")
        write_atomically(folder / FOLDER / f"{name}.jinja", source.encode())


def gguf_chat_metadata(template: ChatTemplate | None) -> dict[str, Any]:
    """Return the metadata of a GGUF file that hold templates. Names get "_" for what is no ASCII letter or digit, as
    llama.cpp's converter writes them; ValueError where two become one."""
    found: dict[str, Any] = {}
    names = []
    for name, source in ({} if template is None else template.sources).items():
        plain = re.sub("[^A-Za-z0-9]", "_", name)
        key = _GGUF_KEY if name == DEFAULT else f"{_GGUF_KEY}.{plain}"
        if key in found:
            raise Error(
                "save", expected="names of chat templates that differ in letters and digits", got=f"{name!r:.100}"
            )
        found[key] = source
        if name != DEFAULT:
            names.append(plain)
    return found | ({_GGUF_NAMES: names} if names else {})


def template_argument(given: str | None) -> str | None:
    """Return the chat template of a file, where that is what an argument names, else the argument itself."""
    if given is None or not given.endswith(".jinja"):
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise Error("chat", given, expected="UTF-8") from None
    except OSError as error:
        raise Error("chat", given, expected="a chat template", got=error.strerror) from None


def _named(field: Any, where: str) -> dict[str, Any]:
    """Return the templates of a field: one, a list of named ones, or an object of them."""
    if isinstance(field, list):
        for i, entry in enumerate(field):
            if not isinstance(entry, dict) or not isinstance(entry.get("name"), str) or "template" not in entry:
                got = f"{entry!r:.100}"
                raise Error("load", where, expected=f'{{"name": ..., "template": ...}} as number {i}', got=got)
        return {entry["name"]: entry["template"] for entry in field}
    return dict(field) if isinstance(field, dict) else {DEFAULT: field}


def _tokens(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables of templates that are tokens, by name."""
    values = {**_read_config(folder / _MAP_FILE), **{k: v for k, v in config.items() if v is not None}}
    named = values.get("extra_special_tokens")
    found = {name: _token_text(values.get(name)) for name in _TOKENS}
    found |= {str(k): _token_text(v) for k, v in named.items()} if isinstance(named, dict) else {}
    return {name: text for name, text in found.items() if text}


def _read_config(path: Path) -> dict[str, Any]:
    return read_json(path, "load") if path.is_file() else {}


def _token_text(token: Any) -> str:
    """Return the text of a token of tokenizer_config.json, which is a string, or an object with its text and flags."""
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else ""
