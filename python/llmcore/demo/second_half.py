"""The second half: the base model learns to answer, to answer well, and to do what is rewarded."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcore import terminal
from llmcore.data.examples import is_held_out
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.demo import base
from llmcore.demo.measure import ASK, COLUMNS, CONTEXT, HELD_OUT, WORDS, Questions, measure, prefers

if TYPE_CHECKING:
    from rich.console import Console

    from llmcore.generate import LanguageModel

ANSWERS, GROUP = 64, 8  # per update of GRPO, and per prompt
PAIRS = 16  # per update of DPO
ROWS = 8  # per update of supervised fine-tuning


class SecondHalf:
    """Runs the stages after pretraining and shows what each changed. out: the base model's directory; the stages write to
    folders in it. rate: the training throughput in tokens per second. seconds: the time for each stage."""

    def __init__(
        self, console: Console, out: Path, rate: float, seconds: dict[str, float], seed: int, threads: int | None,
        most: int | None, questions: int,
    ):  # fmt: skip
        self.console, self.out, self.rate, self.seconds, self.seed, self.most = console, out, rate, seconds, seed, most
        self.common: dict[str, Any] = {"seed": seed, "threads": threads, "epochs": 0.0, "eval_every": 0,
                                       "sample_every": 0, "save_every": 0, "validation_fraction": 0.0}  # fmt: skip
        with console.status("making questions of the docstrings of this Python"):
            self.questions = Questions(questions)
        self.figures: dict[str, dict[str, Any]] = {}

    def run(self, lm: LanguageModel) -> None:
        """Run the stages one after another on the base model `lm`."""
        self._measure("base", lm)
        self._show("base", "The base model continues texts; it does not know that questions want answers:")
        lm = self._sft()
        lm = self._dpo()
        self._grpo()
        self._table()

    # ---- stages ----

    def _sft(self) -> LanguageModel:
        from llmcore.train import SFTConfig, sft

        rows = [r for r in python_qa() if not is_held_out(r["group"], HELD_OUT)]
        base.heading(
            self.console,
            5,
            "Fine-tuning: learn to answer",
            f"{len(rows):,} questions with answers, made of the docstrings in your Python. Learned are the answers only, and "
            "to stop after them.",
        )
        steps = self._steps("sft", ROWS * CONTEXT)
        config = SFTConfig(model=str(self.out), data=self._data("sft", rows), out=str(self.out / "sft"), steps=steps,
                           batch_size=ROWS, context=CONTEXT, lr=1e-3, warmup=min(20, steps // 5), **self.common)  # fmt: skip
        lm = self._train(sft, config)
        self._measure("sft", lm)
        self._show("sft", "Now it answers, and ends:")
        return lm

    def _dpo(self) -> LanguageModel:
        from llmcore.train import DPOConfig, dpo

        base.heading(
            self.console,
            6,
            "Preferences: learn which answers are better",
            "Pairs of answers: the right one against one about something else, a concise one against a rambling one. The "
            "better one becomes likelier than it was, the other one less (DPO).",
        )
        steps = self._steps("dpo", 2 * PAIRS * 70 * 4 // 3)  # a third more for the reference log-probabilities
        pairs = [p for p in python_qa_pairs() if not is_held_out(p["group"], HELD_OUT)]
        count = min(len(pairs), steps * PAIRS)
        pairs = [pairs[i * len(pairs) // count] for i in range(count)]
        config = DPOConfig(model=str(self.out / "sft"), data=self._data("dpo", pairs), out=str(self.out / "dpo"),
                           steps=steps, batch_size=PAIRS, context=CONTEXT, lr=5e-5, warmup=min(10, steps // 5), bad_rows="skip",
                           **self.common)  # fmt: skip
        lm = self._train(dpo, config)
        self._measure("dpo", lm)
        self._show("dpo", "Its answers afterwards:")
        return lm

    def _grpo(self) -> LanguageModel:
        from llmcore.train import GRPOConfig, grpo

        base.heading(
            self.console,
            7,
            "Reinforcement: learn what is rewarded",
            f"The model answers every question {GROUP} times. The nearer to {WORDS} words, the higher the reward, which "
            "anybody can check; answers that are rewarded more than the others become likelier (GRPO).",
        )
        steps = self._steps("grpo", ANSWERS * 60 * 2)
        rows = [
            {"prompt": ASK.format(r["prompt"]), "words": WORDS, "group": r["group"]}
            for r in python_qa()
            if not is_held_out(r["group"], HELD_OUT)
        ]
        config = GRPOConfig(model=str(self.out / "dpo"), data=self._data("grpo", rows), out=str(self.out / "grpo"),
                            rewards=["length"], steps=steps, batch_size=ANSWERS, accumulation=1, group=GROUP, context=128,
                            max_tokens=40, lr=2e-4, beta=0.05, warmup=0, bad_rows="skip", **self.common)  # fmt: skip
        lm = self._train(grpo, config)
        self._measure("grpo", lm)
        self._show("grpo", f"Asked to answer in {WORDS} words:", "short_answers")
        return lm

    def _train(self, train, config) -> LanguageModel:
        from llmcore.train import TerminalReport

        class Quiet(TerminalReport):
            def note(self, text):
                """Print nothing: the headings suffice."""

            warn = note

        began = time.perf_counter()
        lm = train(config, report=Quiet(self.console), overwrite=True)
        self.console.print(f"{config.steps} updates in {time.perf_counter() - began:.0f} s", style="dim")
        return lm

    def _steps(self, stage: str, tokens: int) -> int:
        """Return how many updates of so many tokens the stage has time for."""
        fitting = max(2, int(self.seconds[stage] * self.rate / tokens))
        return fitting if self.most is None else min(fitting, self.most)

    def _data(self, stage: str, rows: list) -> str:
        path = self.out / f"{stage}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in rows))
        return str(path)

    # ---- figures ----

    def _measure(self, stage: str, lm: LanguageModel) -> None:
        with self.console.status("asking it held-out questions"):
            figures = measure(lm, self.questions)
        before = self.figures.get("sft", figures)["margins"]
        self.figures[stage] = figures | {"prefers": prefers(figures["margins"], before)}

    def _show(self, stage: str, title: str, which: str = "answers") -> None:
        from rich.text import Text

        self.console.print(title)
        for question, answer in self.figures[stage][which][:3]:
            line = " ".join(terminal.harmless(answer).split()) or "(nothing)"
            self.console.print(Text.assemble("? ", (question, "bold"), " ", (line, "green")))

    def _table(self) -> None:
        from rich.table import Table

        base.heading(
            self.console,
            8,
            "What each stage changed",
            f"On {len(self.questions.rows)} questions about modules that it never learned from. Prefers: how often the better "
            "of two answers gained on the other since fine-tuning.",
        )
        table = Table(box=None, padding=(0, 1))
        table.add_column("")
        for title in COLUMNS.values():
            table.add_column(title, justify="right", no_wrap=True)
        for stage, figures in self.figures.items():
            table.add_row(stage, *(format_figure(name, figures[name]) for name in COLUMNS))
        self.console.print(table)


def format_figure(name: str, value: float) -> str:
    """Return a figure of `COLUMNS` as text."""
    return f"{value:.2f}" if name in ("loss", "short") else f"{value:.0%}"
