"""Train the same GPT in llmcore and in torch: tokens a second, peak memory, and that both learn the same.

    python benchmarks/train_gpt.py --json benchmarks/results/train.local.json

Each library has a process of its own, so that its peak memory (VmHWM) is its own; they take turns of a few steps in one
run, A B C A B C, so that a slow minute of the machine is slow for all. All start from the same weights and see the same
batches, and their losses must agree at every step.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, CONTEXT, WIDTH, LAYERS, HEADS = 16, 256, 384, 6, 6
# Of the loss, at every step: bfloat16 products summed in different orders, amplified by a few hundred updates at most.
AGREEMENT = 0.01


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", type=int, nargs="+", default=[256, 4096])
    parser.add_argument("--turns", type=int, default=6, help="timed turns of each library")
    parser.add_argument("--steps", type=int, default=5, help="updates in a turn")
    parser.add_argument("--libraries", nargs="+", default=["llmcore", "torch", "torch compiled"])
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--worker", nargs=2, metavar=("LIBRARY", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return work(*args.worker)

    from environment import environment, peer_version

    libraries = [name for name in args.libraries if name == "llmcore" or peer_version("torch")]
    result = {"kind": "train", "environment": environment(), "runs": []}
    for vocab in args.vocab:
        with tempfile.TemporaryDirectory() as folder:
            result["runs"].append(compare(libraries, vocab, args.turns, args.steps, Path(folder)))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def compare(libraries: list[str], vocab: int, turns: int, steps: int, folder: Path) -> dict:
    """Run the workers in turns; returns sizes, and for each library its rates, memory and losses."""
    sizes = prepare(vocab, folder)
    print(f"GPT of {sizes['parameters'] / 1e6:.1f}M parameters, V={vocab}, B={BATCH}, T={CONTEXT}", flush=True)
    workers = {name: Worker(name, folder) for name in libraries}
    try:
        results: dict[str, dict] = {}
        for name, worker in workers.items():  # the first turn compiles, fills caches, and counts for the losses only
            results[name] = {"tokens_per_second": [], "losses": worker.turn(2)["losses"]}
        for turn in range(turns):
            for name, worker in workers.items():
                answer = worker.turn(steps)
                rate = steps * BATCH * CONTEXT / answer["seconds"]
                row = results[name]
                row["tokens_per_second"].append(rate)
                row["losses"] += answer["losses"]
                row["peak_bytes"], row["bytes_before"] = answer["peak_bytes"], answer["bytes_before"]
                print(
                    f"  turn {turn + 1}: {name:15} {rate:8.0f} tok/s, {answer['peak_bytes'] / 1e6:6.0f} MB", flush=True
                )
    finally:
        for worker in workers.values():
            worker.close()
    for row in results.values():
        row["median"] = statistics.median(row["tokens_per_second"])
    reference = results[libraries[0]]["losses"]
    for name, row in results.items():
        apart = max(abs(a - b) / b for a, b in zip(row["losses"], reference, strict=True))
        row["apart"] = apart
        assert apart < AGREEMENT, f"losses of {name} and {libraries[0]} are {apart:.2%} apart"
    summarise(results)
    return sizes | {"results": results}


def summarise(results: dict[str, dict]) -> None:
    for name, row in results.items():
        print(
            f"  {name:15} {row['median']:8.0f} tok/s median, peak {row['peak_bytes'] / 1e6:.0f} MB "
            f"({row['bytes_before'] / 1e6:.0f} MB before the model), loss {row['losses'][0]:.3f} -> {row['losses'][-1]:.3f}, "
            f"at most {row['apart']:.2%} apart"
        )
    peers = {name: row for name, row in results.items() if name != "llmcore"}
    if peers and "llmcore" in results:
        best = max(peers, key=lambda name: peers[name]["median"])
        ours = results["llmcore"]
        print(f"  speed: {ours['median'] / peers[best]['median']:.2f} x {best}", end="")
        print(f", memory: {ours['peak_bytes'] / peers[best]['peak_bytes']:.2f} x", flush=True)


def prepare(vocab: int, folder: Path) -> dict:
    """Write the first weights and the tokens of the built-in corpus; bytes themselves where the vocabulary is 256."""
    import gpt
    import llmcore
    from llmcore import data, models

    corpus = data.read_corpus("python-docs")
    if vocab == 256:
        tokens = np.frombuffer(b"".join(corpus.train), np.uint8).astype(np.uint16)
    else:
        tokenizer = llmcore.Tokenizer.train(iter(corpus.train), vocab)
        tokens = data.encode_documents(corpus.train, tokenizer)
    config = {"vocab_size": vocab, "context": CONTEXT, "width": WIDTH, "layers": LAYERS, "heads": HEADS}
    weights = gpt.initial_weights(models.GPT2Config(**config))
    np.save(folder / "tokens.npy", tokens)
    np.savez(folder / "weights.npz", **weights)
    (folder / "config.json").write_text(json.dumps(config))
    # A multiply-add is two operations; forward one, backward two of each matrix; attention's scores once more backward.
    matrices = sum(w.size for name, w in weights.items() if w.ndim == 2 and "positions" not in name)
    flops = 6 * matrices + 7 * LAYERS * CONTEXT * WIDTH
    parameters = sum(w.size for w in weights.values())
    return config | {"batch": BATCH, "parameters": parameters, "flops_per_token": flops}


class Worker:
    """A process that trains with one library, a turn whenever it is asked."""

    def __init__(self, library: str, folder: Path):
        self.library = library
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--worker", library, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
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


def work(library: str, folder: str) -> None:
    """A worker: reads the number of steps of a turn, trains them, writes one line of JSON."""
    import gpt
    from llmcore import data, models

    if library != "llmcore":
        import torch  # noqa: F401 - before memory is looked at
    config = models.GPT2Config(**json.loads(Path(folder, "config.json").read_text()))
    batches = data.TokenBatches(np.load(Path(folder, "tokens.npy"), mmap_mode="r"), BATCH, CONTEXT, seed=0)
    before = memory("VmRSS")
    with np.load(Path(folder, "weights.npz")) as weights:
        trainer = gpt.trainer(library, config, dict(weights))
    step = 0
    for line in sys.stdin:
        losses, began = [], time.perf_counter()
        for _ in range(int(line)):
            losses.append(trainer.step(*batches.batch(step)))
            step += 1
        seconds = time.perf_counter() - began
        answer = {"seconds": seconds, "losses": losses, "peak_bytes": memory("VmHWM"), "bytes_before": before}
        print(json.dumps(answer), flush=True)


def memory(field: str) -> int:
    """VmRSS or VmHWM (its peak) of this process in bytes. ru_maxrss would start with the parent's."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {field} in /proc/self/status")


if __name__ == "__main__":
    main()
