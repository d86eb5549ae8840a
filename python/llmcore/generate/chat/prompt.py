"""Turns messages into ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmcore.errors import Error
from llmcore.generate.chat.marks import marks_of
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.tokenizer import Tokenizer

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
