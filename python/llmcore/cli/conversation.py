"""A conversation in the terminal: what is typed, the answers to it, and the commands that begin with a slash."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore import terminal
from llmcore._files import write_atomically
from llmcore.cli import errors
from llmcore.generate.chat.trim import room, said, trim

if TYPE_CHECKING:
    from llmcore.generate import Completion, LanguageModel

_FENCE = '"""'  # begins and ends a message of several lines

COMMANDS = {
    "/help": "lists these commands",
    "/retry": "answers the last message again",
    "/undo": "takes the last message and its answer back",
    "/reset": "begins a new conversation",
    "/tokens": "says how much of the context the conversation takes",
    "/save FILE": "writes the conversation as JSON",
    "/quit": "leaves, as Ctrl-D does",
}


class Conversation:
    """The messages so far, and how they are answered. given: options of `LanguageModel.chat_prompt`; sampling: those of
    `generate`, max_tokens and seed among them."""

    def __init__(
        self, lm: LanguageModel, system: str | None, given: Mapping[str, Any], sampling: Mapping[str, Any], show: bool
    ):
        self._lm, self._given, self._sampling = lm, given, dict(sampling)
        self._max_tokens, self._seed = self._sampling.pop("max_tokens"), self._sampling.pop("seed")
        self._beginning = [{"role": "system", "content": system}] if system is not None else []
        self.messages: list[dict[str, str]] = list(self._beginning)
        self._show = show  # also what only a person wants to know
        self._asked = self._dropped = 0
        self.written, self.seconds = 0, 0.0
        self.interrupted = False  # the last thing that was done was Ctrl-C

    def check(self) -> None:
        """Raise ValueError for a model that cannot be talked with."""
        self._lm.chat_prompt([*self._beginning, {"role": "user", "content": ""}], **self._given)

    def take(self, text: str) -> bool:
        """Answer a message or carry out a command; return whether the conversation goes on."""
        self.interrupted = False
        word, _, rest = text.strip().partition(" ")
        # A path such as /etc/hosts is no command.
        if not text.startswith("/") or "/" in word[1:] or "\n" in text:
            self._ask(text)
            return True
        if word == "/quit" and not rest:
            return False
        commands: dict[str, Callable[[], None]] = {
            "/retry": self._retry, "/undo": self._undo, "/reset": self._reset, "/tokens": self._tokens,
        }  # fmt: skip
        if word == "/save":
            self._save(rest.strip())
        elif word in commands and not rest:
            commands[word]()
        else:
            if word != "/help":
                say(f"{word} is no command" if word not in commands else f"{word} takes nothing after it")
            say("\n".join(f"  {name:<11} {what}" for name, what in COMMANDS.items()))
            say(f"  {_FENCE:<11} begins and ends a message of several lines; a blank before a slash makes it a message")
        return True

    # ---- answers ----

    def _ask(self, text: str) -> None:
        """Answer a message. One that cannot be answered is reported and forgotten."""
        messages = [*self.messages, {"role": "user", "content": text}]
        try:
            answer = self._answered(messages)
        except (BrokenPipeError, KeyboardInterrupt):
            raise
        except Exception as error:
            terminal.write("\n")
            errors.tell(error)
            return
        self.messages = [*messages, {"role": "assistant", "content": answer}]

    def _answered(self, messages: list[dict[str, str]]) -> str:
        """Write the answer to the last message and return it; Ctrl-C ends it where it is."""
        kept, dropped = trim(messages, self._fits)
        if dropped > self._dropped:
            say(f"({said(dropped, 'turn')})")
        self._dropped = dropped
        seen: list[Completion] = []  # the answer being written, once it has a token

        def look(completion: Completion, _: str) -> None:
            seen[:] = [completion]

        out, answer, began = terminal.WrappedText(), "", time.perf_counter()
        self._asked += 1
        pieces = self._lm.chat_stream(
            kept, self._max_tokens, on_token=look, seed=self._seed + self._asked - 1, **self._given, **self._sampling
        )
        try:
            for piece in pieces:
                answer += piece
                out.write(piece)
        except KeyboardInterrupt:
            if not self._show:
                raise
            self.interrupted = True
        finally:
            pieces.close()  # type: ignore[attr-defined]
            out.finish()
        terminal.write("\n")
        self.seconds += time.perf_counter() - began
        tokens = len(seen[0].tokens) if seen else 0
        self.written += tokens
        if self.interrupted:
            say("(stopped; Ctrl-C again leaves)")
        elif self._show and seen and seen[0].finish_reason == "length":
            full = tokens < self._max_tokens
            say("(cut off: the context is full)" if full else f"(cut off at --max-tokens {self._max_tokens})")
        return answer

    def _fits(self, messages) -> bool:
        context = self._lm.config.context
        return len(self._lm.chat_prompt(messages, **self._given)) + room(context, self._max_tokens) <= context

    # ---- commands ----

    def _last(self) -> int | None:
        """Return the number of the last message of the user."""
        return max((i for i, m in enumerate(self.messages) if m["role"] == "user"), default=None)

    def _retry(self) -> None:
        at = self._last()
        if at is None:
            return say("there is no message yet")
        before = self.messages
        text, self.messages = self.messages[at]["content"], self.messages[:at]
        try:
            self._ask(text)
        finally:
            if len(self.messages) == at:  # it could not be answered
                self.messages = before
        return None

    def _undo(self) -> None:
        at = self._last()
        if at is None:
            return say("there is no message yet")
        say(f"took back: {terminal.visible(self.messages[at]['content'])[:60]}")
        self.messages = self.messages[:at]
        return None

    def _reset(self) -> None:
        self.messages, self._dropped = list(self._beginning), 0
        if self._show:
            say("(a new conversation)")

    def _tokens(self) -> None:
        kept, _ = trim(self.messages, self._fits)
        used = len(self._lm.chat_prompt(kept, add_generation_prompt=False, **self._given)) if kept else 0
        say(f"{used:,} of {self._lm.config.context:,} tokens of the context; {self.written:,} written so far")

    def _save(self, name: str) -> None:
        if not name:
            return say("/save needs a file name")
        text = json.dumps(self.messages, ensure_ascii=False, indent=1).encode("utf-8", "replace")
        try:
            write_atomically(Path(name).expanduser(), text + b"\n")
        except (
            OSError,
            RuntimeError,
            ValueError,
        ) as error:  # RuntimeError: a home that is not known; ValueError: a NUL
            return say(f"{name} cannot be written: {getattr(error, 'strerror', None) or error}")
        return say(f"saved {terminal.counted(len(self.messages), 'message')} in {name}")


