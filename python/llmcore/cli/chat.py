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

if TYPE_CHECKING:
    from collections.abc import Iterator

    from llmcore.generate import Completion

HELP = "Ctrl-D or /quit leaves, /reset begins a new conversation, /save FILE writes it as JSON."


def chat(
    model: options.Model = None,
    system: Annotated[
        str | None, typer.Option("--system", metavar="TEXT", help="What the model is told before you speak.")
    ] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", metavar="N", help="Tokens of an answer at most.")] = 512,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="0 takes the most likely.")] = 0.7,
    top_k: options.TopK = 0,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.0,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="The same seed gives the same answers.")
    ] = None,
    quantize: options.Quantize = None,
    threads: options.Threads = None,
) -> None:
    """Talk with a model that has a chat template. Each line that you type is a message; lines from a pipe too.

    \b
    Example: llmcore chat --model smollm2-135m-instruct
             echo "Why is the sky blue?" | llmcore chat
    """
    lm = options.load_model(model, quantize=quantize, threads=threads)
    if seed is None:
        seed = int.from_bytes(os.urandom(4), "little")
    beginning = [{"role": "system", "content": system}] if system is not None else []
    messages = list(beginning)
    lm.chat_prompt([*messages, {"role": "user", "content": ""}])  # what is wrong shows before anybody types
    if sys.stdin.isatty():
        terminal.write(f"{HELP}\n")
    seconds, written = 0.0, 0
    seen: list[Completion] = []  # the answer that is being written, when it has a token

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
        sampling = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "seed": seed + turn}
        for piece in lm.chat_stream(messages, max_tokens, on_token=look, **sampling):
            answer += piece
            terminal.write(piece)
        seconds += time.perf_counter() - began
        tokens = len(seen[0].tokens) if seen else 0
        written += tokens
        terminal.write("\n")
        if tokens == max_tokens and seen[0].finish_reason == "length" and sys.stderr.isatty():
            print(f"(cut at --max-tokens {max_tokens})", file=sys.stderr)
        messages.append({"role": "assistant", "content": answer})
    if written and sys.stderr.isatty():
        print(
            f"{terminal.counted(written, 'token')}, {written / seconds:,.1f} tok/s, prompts included", file=sys.stderr
        )


def _save(name: str, messages: list[dict[str, str]]) -> None:
    if not name:
        terminal.write("/save needs the name of a file\n")
        return
    try:
        write_atomically(Path(name).expanduser(), json.dumps(messages, ensure_ascii=False, indent=1).encode() + b"\n")
    except OSError as error:
        terminal.write(f"{name} cannot be written: {error.strerror}\n")


def _lines() -> Iterator[str]:
    """What is typed, line by line; empty lines are passed over."""
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
