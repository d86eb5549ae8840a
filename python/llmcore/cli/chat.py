"""`llmcore chat`: talk with a model."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from llmcore import terminal
from llmcore.cli import conversation, options
from llmcore.cli.errors import UsageError
from llmcore.cli.flags import sampling_flags
from llmcore.generate.engine.params import SamplingParams

HELP = "Ctrl-D or /quit leaves, Ctrl-C stops an answer, /help lists the commands."


@sampling_flags(
    max_tokens=512,
    temperature=0.7,
    top_p=0.95,
    repetition_penalty=1.1,  # without it SmolLM2-135M went round in circles in 6 of 12 answers, with it in none
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
    """Talk with a model that has a chat template. Each line that you type, or pipe in, is a message; one of
    several lines stands between three quotation marks. The command /help lists all commands. What no longer fits into the
    context is left out, the oldest turns first.

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
    settings = dict(sampling or {})
    if settings["seed"] is None:
        settings["seed"] = int.from_bytes(os.urandom(4), "little")
    SamplingParams(**settings).check_ids(lm.config.vocab_size)
    talk = conversation.Conversation(lm, system, given, settings, show=sys.stderr.isatty())
    talk.check()  # an error shows before anybody types
    if sys.stdin.isatty():
        conversation.say(HELP)
    for text in conversation.messages(talk):
        if not talk.take(text):
            break
    if talk.written and sys.stderr.isatty():
        rate = f"{talk.written / talk.seconds:,.1f} tok/s, prompts included"
        conversation.say(f"{terminal.counted(talk.written, 'token')}, {rate}")


def _read(path: Path | None) -> str | None:
    """Return the text of a JSON file."""
    if path is None:
        return None
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise UsageError(f"expected {path} as JSON in UTF-8") from None
