"""Turns messages into ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcore.errors import Error
from llmcore.generate.chat.marks import marks_of
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.tokenizer import Tokenizer

_MODEL_ROLES = ("assistant",)  # texts of the model itself
_NOTHING = ChatOptions()


def chat_prompt(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool | None = None,
    options: ChatOptions = _NOTHING,
    continue_final_message: bool | str = False,
) -> list[int]:
    """See `TextModel.chat_prompt`."""
    if continue_final_message and add_generation_prompt:
        raise Error("chat", expected="add_generation_prompt or continue_final_message", got="both")
    add = not continue_final_message if add_generation_prompt is None else add_generation_prompt
    key = "content" if continue_final_message is True else continue_final_message or None
    text, marks = template.marked(marks_of(tokenizer), messages, add, options, key)
    return marks.encode(tokenizer, text)


def supervised_chat(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    end_ids: Sequence[int],
    first: int = 0,
    options: ChatOptions = _NOTHING,
) -> tuple[list[int], list[bool]]:
    """Return the ids of a conversation and its loss mask, which is True for what the assistant says from message number
    `first` on, including the token that ends its turn. Every answer is encoded separately, after exactly the ids that will
    prompt for it, as in generation.

    ValueError if the template does not put an answer directly after its own prompt, or ends it with none of end_ids.
    """
    rest, marks = template.marked(marks_of(tokenizer), messages, False, options)
    ids: list[int] = []
    loss_mask: list[bool] = []
    before = ""

    def rendered(messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        return template.marked(marks_of(tokenizer), messages, prompt, options)[0]

    def add(text: str, learn: bool) -> None:
        nonlocal ids, loss_mask
        new = marks.encode(tokenizer, text)
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
        prompt = rendered(messages[:i], True) if i else ""
        whole = rendered(messages[: i + 1], False) if i + 1 < len(messages) else rest
        if not (prompt.startswith(before) and whole.startswith(prompt)):
            raise Error(
                "chat",
                template.name,
                expected="a template that puts each answer after its prompt and leaves the messages before it alone; "
                f"message {i} is elsewhere",
            )
        add(prompt[len(before) :], False)
        add(whole[len(prompt) :], i >= first and message.get("weight", 1) != 0)
        before = whole
    if rest.startswith(before):
        add(rest[len(before) :], False)
    return ids, loss_mask
