"""`llmcore chat`: talk with a model."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
from llmcore._files import write_atomically
from llmcore.cli import options
from llmcore.cli.errors import UsageError
from llmcore.cli.flags import sampling_flags

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcore.generate import Completion

HELP = "Ctrl-D or /quit exits, /reset starts a new conversation, /save FILE writes it as JSON."


@sampling_flags(
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "seed", max_tokens=512, temperature=0.7, top_p=0.95
)
def chat(
    model: options.Model = None,
    system: Annotated[
        str | None,
        typer.Option(
            "--system", metavar="TEXT", help="System message, which the model is given before the conversation."
        ),
    ] = None,
    tools: Annotated[
        Path | None,
        typer.Option("--tools", metavar="FILE", help="JSON list of the schemas of tools that the model may call."),
    ] = None,
    documents: Annotated[
        Path | None,
        typer.Option(
            "--documents", metavar="FILE", help='JSON list of documents, {"title": ..., "text": ...}, to quote.'
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option("--template", metavar="NAME", help="One of the model's chat templates by name, or a .jinja file."),
    ] = None,
    chat_template_kwargs: Annotated[
        str | None,
        typer.Option("--chat-template-kwargs", metavar="JSON", help="Variables of the chat template."),
    ] = None,
    sampling: dict | None = None,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
) -> None:
    """Talk with a model that has a chat template. Each line that you type, or pipe in, is a message.

    \b
    Example: llmcore chat --model smollm2-135m-instruct
             echo "Why is the sky blue?" | llmcore chat
             llmcore chat --tools tools.json --system "Call tools if need be."
    """
    from llmcore.generate.chat.files import template_argument

    given = {
        "tools": _read(tools),
        "documents": _read(documents),
        "chat_template": template_argument(template),
        "chat_template_kwargs": chat_template_kwargs,
    }
    lm = options.load_model(model, quantize=quantize, threads=threads)
    params = dict(sampling or {})
    max_tokens, seed = params.pop("max_tokens"), params.pop("seed")
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    beginning = [{"role": "system", "content": system}] if system is not None else []
    messages = list(beginning)
    lm.chat_prompt([*messages, {"role": "user", "content": ""}], **given)  # an error shows before anybody types
    if sys.stdin.isatty():
        terminal.write(f"{HELP}\n")
    seconds, written = 0.0, 0
    seen: list[Completion] = []  # the answer being written, once it has a token

    def look(completion: Completion, _: str) -> None:
        seen[:] = [completion]

    for turn, text in enumerate(_lines()):
        if text == "/quit":
            break
        if text == "/reset":
            messages = list(beginning)
            continue
        if text.startswith("/save"):
            _save(text.removeprefix("/save").strip(), messages)
            continue
        messages.append({"role": "user", "content": text})
        answer = ""
        seen.clear()
        began = time.perf_counter()
        for piece in lm.chat_stream(messages, max_tokens, on_token=look, seed=seed + turn, **given, **params):
            answer += piece
            terminal.write(piece)
        seconds += time.perf_counter() - began
        tokens = len(seen[0].tokens) if seen else 0
        written += tokens
        terminal.write("\n")
        if tokens == max_tokens and seen[0].finish_reason == "length" and sys.stderr.isatty():
            print(f"(cut off at --max-tokens {max_tokens})", file=sys.stderr)
        messages.append({"role": "assistant", "content": answer})
    if written and sys.stderr.isatty():
        print(
            f"{terminal.counted(written, 'token')}, {written / seconds:,.1f} tok/s, prompts included", file=sys.stderr
        )


def _read(path: Path | None) -> str | None:
    """Return the text of a JSON file."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"expected {path} as JSON in UTF-8") from None


def _save(name: str, messages: list[dict[str, str]]) -> None:
    if not name:
        terminal.write("/save needs a file name\n")
        return
    try:
        write_atomically(Path(name).expanduser(), json.dumps(messages, ensure_ascii=False, indent=1).encode() + b"\n")
    except OSError as error:
        terminal.write(f"{name} cannot be written: {error.strerror}\n")


def _lines() -> Iterator[str]:
    """Yield what is typed, line by line, without empty lines."""
    if sys.stdin.isatty():
        import readline  # noqa: F401 - input() edits lines and remembers them
    while True:
        try:
            line = input("> " if sys.stdin.isatty() else "")
        except EOFError:
            if sys.stdin.isatty():
                terminal.write("\n")
            return
        if line.strip():
            yield line.strip()
