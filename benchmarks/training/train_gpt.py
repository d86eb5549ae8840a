"""Train the same GPT in llmcore and in torch: tokens per second, peak memory, and that both learn the same.

    python -m benchmarks.training.train_gpt --json benchmarks/results/train.local.json

Each library and dtype has a process of its own, so that its peak memory (VmHWM) is its own; they take turns of a few steps
in one run, A B C A B C, so that a slow minute of the machine is slow for all. All start from the same weights and see the
same batches, and their losses must agree at every step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import results as result_files
from benchmarks.harness.compare import PAUSE, use_threads
from benchmarks.harness.environment import environment, peer_version
from benchmarks.harness.floors import roofline
from benchmarks.harness.process import ROOT, command, memory
from benchmarks.training import gpt
from llmcore import data, models

# Of the loss, at every step: products summed in different orders, amplified by every update.
AGREEMENT = 0.01
LIBRARIES = ("llmcore", "torch", "torch compiled")


@dataclass(frozen=True)
class Run:
    """One model on one batch size, trained by every (library, dtype) of `sides`."""

    name: str
    layers: int
    width: int
    heads: int
    vocab_size: int
    context: int
    batch: int
    sides: tuple[tuple[str, str], ...]
    steps: int  # updates in a turn
    turns: int

    @property
    def config(self) -> dict:
        return {k: getattr(self, k) for k in ("vocab_size", "context", "width", "layers", "heads")}


def both(*libraries: str) -> tuple[tuple[str, str], ...]:
    return tuple((library, dtype) for dtype in ("bfloat16", "float32") for library in libraries)


HALF = tuple((library, "bfloat16") for library in LIBRARIES)
RUNS = (
    Run("4x128", 4, 128, 4, 256, 64, 12, both(*LIBRARIES), steps=40, turns=8),
    Run("6x384, bytes", 6, 384, 6, 256, 256, 16, HALF, steps=5, turns=6),
    Run("6x384", 6, 384, 6, 4096, 256, 16, HALF, steps=5, turns=6),
    # eager torch is slower than compiled torch here, by minutes
    Run("GPT-2 124M", 12, 768, 12, 50257, 256, 4, both("llmcore", "torch compiled"), steps=1, turns=5),
    Run("GPT-2 124M, long", 12, 768, 12, 50257, 1024, 2, both("llmcore", "torch compiled"), steps=1, turns=4),
)
SMOKE = Run("smoke", 1, 32, 2, 256, 16, 2, both("llmcore", "torch"), steps=2, turns=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", help=f"runs: {', '.join(repr(r.name) for r in RUNS)}")
    parser.add_argument("--libraries", nargs="+", default=LIBRARIES)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--smoke", action="store_true", help="a tiny model, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--worker", nargs=3, metavar=("LIBRARY", "DTYPE", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker, args.threads)
    result = {"kind": "train", "environment": environment(args.threads), "runs": []}
    for run in (SMOKE,) if args.smoke else RUNS:
        if args.only and run.name not in args.only:
            continue
        sides = [s for s in run.sides if s[0] in args.libraries and (s[0] == "llmcore" or peer_version("torch"))]
        with tempfile.TemporaryDirectory() as folder:
            result["runs"].append(compare(run, sides, args.threads, Path(folder)))
        summarise(result["runs"][-1], result["environment"]["machine"])
    result_files.write(args.json, result)


def compare(run: Run, sides: list[tuple[str, str]], threads: int, folder: Path) -> dict:
    """Run the workers in turns; returns sizes, and for each side its rates, memory and losses."""
    sizes = prepare(run, folder)
    print(f"{run.name}: {sizes['parameters'] / 1e6:.1f}M parameters, {run.config}, batch {run.batch}", flush=True)
    results = [{"library": library, "dtype": dtype, "rates": []} for library, dtype in sides]
    workers = [Worker(library, dtype, folder, threads) for library, dtype in sides]
    try:
        for row, worker in zip(results, workers, strict=True):
            row["losses"] = worker.turn(2)["losses"]  # compiles and fills caches: counts for the losses only
        for _ in range(run.turns):
            for row, worker in zip(results, workers, strict=True):
                time.sleep(PAUSE)
                answer = worker.turn(run.steps)
                row["rates"].append(run.steps * run.batch * run.context / answer["seconds"])
                row["losses"] += answer["losses"]
                row["peak_bytes"], row["bytes_before"] = answer["peak_bytes"], answer["bytes_before"]
    finally:
        for worker in workers:
            worker.close()
    reference = next(row for row in results if row["library"] == "llmcore")["losses"]
    for row in results:
        row["tokens_per_second"] = statistics.median(row["rates"])
        row["apart"] = max(abs(a - b) / b for a, b in zip(row["losses"], reference, strict=True))
        assert row["apart"] < AGREEMENT, f"{row['library']} {row['dtype']}: losses are {row['apart']:.2%} apart"
    return sizes | {"results": results}


def summarise(result: dict, machine: dict) -> None:
    for row in result["results"]:
        print(
            f"  {row['library']:15} {row['dtype']:9} {row['tokens_per_second']:8.0f} tok/s, "
            f"{roofline(result, row, machine):4.0%} of the roofline, peak {row['peak_bytes'] / 1e6:.0f} MB "
            f"({row['bytes_before'] / 1e6:.0f} MB before the model), loss {row['losses'][0]:.3f} -> "
            f"{row['losses'][-1]:.3f}, at most {row['apart']:.2%} apart",
            flush=True,
        )


def prepare(run: Run, folder: Path) -> dict:
    """Write the first weights and the tokens of the built-in corpus; bytes themselves where the vocabulary is 256, and
    random ids where training a tokenizer of that size would need more text."""
    corpus = data.read_corpus("python-docs")
    if run.vocab_size == 256:
        tokens = np.frombuffer(b"".join(corpus.train), np.uint8).astype(np.uint16)
    elif run.vocab_size <= 4096:
        tokens = data.encode_documents(corpus.train, llmcore.Tokenizer.train(iter(corpus.train), run.vocab_size))
    else:
        tokens = np.random.default_rng(0).integers(0, run.vocab_size, 1 << 20).astype(np.uint16)
    weights = gpt.initial_weights(models.GPT2Config(**run.config))
    np.save(folder / "tokens.npy", tokens)
    np.savez(folder / "weights.npz", **weights)
    (folder / "run.json").write_text(json.dumps({"config": run.config, "batch": run.batch}))
    # A multiply-add is two operations; forward one, backward two of each matrix; attention over half the square: two
    # products forward, five backward.
    matrices = sum(w.size for name, w in weights.items() if w.ndim == 2 and "positions" not in name)
    flops = 6 * matrices + 7 * run.layers * run.context * run.width
    parameters = sum(w.size for w in weights.values())
    return {
        "name": run.name,
        "batch": run.batch,
        "parameters": parameters,
        "flops_per_token": flops,
        "steps": 2 + run.turns * run.steps,
        **run.config,
    }


class Worker:
    """A process that trains with one library, a turn whenever it is asked."""

    def __init__(self, library: str, dtype: str, folder: Path, threads: int):
        self.library = library
        self.process = subprocess.Popen(
            command(__spec__.name, "--threads", threads, "--worker", library, dtype, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )

    def turn(self, steps: int) -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{steps}\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith('{"seconds"'):
                return json.loads(line)
        raise RuntimeError(f"the worker of {self.library} ended with status {self.process.wait()}")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)


def work(library: str, dtype: str, folder: str, threads: int) -> None:
    """A worker: reads the number of steps of a turn, trains them, writes one line of JSON."""
    if library == "llmcore":
        llmcore.set_num_threads(threads)
    else:
        use_threads(threads)  # imports torch, before memory is looked at
    run = json.loads(Path(folder, "run.json").read_text())
    config = models.GPT2Config(**run["config"])
    tokens = np.load(Path(folder, "tokens.npy"), mmap_mode="r")
    batches = data.TokenBatches(tokens, run["batch"], config.context, seed=0)
    before = memory("VmRSS")
    with np.load(Path(folder, "weights.npz")) as weights:
        trainer = gpt.trainer(library, config, dict(weights), dtype)
    step = 0
    for line in sys.stdin:
        losses, began = [], time.perf_counter()
        for _ in range(int(line)):
            losses.append(trainer.step(*batches.batch(step)))
            step += 1
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "losses": losses, "peak_bytes": memory("VmHWM"), "bytes_before": before}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
