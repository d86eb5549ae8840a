"""What fine-tuning changes, on held-out questions; every figure with three seeds, all of them shown.

    llmcore demo                       # preferences, the judge and rewards start from its fine-tuned model
    llmcore pull smollm2-135m-instruct
    python -m benchmarks.training.teach --demo demo-model --json benchmarks/results/teach.local.json

DPO: the share of held-out pairs whose better answer gained on the other. The judge (reward model, of the demo's
model and of SmolLM2): the share of held-out pairs that it puts in the right order. GRPO: the mean reward of held-out
prompts, which is checked (an answer of three words). LoRA of SmolLM2-135M-Instruct on python-qa: held-out loss and word F1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

import llmcore
from benchmarks.harness import results
from llmcore.data.examples import is_held_out
from llmcore.data.python_qa import python_qa, python_qa_pairs
from llmcore.demo.measure import ASK, CONTEXT, HELD_OUT, WORDS, Questions, measure, prefers
from llmcore.train import DPOConfig, GRPOConfig, Report, RewardConfig, SFTConfig, dpo, grpo, reward, sft

SEEDS = (0, 1, 2)
MODEL = "smollm2-135m-instruct"


def rows_to(path: Path, rows: list) -> str:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return str(path)


def learned(rows: list) -> list:
    return [r for r in rows if not is_held_out(r["group"], HELD_OUT)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo-model"), help="what `llmcore demo` made")
    parser.add_argument("--model", default=MODEL, help="that adapters are trained on")
    parser.add_argument("--only", nargs="*", default=list(PARTS), help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--smoke", action="store_true", help="a step of each, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lesson = Lesson(Path(folder), str(args.demo / "sft"), args.model, args.smoke)
        for name in args.only:
            PARTS[name](lesson)
    results.write(args.json, lesson.found)


class Lesson:
    """What all parts have in common: the questions, the rows to learn from, and what was found."""

    def __init__(self, folder: Path, demo: str, model: str, smoke: bool):
        self.folder, self.demo, self.model, self.smoke = folder, demo, model, smoke
        self.seeds = SEEDS[:1] if smoke else SEEDS
        self.questions, self.found = Questions(4 if smoke else 200), {}
        asked = [{"prompt": ASK.format(r["prompt"]), "words": WORDS} for r in learned(python_qa())]
        self.pairs = rows_to(folder / "pairs.jsonl", learned(python_qa_pairs()))
        self.asked = rows_to(folder / "asked.jsonl", asked)
        self.answers = rows_to(folder / "answers.jsonl", learned(python_qa()))

    @cached_property
    def before(self) -> dict:
        return measure(llmcore.load(self.demo), self.questions)

    def config(self, kind: type, steps: int, batch_size: int, **options: Any) -> Any:
        if self.smoke:
            steps, batch_size = 1, 4
        common = {"model": self.demo, "context": CONTEXT, "epochs": 0.0, "eval_every": 0, "sample_every": 0, "save_every": 0,
                  "validation_fraction": 0.0, "warmup": 5}  # fmt: skip
        out = tempfile.mkdtemp(dir=self.folder)
        return kind(**common | {"out": out, "steps": steps, "batch_size": batch_size, **options})

    def show(self, what: str, first: float, after: list[float]) -> None:
        self.found[what] = {"before": first, "after": after}
        print(f"{what:44} {first:.3f} -> {', '.join(f'{a:.3f}' for a in after)}", flush=True)

    def judged(self, config: RewardConfig) -> float:
        """Train a judge; returns the share of held-out pairs that it puts in the right order."""
        judge = reward(config, report=Report())
        each = [judge([p["prompt"]] * 2, [p["chosen"], p["rejected"]]) for p in self.questions.pairs]
        return float(np.mean([a > b for a, b in each]))


def teach_dpo(lesson: Lesson) -> None:
    after = []
    for seed in lesson.seeds:
        config = lesson.config(DPOConfig, 60, 16, data=lesson.pairs, lr=5e-5, seed=seed)
        margins = measure(dpo(config, report=Report()), lesson.questions)["margins"]
        after.append(prefers(margins, lesson.before["margins"]))
    lesson.show("DPO: held-out pairs", 0.5, after)


def teach_reward(lesson: Lesson) -> None:
    configs = [lesson.config(RewardConfig, 300, 16, data=lesson.pairs, lr=1e-5, seed=seed) for seed in lesson.seeds]
    lesson.show("reward model of the demo's: held-out pairs", 0.5, [lesson.judged(c) for c in configs])


def teach_judge(lesson: Lesson) -> None:
    options = {"model": lesson.model, "data": lesson.pairs, "lr": 5e-4, "lora_rank": 8}
    configs = [lesson.config(RewardConfig, 40, 8, seed=seed, **options) for seed in lesson.seeds]
    lesson.show("reward model of SmolLM2 (LoRA): held-out pairs", 0.5, [lesson.judged(c) for c in configs])


def teach_grpo(lesson: Lesson) -> None:
    after = []
    for seed in lesson.seeds:
        config = lesson.config(GRPOConfig, 40, 64, data=lesson.asked, rewards=["length"], accumulation=1,
                               group=2 if lesson.smoke else 8, max_tokens=40, lr=2e-4, beta=0.05, warmup=0, seed=seed,
                               bad_rows="skip")  # fmt: skip
        after.append(measure(grpo(config, report=Report()), lesson.questions)["short"])
    lesson.show("GRPO: reward for three words", lesson.before["short"], after)


def teach_lora(lesson: Lesson) -> None:
    first = measure(llmcore.load(lesson.model, "bfloat16", quantize="none"), lesson.questions)
    config = lesson.config(SFTConfig, 60, 8, model=lesson.model, data=lesson.answers, context=256, lr=5e-4, lora_rank=8)
    last = measure(sft(config, report=Report()), lesson.questions)
    for key, title in (("loss", "nats per token"), ("f1", "word F1")):
        lesson.show(f"LoRA of SmolLM2 on python-qa: {title}", first[key], [last[key]])


PARTS = {"dpo": teach_dpo, "reward": teach_reward, "judge": teach_judge, "grpo": teach_grpo, "lora": teach_lora}


if __name__ == "__main__":
    main()
