"""What the rows of a run become: examples with what is learned of them, cut to the context, and what is worth knowing about
them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmcore.data.examples import Example
from llmcore.generate import LanguageModel
from llmcore.generate.chat.learned import renderings
from llmcore.generate.chat.marks import marks_of
from llmcore.generate.chat.names import LAST_TURN, MARKED
from llmcore.generate.chat.template import ChatOptions
from llmcore.terminal import counted
from llmcore.train.config import FinetuneConfig


class Learning:
    """Makes examples for a model. learn: see `renderings`; by default the configuration's, or the last turn."""

    def __init__(self, lm: LanguageModel, config: FinetuneConfig | None = None, learn: str | None = None):
        self.lm = lm
        self._context = 0 if config is None else config.context
        self._learn = learn or (None if config is None else getattr(config, "learn", LAST_TURN))
        self._marks = marks_of(lm.tokenizer)
        self._seen: Counter[str] = Counter()
        self._spelled: dict[str, str] = {}  # a control token that a text spells, by the kind of text

    def conversation(self, messages: Sequence[Mapping[str, Any]], first: int, options: ChatOptions) -> list[Example]:
        """Return the examples of a conversation, of which messages from number `first` on are learned. Raises ValueError
        for one with nothing to learn."""
        found = self._rendered(messages, first, options, self._learn)
        if not any(any(r.mask[1:]) for r in found):
            raise ValueError("expected something to learn, got no token of an assistant or a completion")
        if len(found) > 1:
            self._seen["split"] += 1
        return self._cut([self._example(r.ids, r.mask) for r in found])

    def answer(self, messages: Sequence[Mapping[str, Any]], first: int, options: ChatOptions) -> Example:
        """Return an answer as one example. Where one rendering cannot serve for all of its turns, the last is learned."""
        found = self._rendered(messages, first, options, self._learn)
        if len(found) > 1:
            self._seen["turns"] += 1
            found = found[-1:]
        if not found or not any(found[0].mask[1:]):
            raise ValueError("expected an answer of the assistant, got none")
        return self._cut([self._example(found[0].ids, found[0].mask)])[0]

    def text(self, text: str) -> Example:
        """Return a text, all of which is learned, with the token that ends it. Control tokens that it spells are tokens, as
        in all texts that were rendered with a template; what begins or ends every text is there once."""
        lm = self.lm
        ids = lm.checked(lm.tokenizer.encode(text, allowed_special="all"))
        begin = list(lm.tokenizer.begin)
        if ids[: len(begin)] != begin:
            ids = lm.checked(begin) + ids
        said = next((i for i in reversed(ids) if lm.tokenizer.token_bytes(i).strip()), None)
        if said is None or said not in (*lm.end_ids, lm.tokenizer.end_of_text):
            ids = ids + list(lm.end_ids[:1])
        self._note_spelled("texts", text)
        return self._cut([self._example(ids, [k >= len(begin) for k in range(len(ids))])])[0]

    def notes(self) -> list[str]:
        """Return a sentence for each thing that is worth knowing about the rows so far."""
        seen, found = self._seen, []
        for what, how in (("texts", "tokens"), ("messages", "plain text, not tokens,")):
            if what in self._spelled:
                text = self._spelled[what]
                found.append(
                    f"control tokens are {how} in {what} that spell them ({_rows(seen[what])}, such as {text})"
                )
        if seen["marked"]:
            found.append(
                "learned is what the template marks with {% generation %} (--learn all-turns goes by its answers)"
            )
        if seen["ends"]:
            found.append(
                "the marks of the template leave out the token that ends an answer, which is then not learned: --learn all-turns "
                "learns it"
            )
        if seen["split"]:
            found.append(
                f"{_rows(seen['split'])} became several examples, each up to an answer: the template renders earlier answers "
                "otherwise than when it asks for them"
            )
        if seen["turns"]:
            found.append(
                f"of {_rows(seen['turns'])} only the last answer is learned: the template renders earlier answers otherwise than "
                "when it asks for them"
            )
        if seen["thoughts"]:
            found.append(
                f"{counted(seen['thoughts'], 'answer')} without a thought got an empty one: the template asks with an open one"
            )
        if seen["lost thoughts"]:
            found.append(
                f"the thoughts of {counted(seen['lost thoughts'], 'answer')} not learned: the template leaves them out"
            )
        if seen["greetings"]:
            found.append(f"{counted(seen['greetings'], 'greeting')} without a prompt before it not learned")
        if seen["cut"]:
            found.append(f"{counted(seen['cut'], 'example')} cut to {self._context} tokens (--context)")
        if seen["beyond"]:
            found.append(
                f"{counted(seen['beyond'], 'answer')} beyond the first {self._context} tokens left out (--context)"
            )
        return found

    @property
    def cut(self) -> int:
        """How many examples were cut."""
        return self._seen["cut"]

    def _rendered(
        self, messages: Sequence[Mapping[str, Any]], first: int, options: ChatOptions, learn: str | None
    ) -> list[Any]:
        lm = self.lm
        assert lm.chat_template is not None
        found = renderings(lm.chat_template, lm.tokenizer, messages, lm.end_ids, first, options, learn, self._seen)
        if (
            learn is None
            and lm.chat_template.chosen(options.chat_template, options.tools is not None).marks_generations
        ):
            self._seen[MARKED] += 1
        for message in messages:
            content = message.get("content")
            parts = [content] if isinstance(content, str) else content if isinstance(content, (list, tuple)) else []
            texts = [p if isinstance(p, str) else p.get("text") if isinstance(p, Mapping) else None for p in parts]
            if self._note_spelled("messages", *(t for t in texts if isinstance(t, str))):
                break
        return found

    def _note_spelled(self, what: str, *texts: str) -> bool:
        """Count a row whose texts spell control tokens."""
        token = next((t for t in map(self._marks.spelled, texts) if t), None)
        if token is not None:
            self._seen[what] += 1
            self._spelled.setdefault(what, token)
        return token is not None

    def _example(self, ids: Sequence[int], mask: Sequence[bool]) -> Example:
        return Example(np.array(self.lm.checked(list(ids)), np.int32), np.array(mask, bool))

    def _cut(self, examples: Sequence[Example]) -> list[Example]:
        """Return examples cut to the context, without those that have nothing to learn there."""
        if not self._context:
            return list(examples)
        short = [e.cut(self._context + 1) for e in examples]
        kept = [e for e in short if e.mask[1:].any()]
        if not kept:
            raise ValueError(f"expected something to learn in the first {self._context} tokens, got it after them")
        self._seen["cut"] += sum(
            len(e.ids) < len(whole.ids) for e, whole in zip(short, examples, strict=True) if e.mask[1:].any()
        )
        self._seen["beyond"] += len(short) - len(kept)
        return kept


def _rows(count: int) -> str:
    return counted(count, "row")
