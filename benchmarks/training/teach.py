"""What teaching changes, on questions that nothing was learned from; every figure with three seeds, all of them shown.

    llmcore demo                       # its fine-tuned model is where preferences, the judge and rewards begin
    llmcore pull smollm2-135m-instruct
    python -m benchmarks.training.teach --demo demo-model --json benchmarks/results/teach.local.json

DPO: the part of held-out pairs whose better answer gained on the other. The judge (reward model, of the demo's
model and of SmolLM2): the part of held-out pairs that it puts in the right order. GRPO: the mean reward of held-out prompts, which is checked (an answer of three
words). LoRA of SmolLM2-135M-Instruct on python-qa: held-out loss and word F1.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np

import llmcore
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
    parser.add_argument("--only", nargs="*", default=["dpo", "reward", "judge", "grpo", "lora"], help="some of these")
    parser.add_argument("--json", type=Path, help="where to write the result")
    args = parser.parse_args()
    begin = str(args.demo / "sft")
    questions, found = Questions(200), {}
    pairs, asked = learned(python_qa_pairs()), [
        {"prompt": ASK.format(r["prompt"]), "words": WORDS} for r in learned(python_qa())
    ]  # fmt: skip
    common = {"model": begin, "context": CONTEXT, "epochs": 0.0, "eval_every": 0, "sample_every": 0, "save_every": 0,
              "validation_fraction": 0.0}  # fmt: skip
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pair_file, asked_file = rows_to(folder / "pairs.jsonl", pairs), rows_to(folder / "asked.jsonl", asked)
        if {"dpo", "grpo"} & set(args.only):
            before = measure(llmcore.load(begin), questions)

        def show(what: str, first: float, after: list[float]) -> None:
            found[what] = {"before": first, "after": after}
            print(f"{what:44} {first:.3f} -> {', '.join(f'{a:.3f}' for a in after)}", flush=True)

        if "dpo" in args.only:
            after = []
            for seed in SEEDS:
                config = DPOConfig(data=pair_file, out=str(folder / f"dpo{seed}"), steps=60, batch_size=16, lr=5e-5,
                                   warmup=5, seed=seed, **common)  # fmt: skip
                after.append(prefers(measure(dpo(config, report=Report()), questions)["margins"], before["margins"]))
            show("DPO: held-out pairs", 0.5, after)
        if "reward" in args.only:
            after = []
            for seed in SEEDS:
                config = RewardConfig(data=pair_file, out=str(folder / f"judge{seed}"), steps=300, batch_size=16,
                                      lr=1e-5, warmup=5, seed=seed, **common)  # fmt: skip
                judge = reward(config, report=Report())
                each = [judge([p["prompt"]] * 2, [p["chosen"], p["rejected"]]) for p in questions.pairs]
                after.append(float(np.mean([a > b for a, b in each])))
            show("reward model of the demo's: held-out pairs", 0.5, after)
        if "judge" in args.only:
            after = []
            for seed in SEEDS:
                config = RewardConfig(**common | {
                    "model": MODEL, "data": pair_file, "out": str(folder / f"large{seed}"), "steps": 40, "batch_size": 8,
                    "lr": 5e-4, "warmup": 5, "lora_rank": 8, "seed": seed})  # fmt: skip
                judge = reward(config, report=Report())
                each = [judge([p["prompt"]] * 2, [p["chosen"], p["rejected"]]) for p in questions.pairs]
                after.append(float(np.mean([a > b for a, b in each])))
            show("reward model of SmolLM2 (LoRA): held-out pairs", 0.5, after)
        if "grpo" in args.only:
            after = []
            for seed in SEEDS:
                config = GRPOConfig(data=asked_file, out=str(folder / f"grpo{seed}"), rewards=["length"], steps=40,
                                    batch_size=64, accumulation=1, group=8, max_tokens=40, lr=2e-4, beta=0.05, warmup=0, seed=seed,
                                    bad_rows="skip", **common)  # fmt: skip
                after.append(measure(grpo(config, report=Report()), questions)["short"])
            show("GRPO: reward for three words", before["short"], after)
        if "lora" in args.only:
            lm = llmcore.load(MODEL, "bfloat16", quantize="none")
            first = measure(lm, questions)
            config = SFTConfig(**common | {
                "model": MODEL, "data": rows_to(folder / "qa.jsonl", learned(python_qa())), "out": str(folder / "lora"),
                "context": 256, "steps": 60, "batch_size": 8, "lr": 5e-4, "warmup": 5, "lora_rank": 8})  # fmt: skip
            last = measure(sft(config, report=Report()), questions)
            for key, title in (("loss", "nats a token"), ("f1", "word F1")):
                show(f"LoRA of SmolLM2 on python-qa: {title}", first[key], [last[key]])
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
