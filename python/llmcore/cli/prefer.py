"""`llmcore prefer`: a person chooses the better of a model's answers."""

from __future__ import annotations

import sys
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from llmcore import terminal
from llmcore.cli import options
from llmcore.cli.errors import UsageError
from llmcore.cli.flags import sampling_flags

if TYPE_CHECKING:
    from rich.console import Console

    from llmcore.data.choices import ChoiceFile
    from llmcore.generate import LanguageModel


@sampling_flags("max_tokens", "temperature", "top_p", "seed", temperature=1.0, top_p=0.95, seed=0)
def prefer(
    prompts: Annotated[
        Path, typer.Option("--prompts", metavar="FILE", help="Text with one prompt per line, or JSONL with prompt.")
    ],
    model: options.Model = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="File to save the choices to.")] = Path(
        "prefer.jsonl"
    ),
    n: Annotated[
        int, typer.Option("-n", "--n", metavar="N", min=2, max=9, help="Number of answers to choose from.")
    ] = 4,
    sampling: dict | None = None,
) -> None:
    """Choose the best of several answers, prompt by prompt. Every choice is saved at once, as prompt, chosen and rejected,
    for `llmcore dpo`; a stopped session continues where it was.

    \b
    Example: llmcore prefer --model chat --prompts questions.txt -n 4
    """
    from llmcore.data.choices import ChoiceFile
    from llmcore.train.config import DPOConfig

    texts = read_prompts(prompts)
    file = ChoiceFile(out, texts)
    lm = options.load_model(model)
    screen = terminal.console()
    keys = f"1-{n} the best, t a tie, s skip, u undo, q quit"
    while file.next < len(texts):
        number = file.next
        answers = [str(c) for c in _answers(lm, texts[number], n, sampling or {}, number * n)]
        _show(screen, texts[number], answers, f"{number + 1} of {len(texts)}")
        if not _ask(file, answers, keys):
            break
    screen.print(
        f"{terminal.counted(file.pairs, 'pair')} in {out}, {terminal.counted(len(texts) - file.next, 'prompt')} left",
        markup=False,
        soft_wrap=True,
    )
    if file.pairs:
        own = options.model_directory(model)
        named = "" if own.resolve() == Path(DPOConfig().model).resolve() else f" --model {quote(str(own))}"
        screen.print(f"next: llmcore dpo{named} --data {quote(str(out))}", markup=False, soft_wrap=True)


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a file. Raises UsageError that names what is wrong with it."""
    from llmcore.data.conversations import question
    from llmcore.data.rows import read_rows
    from llmcore.documents.files import kind_of

    if kind_of(path):
        found = []
        for row in read_rows(path):
            try:
                prompt = question(row.fields)[0]
            except ValueError as error:
                raise UsageError(f"{row.where}: {error}") from None
            if not isinstance(prompt, str):
                raise UsageError(f"{row.where}: expected a prompt that is a text, got messages")
            found.append(prompt)
        return found
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise UsageError(f"expected {path} as UTF-8 text") from None
    found = [line.strip() for line in lines if line.strip()]
    if not found:
        raise UsageError(f"expected prompts in {path}, got none")
    return [str(p) for p in found]


def _answers(lm: LanguageModel, prompt: str, n: int, sampling: dict, offset: int) -> list:
    """Return n answers, drawn with the seeds that follow seed + offset."""
    ids = lm.prompt_ids(prompt) if lm.chat_template is None else lm.chat_prompt([{"role": "user", "content": prompt}])
    return lm.generate(ids, n=n, **(sampling | {"seed": sampling["seed"] + offset}))


def _show(out: Console, prompt: str, answers: list[str], place: str) -> None:
    from rich.table import Table
    from rich.text import Text

    out.print(Text(f"\n{place}: ", "dim").append(prompt, "not dim bold"))
    table = Table(expand=True, show_lines=True)
    for i in range(len(answers)):
        table.add_column(str(i + 1), ratio=1, overflow="fold")
    table.add_row(*(Text(terminal.visible(a) if not a.strip() else a.strip()) for a in answers))
    out.print(table)


def _ask(file: ChoiceFile, answers: list[str], keys: str) -> bool:
    """Ask until a key does something; return False to quit."""
    while True:
        try:
            key = input(f"{keys}: " if sys.stdin.isatty() else "").strip().lower()
        except EOFError:
            return False
        if key == "q":
            return False
        if key == "u":
            if file.undo():
                return True
            terminal.write("there is nothing to undo\n")
        elif key in ("t", "s"):
            file.pass_over()
            return True
        elif key.isdecimal() and 1 <= int(key) <= len(answers):
            file.choose(answers, int(key) - 1)
            return True
        else:
            terminal.write(f"expected {keys}\n")
