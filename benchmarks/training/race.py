"""Pretraining on python-docs against time, here and in a plain torch script: held-out bits per byte.

    python -m benchmarks.training.race --minutes 10 --json benchmarks/results/race.local.json --plot docs/race.svg

The same model (GPT-2 of 6 layers and width 384), tokens, batches, first weights and learning rate in bfloat16, each library
in a process of its own, one after the other; torch eager or compiled, whichever is faster here. The clock stands still
while held-out text is read. `llmcore` is what `llmcore pretrain --optimizer muon` does, `llmcore adamw` differs from torch
only in the library.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import results
from benchmarks.harness.compare import use_threads
from benchmarks.harness.environment import environment
from benchmarks.harness.process import child
from benchmarks.training import gpt
from llmcore import data, models, optim
from llmcore.train.schedule import learning_rate

PEAK, WARMUP, LEAST = 1e-3, 50, 0.1
SIDES = ("llmcore", "llmcore adamw", "torch")


@dataclass(frozen=True)
class Sizes:
    vocab_size: int = 4096
    context: int = 256
    rows: int = 16
    width: int = 384
    layers: int = 6
    heads: int = 6
    evaluations: int = 20
    windows: int | None = None  # batches of held-out text that an evaluation takes; all


SIZES = {False: Sizes(), True: Sizes(300, 64, 4, 32, 1, 2, 2, 5)}  # whether --smoke


class Muon(gpt.LlmcoreTrainer):
    def __init__(self, config, weights, dtype):
        super().__init__(config, weights, dtype)
        self.optimizer = optim.Muon(self.model.named_parameters(), PEAK, weight_decay=gpt.DECAY, dtype=dtype)


def trainer(side: str, config, weights):
    if side == "llmcore":
        return Muon(config, weights, "bfloat16")
    return gpt.trainer(side.split()[0] if side.startswith("llmcore") else side, config, weights, "bfloat16")


def run(side: str, minutes: float, smoke: bool) -> dict:
    """Return, in a process of its own, (seconds, updates, bits per byte) along the way."""
    sizes = SIZES[smoke]
    corpus = data.read_corpus("python-docs")
    tokenizer = llmcore.Tokenizer.train(iter(corpus.train), sizes.vocab_size)
    tokens, held_out = corpus.encode(tokenizer)
    batches = data.TokenBatches(tokens, sizes.rows, sizes.context, seed=0)
    windows = data.evaluation_windows(held_out, sizes.context, tokenizer.end_of_text)
    config = models.GPT2Config(
        tokenizer.vocab_size, context=sizes.context, width=sizes.width, layers=sizes.layers, heads=sizes.heads
    )
    weights = gpt.initial_weights(config)
    if side == "torch" and not smoke:
        side = min(("torch", "torch compiled"), key=lambda s: seconds_per_update(trainer(s, config, weights), batches))
    own = trainer(side, config, weights)
    own.step(*batches.batch(0), lr=0.0)  # compiled, packed
    clock, step, curve, limit = 0.0, 0, [], 60 * minutes
    while clock < limit:
        began = time.perf_counter()
        # As llmcore.train has it where the time ends a run: the rate comes down with the time.
        place = step if step < WARMUP else max(step, int(1e6 * clock / limit)) if step else 0
        steps = 10**6
        lr = learning_rate("cosine", place, steps, PEAK, WARMUP, LEAST)
        loss = own.step(*batches.batch(step), lr=lr)
        step += 1
        clock += time.perf_counter() - began
        if clock >= limit * (len(curve) + 1) / sizes.evaluations or clock >= limit:
            nats = sum(own.nats(*part) for part in islice(windows.batches(sizes.rows), sizes.windows))
            bpb = data.bits_per_byte(nats, corpus.validation_bytes)
            curve.append((round(clock, 1), step, bpb))
            print(
                f"{side}: {clock:.0f} s, update {step}, loss {loss:.3f}, held out {bpb:.4f}",
                file=sys.stderr,
                flush=True,
            )
    return {"side": side, "curve": curve}


def seconds_per_update(own, batches) -> float:
    times = []
    for step in range(12):
        began = time.perf_counter()
        own.step(*batches.batch(step), lr=0.0)
        times.append(time.perf_counter() - began)
    return sorted(times[4:])[4]


def draw(found: dict[str, dict], path: Path) -> None:
    from llmcore.plot.curves import pyplot, save

    figure, axis = pyplot().subplots(figsize=(7, 4.5), constrained_layout=True)
    for name, result in found.items():
        seconds, _, bpb = zip(*result["curve"], strict=True)
        axis.plot(np.array(seconds) / 60, bpb, "o-", ms=3, label=f"{name}: {min(bpb):.3f}")
    axis.set(xlabel="minutes of training", ylabel="held-out bits per byte")
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--sides", nargs="*", default=list(SIDES))
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--plot", type=Path, help="where to draw the curves")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        use_threads(args.threads)
        print(json.dumps(run(args.side, args.minutes, args.smoke)))
        return
    found = {}
    for side in args.sides:
        options = ["--minutes", args.minutes, "--threads", args.threads, *["--smoke"] * args.smoke]
        result = child(__spec__.name, "--side", side, *options)
        found[result["side"]] = result
    for name, result in found.items():
        seconds, steps, bpb = zip(*result["curve"], strict=True)
        best = int(np.argmin(bpb))
        print(
            f"{name:16} {steps[-1]:6} updates, {bpb[-1]:.4f} at the end, lowest {bpb[best]:.4f} after {seconds[best]:.0f} s"
        )
    results.write(args.json, {"runs": found, "environment": environment(args.threads)})
    if args.plot:
        draw(found, args.plot)


if __name__ == "__main__":
    main()
