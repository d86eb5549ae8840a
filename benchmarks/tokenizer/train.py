"""Training a byte-level BPE vocabulary of 32,768 on 60 MB of text and code that every machine with Python has.

Each side trains in a process of its own, in turns, so that its peak memory is known: what it took beyond the texts,
which are a list of str in memory. Equal threads; the vocabularies must agree except for ties.

    python -m benchmarks.tokenizer.train --threads 2
"""

from __future__ import annotations

import argparse
import json
import statistics
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import llmcore
from benchmarks.harness import results
from benchmarks.harness.environment import environment
from benchmarks.harness.process import child, memory
from benchmarks.tokenizer.peers import TRAINERS, vocabulary
from llmcore.data.python_docs import python_docs

SIDES = ("llmcore", "rustbpe", "tokenizers")


@dataclass(frozen=True)
class Sizes:
    vocab_size: int = 32_768
    bytes: int = 60_000_000
    rounds: int = 3


SIZES = {False: Sizes(), True: Sizes(1000, 300_000, 1)}  # whether --smoke


def texts(wanted: int) -> list[str]:
    """Return Python's documentation, then the sources of its library and of the packages that are installed, in order."""
    found = [document.decode("utf-8", "replace") for document in python_docs()]
    size = sum(len(text.encode()) for text in found)
    if size >= wanted:
        return found[: max(1, len(found) * wanted // size)]
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            if size >= wanted:
                return found
            if root == sysconfig.get_path("stdlib") and "site-packages" in path.parts:
                continue
            try:
                found.append(path.read_text("utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            size += path.stat().st_size
    return found


def train(library: str, documents: list[str], vocab_size: int):
    """Train, and return what gives the vocabulary as a set of bytes."""
    if library == "llmcore":
        trained = llmcore.Tokenizer.train(iter(documents), vocab_size, special_tokens=[])
    else:
        trained = TRAINERS[library](documents, vocab_size)
    return lambda: vocabulary(library, trained)


def run_side(library: str, text: Path, threads: int, sizes: Sizes) -> None:
    """Print, in a process of its own, seconds, bytes and the vocabulary."""
    llmcore.set_num_threads(threads)
    documents = json.loads(text.read_text())
    if library != "llmcore":
        __import__(library)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before, began = memory("VmRSS"), time.perf_counter()
    trained = train(library, documents, sizes.vocab_size)
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - before
    tokens = sorted(token.hex() for token in trained())
    print(json.dumps({"seconds": seconds, "peak": peak, "tokens": tokens}))


def compare(threads: int, text: Path, size: int, sides: list[str], smoke: bool) -> dict:
    sizes = SIZES[smoke]
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    for _ in range(sizes.rounds):
        for side, done in runs.items():
            options = ["--text", text, "--threads", threads, *["--smoke"] * smoke]
            environment = {"RAYON_NUM_THREADS": str(threads)}
            done.append(child(__spec__.name, "--side", side, *options, environment=environment))
    ours = set(runs["llmcore"][0]["tokens"])
    for side, done in runs.items():
        shared = len(ours & set(done[0]["tokens"])) / sizes.vocab_size
        assert shared > 0.99, f"{side}: only {shared:.1%} of the vocabulary is shared"  # equal counts: any order
    seconds = {side: statistics.median(run["seconds"] for run in done) for side, done in runs.items()}
    peers = [side for side in sides if side != "llmcore"]
    best = min(peers, key=seconds.__getitem__, default=None)
    turns = zip(runs["llmcore"], runs[best or "llmcore"], strict=True)
    return {
        "name": f"train a tokenizer on {size / 1e6:.0f} MB, V={sizes.vocab_size}",
        "dtype": "text",
        "flops": 0,
        "traffic": 0,
        "rounds": sizes.rounds,
        "seconds": seconds,
        "ratio": statistics.median(theirs["seconds"] / ours["seconds"] for ours, theirs in turns) if best else None,
        "memory": {side: max(run["peak"] for run in done) for side, done in runs.items()},
        "threads": threads,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=llmcore.num_threads())
    parser.add_argument("--seconds", type=float, help="ignored: every side trains three times")
    parser.add_argument("--libraries", nargs="+", default=SIDES, choices=SIDES)
    parser.add_argument("--smoke", action="store_true", help="little text, to see that everything works")
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return run_side(args.side, args.text, args.threads, SIZES[args.smoke])

    sides = ["llmcore", *(side for side in args.libraries if side != "llmcore" and find_spec(side))]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "texts.json")
        documents = texts(SIZES[args.smoke].bytes)
        text.write_text(json.dumps(documents))
        row = compare(args.threads, text, sum(len(document.encode()) for document in documents), sides, args.smoke)
    for side in sides:
        print(
            f"{row['name']}, {args.threads} threads: {side:10} {row['seconds'][side]:6.2f} s "
            f"({row['seconds'][side] / row['seconds']['llmcore']:5.2f}x)  "
            f"{row['memory'][side] / 1e6:6.0f} MB ({row['memory']['llmcore'] / row['memory'][side]:.2f}x)",
            flush=True,
        )
    title = (__doc__ or "").partition("\n")[0]
    results.write(args.json, {"kind": "ops", "title": title, "environment": environment(args.threads), "rows": [row]})


if __name__ == "__main__":
    main()
