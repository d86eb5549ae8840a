"""Rows as a training stage would learn them, with what is learned in colour, or between [[ and ]] where there is none."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

from llmcore import terminal
from llmcore.train.config import FinetuneConfig
from llmcore.train.report import Report, TerminalReport

if TYPE_CHECKING:
    from llmcore.data.examples import Example
    from llmcore.tokenizer import Tokenizer

_ROWS = 5
_LEARNED = {
    "reward": "the reward is read after the last of them",
    "grpo": "what the model answers is learned",
    "ppo": "what the model answers is learned",
}


def show(stage: str, config: FinetuneConfig) -> None:
    """Print the first rows of a stage's data, and how much is learned of all of them."""
    from llmcore.train.stages.preview import preview

    rows, lm, notes = preview(stage, config, _Warnings())
    out = terminal.console()
    coloured = out.color_system is not None and not out.no_color
    also = f"; {_LEARNED[stage]}" if stage in _LEARNED else ""
    for where, shown in rows[:_ROWS]:
        for number, (kind, example) in enumerate(shown, 1):
            about = kind or (f"example {number} of {len(shown)}" if len(shown) > 1 else "")
            out.print(f"{where}, {about}" if about else where, style="bold", markup=False, soft_wrap=True)
            out.print(_text(lm.tokenizer, example, coloured), soft_wrap=True)
            count = f"{_learned(example):,} of {terminal.counted(len(example.ids), 'token')} are learned"
            out.print(f"{count}{also}", style="dim", markup=False)
    examples = [e for _, shown in rows for _, e in shown]
    out.print(
        f"{terminal.counted(len(rows), 'row')} in all, {terminal.counted(len(examples), 'example')}: "
        f"{terminal.counted(sum(len(e.ids) for e in examples), 'token')}, {sum(map(_learned, examples)):,} of them learned",
        markup=False,
        soft_wrap=True,
    )
    for note in notes:
        out.print(note, style="dim", markup=False, soft_wrap=True)


class _Warnings(Report):
    """Shows warnings alone."""

    def warn(self, text: str) -> None:
        TerminalReport().warn(text)


def _learned(example: Example) -> int:
    """Return how many tokens are learned: the first cannot be, nothing comes before it."""
    return int(example.mask[1:].sum())


def _text(tokenizer: Tokenizer, example: Example, coloured: bool):
    """Return the text of an example."""
    from rich.text import Text

    line, start = Text(), 0
    for learned, run in groupby([False, *example.mask.tolist()[1:]]):
        end = start + len(list(run))
        ids = example.ids[start:end].tolist()
        text = terminal.harmless(b"".join(map(tokenizer.token_bytes, ids)).decode(errors="replace"))
        marked = f"[[{text}]]" if learned and not coloured else text
        line.append(marked, "bold green" if learned else "dim")
        start = end
    return line
