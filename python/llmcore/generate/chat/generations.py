"""What a chat template marks as the model's own, with {% generation %} and {% endgeneration %}."""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from llmcore.errors import Error
from llmcore.generate.chat.marks import BEGINS, ENDS, Marks, marks_of
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.tokenizer import Tokenizer

Spans = list[tuple[int, int]]


class Generations(NamedTuple):
    """A rendered conversation, and where in it is what its template marks, from which message on."""

    text: str
    spans: Spans
    marks: Marks


def generations(
    template: ChatTemplate, tokenizer: Tokenizer, messages: Sequence[Mapping[str, Any]], options: ChatOptions
) -> Generations:
    """Render a conversation with the places that its template marks, those within others joined with them."""
    text, marks = template.marked(marks_of(tokenizer), messages, False, options, generation=True)
    spans: Spans = []
    plain, depth, at, start = [], 0, 0, 0
    last = 0
    for i, c in enumerate(text):
        if c not in (BEGINS, ENDS):
            continue
        plain.append(text[last:i])
        at, last = at + i - last, i + 1
        depth += 1 if c == BEGINS else -1
        if c == BEGINS and depth == 1:
            start = at
        elif c == ENDS and depth == 0 and start < at:
            spans.append((start, at))
    return Generations(marks.whole("".join([*plain, text[last:]])), spans, marks)


def of_messages(
    found: Generations,
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    options: ChatOptions,
    answers: Sequence[int],
    learned: Sequence[int],
) -> Spans:
    """Return those of the marked places that belong to these of the answers. ValueError where it cannot be told."""
    if len(found.spans) == len(answers):
        return [span for span, i in zip(found.spans, answers, strict=True) if i in learned]
    counts = [
        len(generations(template, tokenizer, messages[:i], options).spans) if i else 0 for i in answers
    ]  # before each answer
    ends = [*counts[1:], len(found.spans)]
    if counts != sorted(counts) or counts[-1] > ends[-1]:
        raise Error(
            "chat", template.name, expected="{% generation %} marks that belong to one message each, or learn all-turns"
        )
    return [
        span
        for i, start, end in zip(answers, counts, ends, strict=True)
        if i in learned
        for span in found.spans[start:end]
    ]


def encoded(found: Generations, tokenizer: Tokenizer) -> tuple[list[int], list[bool]]:
    """Return the ids of a rendered conversation, and which of them have a part in its marked places."""
    text, spans, marks = found
    plain, ids = marks.plain(text), marks.encode(tokenizer, text)
    at = _places(tokenizer, ids, plain)
    if at is not None:
        size = [0, *accumulate(len(c.encode("utf-8", "surrogatepass")) for c in plain)]
        wanted = [(size[start], size[end]) for start, end in spans]
        # A token of nothing, a space that the tokenizer puts before a text, belongs to what comes after it.
        return ids, [any(max(s, start) < min(max(e, s + 1), end) for start, end in wanted) for s, e in at]
    ids = []
    mask: list[bool] = []
    tokens, edges = marks.tokens(text), [0, *(edge for span in spans for edge in span), len(text)]
    for i, (start, end) in enumerate(pairwise(edges)):
        ids += stretch(marks, tokenizer, text, tokens, start, end)
        mask += [i % 2 == 1] * (len(ids) - len(mask))
    return ids, mask


def stretch(
    marks: Marks, tokenizer: Tokenizer, text: str, tokens: Sequence[tuple[int, int, int]], start: int, end: int
) -> list[int]:
    """Return the ids of text[start:end] as they are after what stands before it: where a token would go over its
    beginning, as those of a text of its own. tokens: the control tokens of the whole text."""
    if start == end:
        return []
    k = bisect.bisect_right(tokens, start, key=lambda t: t[1])
    before = tokens[k - 1][0] if k else 0
    known = marks.encode(tokenizer, text[before:start])
    both = marks.encode(tokenizer, text[before:end])
    if both[: len(known)] == known:
        return both[len(known) :]
    return marks.encode(tokenizer, text[start:end])


def _places(tokenizer: Tokenizer, ids: Sequence[int], text: str) -> Spans | None:
    """Return where in a text's UTF-8 bytes each of its tokens is: they may lack white space that tokens beside it take, and
    have a space that the tokenizer puts before. None if the tokens spell something else."""
    data, at, found = text.encode("utf-8", "surrogatepass"), 0, []
    for id in ids:
        token = tokenizer.token_bytes(id)
        start = at
        while not data.startswith(token, start):
            if token[:1] == b" " and data.startswith(token[1:], start):
                token = token[1:]
            elif data[start : start + 1].isspace():
                start += 1
            else:
                return None
        at = start + len(token)
        found.append((start, at))
    return None if data[at:].strip() else found
