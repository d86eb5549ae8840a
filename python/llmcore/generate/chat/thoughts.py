"""Answers whose prompt begins a thought, <think>, which the template takes out again once they are written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from llmcore.generate.chat.marks import Marks
from llmcore.generate.chat.messages import REASONING

_OPENS = re.compile(r"<(\w+)>(\s*)\Z")


def thought_of(message: Mapping[str, Any]) -> str:
    """Return what a message has as its thought, in a field of its own or before </think>, without white space around it."""
    reasoning = next((message[name] for name in REASONING if isinstance(message.get(name), str)), None)
    content = message.get("content")
    if reasoning is None and isinstance(content, str):
        reasoning = content.rpartition("</think>")[0].strip().removeprefix("<think>")
    return (reasoning or "").strip()


def with_thought(message: Mapping[str, Any], asked: str, whole: str, marks: Marks) -> tuple[str, bool] | None:
    """Return what a model has to write after a prompt that ends with an opening tag, where the template renders the same
    message (`whole`) without: its thought, the closing tag, and what the template does write; and whether the thought is
    an empty one, because the message has none. None if this is not what the template does.

    DeepSeek-R1's distilled models ask with <think> and render what comes after </think> alone; Nemotron 3 asks with <think>
    and a line end, and renders <think></think>.
    """
    opens = _OPENS.search(marks.plain(asked))
    if opens is None or not whole.startswith(asked[: opens.start()]):
        return None
    rest = whole[opens.start() :]
    if rest.startswith(asked[opens.start() : opens.start(2)]):  # there is one, with other white space
        return rest[opens.start(2) - opens.start() :].lstrip(), False
    opening, closing = f"<{opens[1]}>", f"</{opens[1]}>"
    content = message.get("content") or ""
    if not isinstance(content, str):
        content = "".join(part if isinstance(part, str) else str(part.get("text", "")) for part in content)
    before, closed, said = content.rpartition(closing)
    rendered = next((t for t in map(marks.clean, (said, said.lstrip(), said.strip())) if rest.startswith(t)), None)
    if rendered is None:
        return None
    reasoning = next((message[name] for name in REASONING if isinstance(message.get(name), str)), None)
    close = marks.token(closing)
    if closed:
        thought = before.lstrip().removeprefix(opening) if before.lstrip().startswith(opening) else before
        thought = thought.removeprefix(opens[2])  # which the prompt has
        return f"{marks.clean(thought)}{close}{rest}", False
    thought = "" if reasoning is None else marks.clean(reasoning.strip("\n"))
    return f"{thought}\n{close}\n\n{rest.lstrip()}", reasoning is None
