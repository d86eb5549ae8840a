"""What a model learns of a conversation: its answers, each after the ids that the model is asked with."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from llmcore._sequences import common_prefix
from llmcore.errors import Error
from llmcore.generate.chat.generations import encoded, generations, of_messages, stretch
from llmcore.generate.chat.marks import marks_of
from llmcore.generate.chat.names import ALL_TURNS, LAST_TURN, MARKED
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.generate.chat.thoughts import thought_of, with_thought
from llmcore.tokenizer import Tokenizer

_MODEL_ROLES = ("assistant",)  # texts of the model itself
_NOTHING = ChatOptions()


class Rendering(NamedTuple):
    """The ids (N) of a conversation up to an answer, their loss mask (N), and the numbers of the messages learned."""

    ids: list[int]
    mask: list[bool]
    turns: tuple[int, ...]


class _Turn(NamedTuple):
    """An answer as the model is asked for it: the ids that prompt for it, those that it learns to give, and what the
    template writes after them."""

    asked: list[int]
    answer: list[int]
    after: list[int]

    def is_in(self, ids: list[int]) -> bool:
        """Whether these ids begin with what is asked, and the answer comes then."""
        n, m = len(self.asked), len(self.asked) + len(self.answer)
        return ids[:n] == self.asked and ids[n:m] == self.answer


def renderings(
    template: ChatTemplate,
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    end_ids: Sequence[int],
    first: int = 0,
    options: ChatOptions = _NOTHING,
    learn: str | None = None,
    seen: Counter[str] | None = None,
) -> list[Rendering]:
    """Return what is learned of a conversation from message number `first` on.

    learn: "all-turns", all that the assistant says, each answer with the token that ends it; "last-turn", the last of
    them; "marked", what the template has between {% generation %} and {% endgeneration %}, and no more. By default
    "marked" where the template has these marks, else "all-turns". A message whose `weight` is 0 is not learned.

    One rendering serves for all answers that it has as the model is asked for them. A template that renders earlier
    answers otherwise (without their thinking, with another end) makes more of them necessary, each up to an answer.
    Answers are encoded after exactly the ids that will prompt for them. seen: counts what is unusual.

    ValueError if the template does not put an answer after its own prompt, or ends it with none of end_ids, or if it has
    no marks and learn asks for them.
    """
    weights = _weights(messages)
    said: Sequence[Mapping[str, Any]] = messages
    if weights:  # only for us
        said = [{k: v for k, v in m.items() if k != "weight"} if isinstance(m, Mapping) else m for m in messages]
    chosen = template.chosen(options.chat_template, options.tools is not None)
    how = learn or (MARKED if chosen.marks_generations else ALL_TURNS)
    if how == MARKED and not chosen.marks_generations:
        raise Error(
            "chat",
            chosen.name,
            expected="{% generation %} marks in the template, or learn all-turns or last-turn",
            got="none",
        )
    conversation = _Conversation(
        template, tokenizer, said, tuple(end_ids), options, Counter() if seen is None else seen
    )
    turns = [i for i in conversation.answers if i >= first and weights.get(i, 1)]
    if how == LAST_TURN:
        turns = [i for i in turns if i == conversation.answers[-1]]
    if how == MARKED:
        return [conversation.marked(first, turns)] if turns else []
    return conversation.renderings(turns)


class _Conversation:
    """A conversation that is rendered and encoded."""

    def __init__(
        self,
        template: ChatTemplate,
        tokenizer: Tokenizer,
        messages: Sequence[Mapping[str, Any]],
        end_ids: tuple[int, ...],
        options: ChatOptions,
        seen: Counter[str],
    ):
        self.template, self.tokenizer, self.messages = template, tokenizer, messages
        self.end_ids, self.options, self.seen = end_ids, options, seen
        self._known: dict[tuple[int, bool], str] = {}
        self._marks = marks_of(tokenizer)
        self.rendered(len(messages), False)
        self.answers = [i for i, m in enumerate(messages) if m["role"] in _MODEL_ROLES]

    def rendered(self, count: int, prompt: bool) -> str:
        """Return the text of the first `count` messages."""
        if (count, prompt) not in self._known:
            self._known[count, prompt] = self._text(self.messages[:count], prompt)
        return self._known[count, prompt]

    def _text(self, messages: Sequence[Mapping[str, Any]], prompt: bool) -> str:
        text, self.marks = self.template.marked(self._marks, messages, prompt, self.options)
        return self.marks.whole(text)

    # ---- turns ----

    def renderings(self, numbers: Sequence[int]) -> list[Rendering]:
        """Return the fewest renderings with these answers."""
        turns = {i: turn for i in numbers if (turn := self._turn(i)) is not None}
        left, found = list(turns), []
        while left:
            last = turns[left[-1]]
            ids = [*last.asked, *last.answer, *last.after]
            served = [i for i in left if turns[i].is_in(ids)]
            mask = [False] * len(ids)
            for turn in map(turns.__getitem__, served):
                start = len(turn.asked)
                mask[start : start + len(turn.answer)] = [True] * len(turn.answer)
            found.append(Rendering(ids, mask, tuple(served)))
            left = [i for i in left if i not in served]
        return found[::-1]

    def _turn(self, i: int) -> _Turn | None:
        """Return an answer, or None for a greeting of which it cannot be told where it begins."""
        whole = self.rendered(i + 1, False)
        try:
            asked = self.rendered(i, True) if i else None
        except Error:  # a prompt of other roles than the template wants
            asked = None
        if asked is None:
            start = self._after_header(whole)
            if start is None and i == 0:
                self.seen["greetings"] += 1
                return None
        else:
            start = len(asked) if whole.startswith(asked) else None
        if start is not None:
            asked, answer = whole[:start], whole[start:]
        else:
            found = None if asked is None else with_thought(self.messages[i], asked, whole, self.marks)
            if asked is None or found is None:
                raise self._elsewhere(i, asked, whole)
            answer, added = found
            self.seen["thoughts"] += added
        thought = thought_of(self.messages[i])
        self.seen["lost thoughts"] += bool(thought) and thought not in self.marks.plain(answer)
        ended = any(id in self.end_ids for _, _, id in self.marks.tokens(answer))
        return self._encoded(asked, answer if ended else answer + self._next)

    def _elsewhere(self, i: int, asked: str | None, whole: str) -> Error:
        """Return the error for an answer that is not after its prompt."""
        name, expected = (
            self.template.name,
            f"a template that puts each answer after its prompt; message {i} is elsewhere",
        )
        same = 0 if asked is None else common_prefix(asked, whole)
        if asked is None or same < len(asked) // 2:
            return Error("chat", name, expected=expected)
        asks, has = (self.marks.plain(text[max(0, same - 20) :])[:60] for text in (asked, whole))
        more = "other messages, or chat_template_kwargs with which the template asks for such answers"
        return Error(
            "chat",
            f"{name}: message {i}",
            expected=f"what the template asks with, {asks!r}",
            got=f"{has!r}: give {more}",
        )

    @functools.cached_property
    def _next(self) -> str:
        """The control token with which the template begins the next question directly after an answer, if that ends texts,
        as in GLM-4: nothing else ends the answer, and the model has to write it."""
        answer = "Ipsa scientia."
        talk = [{"role": role, "content": text} for role, text in (("user", "a"), ("assistant", answer), ("user", "b"))]
        try:
            _, found, after = self._text(talk, False).rpartition(answer)
        except Error:
            return ""
        start, end, id = next(iter(self.marks.tokens(after)), (1, 1, -1))
        return after[:end] if found and start == 0 and id in self.end_ids else ""

    def _after_header(self, whole: str) -> int | None:
        """Return where the only answer begins in a text that no prompt came before, by what the template writes before
        others; None if that is not there exactly once."""
        header = self._header
        at = whole.find(header) if header else -1
        return at + len(header) if at >= 0 and whole.count(header) == 1 else None

    @functools.cached_property
    def _header(self) -> str:
        """What the template writes before an answer."""
        asked = [{"role": "user", "content": "a"}]
        try:
            without, prompt = self._text(asked, False), self._text(asked, True)
        except Error:
            return ""
        same = common_prefix(without, prompt)
        cut = (start for start, end, _ in self.marks.tokens(prompt) if start < same < end)  # in a control token
        return prompt[next(cut, same) :]

    def _end(self, answer: str) -> int | None:
        """Return where the token ends that ends an answer: the last that ends texts, or an earlier one with nothing but
        white space between them."""
        spans = [(start, end) for start, end, id in self.marks.tokens(answer) if id in self.end_ids]
        while len(spans) > 1 and not answer[spans[-2][1] : spans[-1][0]].strip():
            spans.pop()
        return spans[-1][1] if spans else None

    def _encoded(self, asked: str, said: str) -> _Turn:
        text, start = asked + said, len(asked)
        end = self._end(said)
        ids_of = functools.partial(stretch, self.marks, self.tokenizer, text, self.marks.tokens(text))
        answer = ids_of(start, len(text) if end is None else start + end)
        if end is not None:
            return _Turn(ids_of(0, start), answer, ids_of(start + end, len(text)))
        last = max((k for k, id in enumerate(answer) if id in self.end_ids), default=-1)
        if last < 0:
            raise Error("chat", self.template.name, expected="an answer that ends with a token that ends texts")
        return _Turn(ids_of(0, start), answer[: last + 1], answer[last + 1 :])

    def marked(self, first: int, turns: Sequence[int]) -> Rendering:
        """Return the whole conversation with what the template marks, from message `first` on and in these answers."""
        given = (self.template, self.tokenizer, self.messages, self.options)
        found = generations(*given)
        start = 0
        if first:
            asked = self.rendered(first, True)
            start = len(asked) if found.text.startswith(asked) else 0
        spans = found.spans
        if turns != [i for i in self.answers if i >= first] or (first and not start):
            spans = of_messages(found, *given, self.answers, turns)
        spans = [(max(s, start), e) for s, e in spans if e > start]
        ends = [(s, e) for s, e, id in found.marks.tokens(found.text) if id in self.end_ids]
        for s, e in spans:
            after = next((t for t in ends if t[0] >= e), None)
            if after and not found.text[e : after[0]].strip() and not any(s <= t[0] and t[1] <= e for t in ends):
                self.seen["ends"] += 1
        return Rendering(*encoded(found._replace(spans=spans), self.tokenizer), tuple(turns))


def _weights(messages: Any) -> dict[int, int]:
    """Return the messages' `weight`, as in OpenAI's files, by number: 0 for those that are not learned."""
    found = {}
    for i, message in enumerate(messages if isinstance(messages, (list, tuple)) else ()):
        weight = message.get("weight") if isinstance(message, Mapping) else None
        if weight is None:
            continue
        if isinstance(weight, bool) or weight not in (0, 1):
            raise Error("chat", f"messages[{i}]", expected="a weight of 0 or 1", got=f"{weight!r:.50}")
        found[i] = int(weight)
    return found
