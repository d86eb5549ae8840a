"""What surrounds the updates of pretraining: text that is larger than memory, batches made ahead, memory for time, processes.

    python -m benchmarks.training.pretraining --json benchmarks/results/pretraining.local.json

loader: tokens per second of batches from shards of 20 GB (made under --scratch), beside those of training; what the process
holds in memory with a small shard set and with the large one. ahead: updates with batches that are made beside them, over
updates with one batch that lies in memory. recompute: peak memory and time of GPT-2 124M at T=1024, B=8, with and without.
mpi: tokens per second of two processes of one thread, over one of two threads, on GPT-2 124M.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import llmcore
from benchmarks.harness import results
from benchmarks.harness.environment import environment
from benchmarks.harness.process import child, memory
from llmcore import data, models
from llmcore.data.shards import DOCUMENT
from llmcore.train import PretrainConfig, Report, loop
from llmcore.train.distributed.group import SingleProcess
from llmcore.train.report import resident_bytes
from llmcore.train.stages.pretrain import PretrainStage

PARTS = ("loader", "ahead", "recompute", "mpi")
DOCUMENT_TOKENS = 2000


@dataclass(frozen=True)
class Sizes:
    """stage: of the model that the loader and the prefetched batches feed, where not PretrainConfig's. gpt2: of the model
    of the other parts."""

    shard_tokens: int = 1 << 29  # a gigabyte
    loading: float = 5.0  # seconds
    shard_updates: int = 400
    rounds: int = 60
    stage: Mapping[str, int] = field(default_factory=dict)
    gpt2: Mapping[str, int] = field(default_factory=lambda: {"layers": 12, "width": 768, "heads": 12, "context": 1024})
    recompute_rows: int = 8
    mpi_rows: int = 4
    mpi_updates: int = 4


FULL = Sizes()
TINY = {"layers": 1, "width": 32, "heads": 1, "context": 32}
SMOKE = Sizes(1 << 17, 0.1, 6, 8, {**TINY, "batch_size": 4}, TINY, 2, 2, 3)


def make_shards(folder: Path, count: int, shard_tokens: int) -> None:
    """Random ids in `count` shards: what `llmcore tokenize` would have made of as much text."""
    tokenizer = llmcore.Tokenizer.train(iter(["a synthetic text"] * 3), 300)
    folder.mkdir(parents=True)
    tokenizer.save(folder)
    rng, shards = np.random.default_rng(0), []
    stretch = rng.integers(0, 256, 1 << 22, np.uint16)
    for number in range(count):
        array = np.lib.format.open_memmap(
            folder / f"shard-{number:05}.npy", mode="w+", dtype=np.uint16, shape=(shard_tokens,)
        )
        for start in range(0, shard_tokens, len(stretch)):
            array[start : start + len(stretch)] = stretch[: shard_tokens - start]
        array.flush()
        del array
        documents = np.zeros(shard_tokens // DOCUMENT_TOKENS, DOCUMENT)
        documents["start"] = number * shard_tokens + DOCUMENT_TOKENS * np.arange(len(documents))
        documents["bytes"] = 4 * DOCUMENT_TOKENS
        documents["key"] = rng.integers(0, 1 << 63, len(documents), np.uint64)
        np.save(folder / f"shard-{number:05}.documents.npy", documents)
        shards.append({"tokens": shard_tokens, "documents": len(documents), "source": 0, "after": number})
    shards[-1] |= {"source": 1, "after": 0}
    total = count * shard_tokens
    documents = sum(s["documents"] for s in shards)
    index = {"format": "llmcore-shards", "version": 1, "complete": True, "tokenizer": tokenizer.digest,
             "vocab_size": tokenizer.vocab_size, "dtype": "uint16", "end_of_text": tokenizer.end_of_text, "field": "text",
             "shard_tokens": shard_tokens, "sources": [{"path": "made up", "bytes": 4 * total}], "shards": shards,
             "tokens": total, "documents": documents, "bytes": 4 * documents * DOCUMENT_TOKENS}  # fmt: skip
    (folder / "index.json").write_text(json.dumps(index))


def started(sizes: Sizes, name: str, *arguments: object, before: tuple[str, ...] = ()) -> dict:
    """Return what one of `CHILDREN` returns in a process of its own."""
    return child(__spec__.name, *["--smoke"] * (sizes is SMOKE), "--child", name, *arguments, before=before)


# ---- in processes of their own ----


def train_on_shards(sizes: Sizes, folder: str) -> dict:
    """Train a small model; returns the memory once it runs, and at the end."""
    held = []

    class Watching(Report):
        def update(self, row):
            held.append(resident_bytes())

    config = PretrainConfig(data=folder, out=tempfile.mkdtemp(), steps=sizes.shard_updates, layers=1, width=64, heads=1, save_every=0,
                            eval_every=0, sample_every=0, batch_size=16, context=256)  # fmt: skip
    texts = [data.ShardSet(folder)]
    stage = PretrainStage(config, texts, texts[0].tokenizer)
    stage.evaluate = lambda: {}  # type: ignore[method-assign]  # 16 MB held out would take longer than all else
    loop.run(stage, config, Watching())
    shutil.rmtree(config.out)
    return {"resident": held[len(held) // 2 :][0], "at_the_end": held[-1]}


def load_only(sizes: Sizes, folder: str) -> dict:
    """Return the tokens per second of batches alone, from places all over the shards."""
    stream, _ = data.ShardSet(folder).encode(llmcore.Tokenizer.load(folder))
    batches = data.TokenBatches(stream, 16, 256, seed=1)
    began, step = time.perf_counter(), 0
    while time.perf_counter() - began < sizes.loading:
        batches.batch(step)
        step += 1
    return {"tokens_per_second": step * 16 * 256 / (time.perf_counter() - began)}


def gpt2(sizes: Sizes, recompute: str) -> dict:
    """Return the least time of two updates of GPT-2 124M at T=1024, B=8 after a first one, and the peak of memory."""
    stage, config = gpt2_stage(sizes, sizes.recompute_rows, accumulation=1)
    stage.model.recompute = recompute == "yes"
    own = loop.Run(stage, config, Report(), SingleProcess())
    rows = [own.update(step, step, stage.batches) for step in range(3)]
    return {
        "seconds": min(r["dt"] for r in rows[1:]),
        "peak": memory("VmHWM"),
        "loss": rows[-1]["train/loss"],
    }


def gpt2_stage(sizes: Sizes, rows: int, accumulation: int):
    config = PretrainConfig(out="unused", steps=100, batch_size=rows, accumulation=accumulation, lr=1e-4, warmup=0,
                            **sizes.gpt2)  # fmt: skip
    text = data.read_corpus("python-docs")
    tokenizer = llmcore.Tokenizer.train(iter(text.train), 4096)
    stage = PretrainStage(config, [text], tokenizer)
    stage.model = models.GPT2(models.GPT2Config(**sizes.gpt2))  # all of its vocabulary
    stage.model.dtype = config.dtype or llmcore.build_info()["dtype"]
    return stage, config


def processes(sizes: Sizes, threads: str) -> dict:
    """Return the seconds of updates of GPT-2 124M, 8 rows of 1024 tokens in two micro-batches, in as many processes as there are."""
    from llmcore.train.distributed.group import process_group

    llmcore.set_num_threads(int(threads))
    stage, config = gpt2_stage(sizes, sizes.mpi_rows, accumulation=2)
    own = process_group()
    rows = []
    with own.training(stage.trainable(), "a process was killed"):
        run = loop.Run(stage, config, Report(), own)
        for step in range(sizes.mpi_updates):
            rows.append(run.update(step, step, stage.batches))
    if own.rank:
        return {}
    hidden = [r["comm/hidden"] for r in rows[1:] if "comm/hidden" in r]
    return {
        "seconds": statistics.median(r["dt"] for r in rows[1:]),
        "loss": rows[-1]["train/loss"],
        "hidden": statistics.median(hidden) if hidden else None,
        "communicating": statistics.median([r["comm/seconds"] for r in rows[1:] if "comm/seconds" in r] or [0.0]),
    }


CHILDREN = {f.__name__: f for f in (train_on_shards, load_only, gpt2, processes)}

# ---- the parts ----


def loader(sizes: Sizes, scratch: Path, gigabytes: int) -> dict:
    small, large = scratch / "small-shards", scratch / "large-shards"
    for folder, count, tokens in ((small, 1, sizes.shard_tokens), (large, gigabytes, sizes.shard_tokens)):
        shutil.rmtree(folder, ignore_errors=True)
        make_shards(folder, count, tokens)
    found = {
        "loader": started(sizes, "load_only", large)["tokens_per_second"],
        "small": started(sizes, "train_on_shards", small),
        "large": started(sizes, "train_on_shards", large),
    }
    shutil.rmtree(large)
    config = PretrainConfig(out="unused", **sizes.stage)
    text = data.read_corpus("python-docs")
    stage = PretrainStage(config, [text], llmcore.Tokenizer.train(iter(text.train), 4096))
    found["training"] = config.batch_size * config.context / loop.seconds_per_update(stage, config, 12)
    mb = {k: f"{v['at_the_end'] / 1e6:,.0f} MB" for k, v in found.items() if isinstance(v, dict)}
    print(f"loader {found['loader']:,.0f} tokens/s, {found['loader'] / found['training']:.0f}x training at depth 6 "
          f"({found['training']:,.0f} tokens/s); resident {mb['small']} with 1 GB of shards, {mb['large']} with "
          f"{gigabytes} GB", flush=True)  # fmt: skip
    return found


def ahead(sizes: Sizes, scratch: Path) -> dict:
    """Time updates in turns: each batch made ahead, against one that lies in memory."""
    from llmcore.train.background import Prefetcher

    folder = scratch / "small-shards"
    if not folder.is_dir():
        make_shards(folder, 1, min(sizes.shard_tokens, 1 << 22))
    config = PretrainConfig(out="unused", steps=10**6, **sizes.stage)
    text = data.ShardSet(folder)
    stage = PretrainStage(config, [text], text.tokenizer)
    run, fixed = loop.Run(stage, config, Report(), SingleProcess()), stage.batches(0)
    times: dict[str, list[float]] = {"ahead": [], "fixed": []}
    with Prefetcher(stage.batches, config.steps) as made:
        for step in range(sizes.rounds):
            for name, batches in (("ahead", made), ("fixed", lambda _: fixed)):
                times[name].append(run.update(step, step, batches)["dt"])
    medians = {name: statistics.median(t[5:]) for name, t in times.items()}
    print(f"updates with batches made ahead take {medians['ahead'] / medians['fixed']:.3f} of those with a fixed one",
          flush=True)  # fmt: skip
    return medians


def recompute(sizes: Sizes) -> dict:
    found = {name: started(sizes, "gpt2", name) for name in ("no", "yes")}
    assert abs(found["no"]["loss"] - found["yes"]["loss"]) < 1e-6
    print(f"recompute, GPT-2 124M, T=1024, B=8: {found['yes']['peak'] / 1e9:.2f} GB instead of "
          f"{found['no']['peak'] / 1e9:.2f} ({found['yes']['peak'] / found['no']['peak']:.2f}x), "
          f"{found['yes']['seconds'] / found['no']['seconds']:.2f}x the time", flush=True)  # fmt: skip
    return found


def mpi(sizes: Sizes) -> dict:
    mpiexec = shutil.which("mpiexec")
    if mpiexec is None or find_spec("mpi4py") is None:
        print("mpi: no mpiexec or no mpi4py here")
        return {}
    turns: dict[str, list[dict]] = {"one": [], "two": []}
    for _ in range(2):
        turns["one"].append(started(sizes, "processes", 2))
        turns["two"].append(started(sizes, "processes", 1, before=(mpiexec, "-n", "2")))
    found = {name: min(r["seconds"] for r in runs) for name, runs in turns.items()}
    two = turns["two"][-1]
    assert abs(turns["one"][0]["loss"] - two["loss"]) < 1e-2
    print(f"mpi, GPT-2 124M: 2 processes x 1 thread at {found['one'] / found['two']:.2f}x the rate of 1 x 2; {two['hidden']:.0%} "
          f"of {two['communicating']:.2f} s of communication hidden", flush=True)  # fmt: skip
    return {**found, "hidden": two["hidden"], "communicating": two["communicating"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", default=list(PARTS), help="some of: " + ", ".join(PARTS))
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()), help="room for the shards")
    parser.add_argument("--gigabytes", type=int, default=20)
    parser.add_argument("--smoke", action="store_true", help="tiny models and shards, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--child", nargs="*", help=argparse.SUPPRESS)
    args = parser.parse_args()
    sizes = SMOKE if args.smoke else FULL
    if args.child:
        print(json.dumps(CHILDREN[args.child[0]](sizes, *args.child[1:])))
        return
    scratch = args.scratch.resolve()
    os.environ["PYTHONPATH"] = os.pathsep.join(p for p in sys.path if p)
    found = {}
    if "loader" in args.only:
        found["loader"] = loader(sizes, scratch, args.gigabytes)
    if "ahead" in args.only:
        found["ahead"] = ahead(sizes, scratch)
    if "recompute" in args.only:
        found["recompute"] = recompute(sizes)
    if "mpi" in args.only:
        found["mpi"] = mpi(sizes)
    results.write(args.json, {**found, "environment": environment(llmcore.num_threads())})


if __name__ == "__main__":
    main()