def say(text: str) -> None:
    """Write a line that is no answer to stderr."""
    print(terminal.harmless(text), file=sys.stderr, flush=True)


def messages(conversation: Conversation) -> Iterator[str]:
    """Yield what is typed or piped in, message by message, without empty ones. Ctrl-C twice ends it."""
    typed = sys.stdin.isatty()
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="replace")
    if typed:
        import readline

        readline.parse_and_bind("set enable-bracketed-paste on")  # pasted line ends do not send the message
    lines: list[str] = []  # of a message that is not complete
    while True:
        try:
            line = input(("… " if lines else "> ") if typed else "").removesuffix("\r")
        except EOFError:
            if typed:
                terminal.write("\n")
            if "".join(lines).strip():
                yield "\n".join(lines)
            return
        except KeyboardInterrupt:
            if not typed:
                raise
            terminal.write("\n")
            if conversation.interrupted:
                return
            conversation.interrupted = True
            lines = []
            say("(Ctrl-C again or Ctrl-D leaves)")
            continue
        inside = bool(lines)
        if not inside and line.startswith(_FENCE):
            inside, line = True, line.removeprefix(_FENCE)
            lines = [""]
        if not inside:
            if line.strip():
                yield line
            continue
        ends = line.rstrip().endswith(_FENCE)
        lines.append(line.rstrip().removesuffix(_FENCE) if ends else line)
        if ends:
            text, lines = "\n".join(lines[1:]).strip("\n"), []
            if text.strip():
                yield text
