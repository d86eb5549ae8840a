"""Turns messages into ids."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from llmcore.errors import ArgumentTypeError, Error
from llmcore.generate.chat.template import ChatTemplate
from llmcore.tokenizer import Tokenizer

# Private characters (Unicode's area B) that stand for special tokens in what people say until the template has run.
_FIRST_STANDIN, _LAST_STANDIN = 0x10E000, 0x10FFFD
_MODEL_ROLES = ("assistant",)  # texts of the model itself, in which special tokens may be meant


def chat_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> list[int]:
    """See `LanguageModel.chat_prompt`."""
    _check_messages(messages)
    return _encode(tokenizer, _render(template, tokenizer, messages, add_generation_prompt, tools))


def _standins(tokenizer: Tokenizer) -> dict[str, str]:
    specials = sorted(tokenizer.special_tokens, key=len, reverse=True)
    return {text: chr(_FIRST_STANDIN + i) for i, text in enumerate(specials[: _LAST_STANDIN - _FIRST_STANDIN])}


def _render(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """Render messages, with stand-ins for special tokens in what anybody but the model has said."""
    standins = _standins(tokenizer)
    foreign = [m if m["role"] in _MODEL_ROLES else _escape(m, standins) for m in messages]
    return template.render(foreign, add_generation_prompt, tools)


def _encode(tokenizer: Tokenizer, text: str) -> list[int]:
    """Return the ids of a rendered text: special tokens are special, stand-ins are the text that they stand for."""
    standins = _standins(tokenizer)
    specials, meant = list(standins), {c: special for special, c in standins.items()}
    ids: list[int] = []
    plain = ""  # text is encoded in one piece up to the next special token
    special = set(specials)
    for part, is_special in _split_at_specials(text, specials):
        if is_special and part in special:
            ids += tokenizer.encode_ordinary(_unescape(plain, meant))
            ids.append(tokenizer.special_tokens[part])
            plain = ""
        else:
            plain += part
    return ids + tokenizer.encode_ordinary(_unescape(plain, meant))


def supervised_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    end_ids: Sequence[int],
    first: int = 0,
) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation and its loss mask, which is True for what the assistant says from message number
    `first` on, including the token that ends its turn. Every answer is encoded separately, after exactly the ids that will
    prompt for it, as in generation.

    ValueError if the template does not put an answer directly after its own prompt, or ends it with none of end_ids.
    """
    _check_messages(messages)
    ids: list[int] = []
    loss_mask: list[bool] = []
    before = ""

    def add(text: str, learn: bool) -> None:
        nonlocal ids, loss_mask
        new = _encode(tokenizer, text)
        if learn:
            last = max((i for i, token in enumerate(new) if token in end_ids), default=None)
            if last is None:
                raise Error("chat", template.name, expected="an answer that ends with a token that ends texts")
            loss_mask += [True] * (last + 1) + [False] * (len(new) - last - 1)
        else:
            loss_mask += [False] * len(new)
        ids += new

    for i, message in enumerate(messages):
        if message["role"] not in _MODEL_ROLES:
            continue
        prompt = _render(template, tokenizer, messages[:i], True) if i else ""
        whole = _render(template, tokenizer, messages[: i + 1], False)
        if not (prompt.startswith(before) and whole.startswith(prompt)):
            raise Error(
                "chat",
                template.name,
                expected="a template that puts each answer after its prompt and leaves the messages before it alone; "
                f"message {i} is elsewhere",
            )
        add(prompt[len(before) :], False)
        add(whole[len(prompt) :], i >= first)
        before = whole
    rest = _render(template, tokenizer, messages, False)
    if rest.startswith(before):
        add(rest[len(before) :], False)
    return ids, loss_mask


def _split_at_specials(text: str, specials: Sequence[str]) -> list[tuple[str, bool]]:
    """Split a text at its special tokens, taking the longest where several could begin: (part, whether it is one)."""
    if not specials:
        return [(text, False)]
    found = re.split(f"({'|'.join(map(re.escape, specials))})", text)
    return [(part, i % 2 == 1) for i, part in enumerate(found) if part]


def _escape(value: Any, standins: Mapping[str, str]) -> Any:
    """Return a copy in which strings have stand-ins for special tokens, after existing private characters are replaced."""
    if isinstance(value, str):
        for special, standin in standins.items():
            value = value.replace(standin, "\ufffd").replace(special, standin)
        return value
    if isinstance(value, Mapping):
        return {key: v if key == "role" else _escape(v, standins) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_escape(v, standins) for v in value]
    return value


def _unescape(text: str, meant: Mapping[str, str]) -> str:
    for standin, special in meant.items():
        text = text.replace(standin, special)
    return text


def _check_messages(messages: Any) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentTypeError("chat", expected="a list of messages", got=type(messages).__name__)
    if not messages:
        raise Error("chat", expected="at least one message", got="none")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            expected = '{"role": ..., "content": ...}'
            raise Error("chat", f"messages[{i}]", expected=expected, got=f"{message!r:.200}")
        if not isinstance(message.get("content", ""), (str, list, type(None))):
            got = f"{message['content']!r:.200}"
            raise Error("chat", f"messages[{i}]", expected="content as a text", got=got)
