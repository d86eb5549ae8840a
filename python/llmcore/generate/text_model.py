"""`TextModel`: a model and its tokenizer, and how texts, ids and chats become one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcore._processes import NotCopied, made_once
from llmcore.errors import ArgumentTypeError, Error
from llmcore.generate.chat.prompt import chat_prompt
from llmcore.generate.chat.template import ChatOptions, ChatTemplate
from llmcore.generate.engine.constrain import Vocabulary
from llmcore.generate.engine.engine import Engine
from llmcore.models import CausalLM, Config
from llmcore.tokenizer import Tokenizer

Prompt = str | Sequence[int]


class TextModel(NotCopied):
    """A `model`, its `tokenizer` and its `config`. A prompt is a text or a list of token ids; the empty text begins a
    new document. `end_ids`: the tokens that end a completion, by default the tokenizer's end of text. `chat_template`:
    how messages become a prompt, or None for a model that was not trained to chat. `source`: the path it was loaded from,
    or None. `notes`: a sentence for each thing in its files that was left out or read in another way than they say."""

    def __init__(
        self,
        model: CausalLM,
        tokenizer: Tokenizer,
        end_ids: Iterable[int] | None = None,
        chat_template: ChatTemplate | None = None,
        notes: Iterable[str] = (),
    ):
        self.model, self.tokenizer = model, tokenizer
        if end_ids is None:
            end_ids = () if tokenizer.end_of_text is None else (tokenizer.end_of_text,)
        self.end_ids = tuple(end_ids)
        self.chat_template = chat_template
        self.notes = (*notes, *self._beyond())
        self.source: Path | None = None

    @property
    def config(self) -> Config:
        return self.model.config

    @property
    def num_parameters(self) -> int:
        return self.model.num_parameters

    def __repr__(self) -> str:
        source = "" if self.source is None else f", from {self.source}"
        return f"<{type(self).__name__}: {self.model.described()}, vocabulary {self.tokenizer.vocab_size}{source}>"

    def _instead(self) -> str:
        where = "save it and load it there" if self.source is None else f"load it there, from {self.source}"
        return f"{where}, or ask this one from threads"

    @made_once
    def engine(self) -> Engine:
        """Runs this model's requests, those of several threads in one batch, and keeps what it has computed. Assign another
        (`Engine(lm.model, ...)`) before the first request for a larger cache, an 8-bit one, or other limits."""
        return Engine(self.model)

    @made_once
    def vocabulary(self) -> Vocabulary:
        """The tokens in the form that constrained generation needs."""
        return Vocabulary(self.tokenizer, self.config.vocab_size, self.end_ids)

    def ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of a text, or token ids themselves, checked, with nothing put before them."""
        if isinstance(prompt, str):
            return self.checked(self.tokenizer.encode_ordinary(prompt))
        check_prompt(prompt)
        if not all(isinstance(i, (int, np.integer)) and not isinstance(i, bool) for i in prompt):
            raise ArgumentTypeError("prompt", expected="a text or token ids", got=f"{prompt!r:.100}")
        return self.checked([int(i) for i in prompt])

    def checked(self, ids: list[int]) -> list[int]:
        """Return ids; ValueError names one that the model has no row for."""
        rows = self.config.vocab_size
        if ids and not 0 <= min(ids) <= max(ids) < rows:
            wrong = next(i for i in ids if not 0 <= i < rows)
            text = (
                self.tokenizer.token_bytes(wrong).decode(errors="replace")
                if 0 <= wrong < self.tokenizer.vocab_size
                else ""
            )
            raise Error("prompt", expected=f"token ids in [0, {rows})", got=f"{wrong} ({text!r})" if text else wrong)
        return ids

    def _beyond(self) -> list[str]:
        """Return a note on tokens that the model has no row for."""
        rows = self.config.vocab_size
        beyond = {i: t for t, i in (self.tokenizer.added_tokens | self.tokenizer.special_tokens).items() if i >= rows}
        if self.tokenizer.vocab_size <= rows:
            return []
        first = f", such as {beyond[min(beyond)]!r:.60}" if beyond else ""
        return [
            f"the tokenizer has {self.tokenizer.vocab_size} ids and the model {rows}: tokens beyond{first}, are never "
            "written, and a text that holds one is refused"
        ]

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt. A text follows the tokens that the tokenizer puts before every text."""
        ids = self.ids(prompt)
        if isinstance(prompt, str):
            ids = [*self.checked([*self.tokenizer.begin]), *ids]
        if not ids and self.tokenizer.end_of_text is not None:
            ids = [self.tokenizer.end_of_text]  # precedes every document
        if not ids:
            raise Error("prompt", expected="at least one token (this tokenizer has no end-of-text)", got="none")
        return ids

    def token_text(self, i: int) -> str:
        """Return the text of a token; bytes that are not a whole character become U+FFFD. Nothing for a row that no token
        has."""
        return self.tokenizer.token_bytes(i).decode(errors="replace")

    def chat_prompt(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool | None = None,
        *,
        tools: Sequence[Mapping[str, Any] | Callable] | str | None = None,
        documents: Sequence[Mapping[str, Any]] | str | None = None,
        chat_template: str | None = None,
        chat_template_kwargs: Mapping[str, Any] | str | None = None,
        continue_final_message: bool | str = False,
    ) -> list[int]:
        """Return the ids of messages as the chat template renders them. The control tokens of the template are tokens; those
        that anybody spells, in whatever the template is given, are plain text: nobody's text can pose as the template's.

        add_generation_prompt: whether the beginning of an answer follows, by default unless continue_final_message: then the
        ids end with the text of the last message, or of its key of that name. tools: schemas, or Python functions whose
        schemas are made from types and docstring. documents: texts to quote, such as {"title", "text"}. chat_template: the
        name of one of the model's templates, or a Jinja template; by default "tool_use" where there are tools and it exists,
        else "default". chat_template_kwargs: variables of the template, such as {"enable_thinking": False}. All but
        messages may be JSON.

        TypeError or ValueError, in one line, for messages that cannot be rendered, and for tools, documents or variables
        that the template never reads.
        """
        template = self.chat_template
        if template is None and chat_template is not None:
            template = ChatTemplate(chat_template, eos_token=self.token_text(self.end_ids[0]) if self.end_ids else "")
            chat_template = None
        if template is None:
            name = self.source or "MODEL"
            raise Error(
                "chat",
                expected="a model with a chat template",
                got=f"{self.source or 'one'} without: teach it with `llmcore sft --model {name}`, or take one "
                "that chats (`llmcore pull smollm2-135m-instruct`)",
            )
        options = ChatOptions(tools, documents, chat_template, chat_template_kwargs)
        return self.checked(
            chat_prompt(template, self.tokenizer, messages, add_generation_prompt, options, continue_final_message)
        )


def check_prompt(prompt: Any) -> None:
    """Raise TypeError unless this is a text or a sequence."""
    if isinstance(prompt, (bytes, bytearray)) or not (isinstance(prompt, Sequence) or np.ndim(prompt)):
        raise ArgumentTypeError("prompt", expected="a text or token ids", got=f"{prompt!r:.100}")
