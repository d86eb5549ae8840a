"""Training adapters (LoRA) of SmolLM2-135M-Instruct: here, over bfloat16 and over Q4_1 weights, and in peft with transformers.

    llmcore pull smollm2-135m-instruct
    python -m benchmarks.training.finetune --threads 2 --json benchmarks/results/finetune-2.local.json

Rank 8 on every linear layer, 8 rows of 256 tokens an update, bfloat16, AdamW; the same rows for all. Each library has a
process of its own, so that its peak memory (VmHWM) is its own; processes take turns, a row has the median of their updates.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness.environment import environment

NAME = "smollm2-135m-instruct"
TITLE = __doc__.partition("\n")[0]
RANK, ROWS, CONTEXT = 8, 8, 256
WARM, UPDATES, TURNS = 2, 4, 3
AGREEMENT = 0.02  # of the first losses: bfloat16, and activations of 8 bits over Q4_1
SIDES = {"llmcore": "bfloat16 weights", "llmcore-quantized": "Q4_1 weights", "peft": "bfloat16 weights"}


def batch(step: int, rows: int) -> np.ndarray:
    return np.random.default_rng(step).integers(100, 49000, (rows, CONTEXT + 1))


def of_llmcore(quantized: bool, threads: int, rows: int):
    from llmcore import optim
    from llmcore.models import adapters

    llmcore.set_num_threads(threads)
    model = llmcore.load(NAME, "bfloat16", None if quantized else "none").model
    adapters.attach_lora(model, adapters.LoRAConfig(RANK))
    optimizer = optim.AdamW(model.trainable().items(), 1e-4)

    def update(step: int) -> float:
        ids = batch(step, rows)
        model.zero_grad()
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        optimizer.step()
        return loss.item()

    return update


def of_peft(folder: Path, threads: int, rows: int):
    import peft
    import torch
    import transformers

    torch.set_num_threads(threads)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, attn_implementation="sdpa")
    model = peft.get_peft_model(base, peft.LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear"))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 1e-4)

    def update(step: int) -> float:
        ids = torch.tensor(batch(step, rows))
        loss = model(input_ids=ids[:, :-1], labels=None).logits
        loss = torch.nn.functional.cross_entropy(loss.flatten(0, 1).float(), ids[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.item()

    return update


def side(name: str, folder: Path, threads: int, rows: int) -> None:
    """In a process of its own: seconds of each update, losses and peak memory, as JSON."""
    update = of_peft(folder, threads, rows) if name == "peft" else of_llmcore(name != "llmcore", threads, rows)
    losses, seconds = [], []
    for step in range(WARM + UPDATES):
        began = time.perf_counter()
        losses.append(update(step))
        seconds.append(time.perf_counter() - began)
    status = Path("/proc/self/status").read_text()
    peak = int(status.split("VmHWM:")[1].split()[0]) * 1024
    print(json.dumps({"seconds": seconds[WARM:], "losses": losses, "peak": peak}))


def rows_of(threads: int, folder: Path) -> list[dict]:
    names = [n for n in SIDES if n != "peft" or importlib.util.find_spec("peft") is not None]
    found: dict[str, list[dict]] = {}
    for _ in range(TURNS):
        for name in names:
            found.setdefault(name, []).append(child(name, folder, threads, ROWS))
    first = {name: runs[0]["losses"][0] for name, runs in found.items()}
    for name, loss in first.items():
        assert abs(loss - first["llmcore"]) < AGREEMENT * first["llmcore"], (name, first)
    medians = {name: statistics.median(s for run in runs for s in run["seconds"]) for name, runs in found.items()}
    peaks = {name: max(run["peak"] for run in runs) for name, runs in found.items()}
    made = []
    for ours in ("llmcore", "llmcore-quantized"):
        notes = [f"{ROWS * CONTEXT / medians[ours]:,.0f} tokens/s", f"{peaks[ours] / 1e6:,.0f} MB"]
        seconds, ratio = {"llmcore": medians[ours]}, None
        if "peft" in medians:
            seconds["peft"] = medians["peft"]
            ratio = medians["peft"] / medians[ours]
            notes.append(f"peft {ROWS * CONTEXT / medians['peft']:,.0f} tokens/s, {peaks['peft'] / 1e6:,.0f} MB")
        made.append(row(f"update of adapters over {SIDES[ours]} ({'; '.join(notes)})", seconds, ratio, threads))
    small = child("llmcore-quantized", folder, threads, 1)
    name = f"one row over Q4_1 weights ({small['peak'] / 1e6:,.0f} MB)"
    made.append(row(name, {"llmcore": statistics.median(small["seconds"])}, None, threads))
    for r in made:
        print(f"{r['name']}: {r['seconds']['llmcore']:.2f} s, {r['ratio'] or 0:.2f}x", flush=True)
    return made


def row(name: str, seconds: dict[str, float], ratio: float | None, threads: int) -> dict:
    return {
        "name": name,
        "dtype": "model",
        "seconds": seconds,
        "ratio": ratio,
        "flops": 0,
        "traffic": 0,
        "threads": threads,
    }


def child(name: str, folder: Path, threads: int, rows: int) -> dict:
    command = [sys.executable, "-m", __spec__.name, "--side", name, "--folder", str(folder), "--threads", str(threads)]
    done = subprocess.run([*command, "--rows", str(rows)], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--seconds", type=float, help="taken for the sake of run.py: the work is fixed here")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--rows", type=int, default=ROWS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        side(args.side, args.folder, args.threads, args.rows)
        return
    with tempfile.TemporaryDirectory() as folder:
        llmcore.load(NAME, quantize="none").save(folder, "bfloat16")
        result = {"kind": "ops", "title": TITLE, "rows": rows_of(args.threads, Path(folder))}
    result["environment"] = environment(args.threads)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
