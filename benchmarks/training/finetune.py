"""Training adapters (LoRA) of SmolLM2-135M-Instruct: here, over bfloat16 and over Q4_1 weights, and in peft with transformers.

    llmcore pull smollm2-135m-instruct
    python -m benchmarks.training.finetune --threads 2 --json benchmarks/results/finetune-2.local.json

Rank 8 on every linear layer, 8 rows of 256 tokens per update, bfloat16, AdamW; the same rows for all. Each library has a
process of its own, so that its peak memory (VmHWM) is its own; processes take turns, and a row has the median of their updates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import results
from benchmarks.harness.environment import environment
from benchmarks.harness.process import child, memory

NAME = "smollm2-135m-instruct"
TITLE = __doc__.partition("\n")[0]
AGREEMENT = 0.02  # of the first losses: bfloat16, and activations of 8 bits over Q4_1
SIDES = {"llmcore": "bfloat16 weights", "llmcore-quantized": "Q4_1 weights", "peft": "bfloat16 weights"}


@dataclass(frozen=True)
class Sizes:
    rank: int = 8
    rows: int = 8
    context: int = 256
    warm: int = 2
    updates: int = 4
    turns: int = 3


SIZES = {False: Sizes(), True: Sizes(2, 2, 16, 1, 1, 1)}  # whether --smoke


def batch(step: int, rows: int, context: int, vocab_size: int) -> np.ndarray:
    return np.random.default_rng(step).integers(100, vocab_size - 100, (rows, context + 1))


def of_llmcore(model: str, quantized: bool, sizes: Sizes):
    from llmcore import optim
    from llmcore.models import adapters

    lm = llmcore.load(model, "bfloat16", None if quantized else "none").model
    adapters.attach_lora(lm, adapters.LoRAConfig(sizes.rank))
    optimizer = optim.AdamW(lm.trainable().items(), 1e-4)

    def update(ids: np.ndarray) -> float:
        lm.zero_grad()
        loss = lm.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.item()

    return update, lm.config.vocab_size


def of_peft(folder: str, threads: int, sizes: Sizes):
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = peft.get_peft_model(base, peft.LoraConfig(r=sizes.rank, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)

    def update(ids: np.ndarray) -> float:
        ids = torch.tensor(ids)
        logits = model(input_ids=ids[:, :-1], labels=None).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return update, base.config.vocab_size


def side(name: str, model: str, threads: int, rows: int, sizes: Sizes) -> None:
    """Print, in a process of its own, seconds of each update, losses and peak memory as JSON."""
    llmcore.set_num_threads(threads)
    if name == "peft":
        update, vocab_size = of_peft(model, threads, sizes)
    else:
        update, vocab_size = of_llmcore(model, name != "llmcore", sizes)
    losses, seconds = [], []
    for step in range(sizes.warm + sizes.updates):
        ids = batch(step, rows, sizes.context, vocab_size)
        began = time.perf_counter()
        losses.append(update(ids))
        seconds.append(time.perf_counter() - began)
    print(json.dumps({"seconds": seconds[sizes.warm :], "losses": losses, "peak": memory("VmHWM")}))


def rows_of(threads: int, model: str, folder: Path, smoke: bool) -> list[dict]:
    sizes = SIZES[smoke]

    def run(name: str, rows: int) -> dict:
        options = ["--model", folder if name == "peft" else model, "--threads", threads, "--rows", rows]
        return child(__spec__.name, "--side", name, *options, *["--smoke"] * smoke)

    names = [n for n in SIDES if n != "peft" or importlib.util.find_spec("peft") is not None]
    found: dict[str, list[dict]] = {}
    for _ in range(sizes.turns):
        for name in names:
            found.setdefault(name, []).append(run(name, sizes.rows))
    first = {name: runs[0]["losses"][0] for name, runs in found.items()}
    for name, loss in first.items():
        assert abs(loss - first["llmcore"]) < AGREEMENT * first["llmcore"], (name, first)
    medians = {name: statistics.median(s for run in runs for s in run["seconds"]) for name, runs in found.items()}
    peaks = {name: max(run["peak"] for run in runs) for name, runs in found.items()}
    made, tokens = [], sizes.rows * sizes.context
    for ours in ("llmcore", "llmcore-quantized"):
        notes = [f"{tokens / medians[ours]:,.0f} tokens/s", f"{peaks[ours] / 1e6:,.0f} MB"]
        seconds, ratio = {"llmcore": medians[ours]}, None
        if "peft" in medians:
            seconds["peft"] = medians["peft"]
            ratio = medians["peft"] / medians[ours]
            notes.append(f"peft {tokens / medians['peft']:,.0f} tokens/s, {peaks['peft'] / 1e6:,.0f} MB")
        name = f"update of adapters over {SIDES[ours]} ({'; '.join(notes)})"
        made.append(results.model_row(name, seconds, ratio, threads))
    small = run("llmcore-quantized", 1)
    name = f"one row over Q4_1 weights ({small['peak'] / 1e6:,.0f} MB)"
    made.append(results.model_row(name, {"llmcore": statistics.median(small["seconds"])}, None, threads))
    for r in made:
        print(f"{r['name']}: {r['seconds']['llmcore']:.2f} s, {r['ratio'] or 0:.2f}x", flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--seconds", type=float, help="taken for the sake of run.py: the work is fixed here")
    parser.add_argument("--model", default=NAME, help="that the adapters are trained on")
    parser.add_argument("--smoke", action="store_true", help="little work, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.model, args.threads, args.rows, SIZES[args.smoke])
        return
    with tempfile.TemporaryDirectory() as folder:
        llmcore.load(args.model, quantize="none").save(folder, "bfloat16")
        rows = rows_of(args.threads, args.model, Path(folder), args.smoke)
    results.write(args.json, {"kind": "ops", "title": TITLE, "rows": rows, "environment": environment(args.threads)})


if __name__ == "__main__":
    main()
