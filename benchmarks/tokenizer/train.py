"""Training a byte-level BPE vocabulary of 32,768 on 60 MB of text and code that every machine with Python has.

Each side trains in a process of its own, in turns, so that its peak memory can be told: what it took beyond the texts,
which wait as a list of str. Equal threads; the vocabularies must agree but for ties.

    python -m benchmarks.tokenizer.train --threads 2
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import llmcore
from llmcore.data.python_docs import python_docs
from llmcore.tokenizer.formats.byte_level import byte_alphabet
from llmcore.tokenizer.patterns import REGEX

VOCAB = 32_768
BYTES = 60_000_000
ROUNDS = 3
SIDES = ("llmcore", "rustbpe", "tokenizers")


def texts() -> list[str]:
    """Python's documentation, then the sources of its library and of the packages that are installed, in order."""
    found = [document.decode("utf-8", "replace") for document in python_docs()]
    size = sum(len(text.encode()) for text in found)
    for root in (sysconfig.get_path("stdlib"), sysconfig.get_path("purelib")):
        for path in sorted(Path(root).rglob("*.py")):
            if size >= BYTES:
                return found
            if root == sysconfig.get_path("stdlib") and "site-packages" in path.parts:
                continue
            try:
                found.append(path.read_text("utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
            size += path.stat().st_size
    return found


def train(library: str, documents: list[str], threads: int):
    """Returns what gives the vocabulary as a set of bytes."""
    if library == "llmcore":
        llmcore.set_num_threads(threads)
        ours = llmcore.Tokenizer.train(iter(documents), VOCAB, special_tokens=[])
        return lambda: {ours.token_bytes(i) for i in range(VOCAB)}
    if library == "rustbpe":
        import rustbpe

        theirs = rustbpe.Tokenizer()
        theirs.train_from_iterator(iter(documents), VOCAB, pattern=REGEX["cl100k"])
        return lambda: {bytes(token) for token, _ in theirs.get_mergeable_ranks()}
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    split = pre_tokenizers.Split(Regex(REGEX["cl100k"]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    hf = Tokenizer(models.BPE())
    hf.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    hf.train_from_iterator(
        documents, trainers.BpeTrainer(vocab_size=VOCAB, initial_alphabet=alphabet, show_progress=False)
    )
    to_byte = {c: b for b, c in enumerate(byte_alphabet())}
    return lambda: {bytes(to_byte[c] for c in token) for token in json.loads(hf.to_str())["model"]["vocab"]}


def run_side(library: str, text: Path, threads: int) -> None:
    """In its own process: prints seconds, bytes and the vocabulary."""
    documents = json.loads(text.read_text())
    if library != "llmcore":
        __import__(library)
    status = Path("/proc/self/status")

    def memory(field: str) -> int:
        return next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith(field))

    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before, began = memory("VmRSS"), time.perf_counter()
    vocabulary = train(library, documents, threads)
    seconds, peak = time.perf_counter() - began, memory("VmHWM") - before
    tokens = sorted(token.hex() for token in vocabulary())
    print(json.dumps({"seconds": seconds, "peak": peak, "tokens": tokens}))


def compare(threads: int, text: Path, size: int, sides: list[str]) -> dict:
    runs: dict[str, list[dict]] = {side: [] for side in sides}
    environment = os.environ | {"RAYON_NUM_THREADS": str(threads)}
    for _ in range(ROUNDS):
        for side, done in runs.items():
            command = [
                sys.executable,
                "-m",
                __spec__.name,
                "--side",
                side,
                "--text",
                str(text),
                "--threads",
                str(threads),
            ]
            out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
            done.append(json.loads(out))
    ours = set(runs["llmcore"][0]["tokens"])
    for side, done in runs.items():
        shared = len(ours & set(done[0]["tokens"])) / VOCAB
        assert shared > 0.99, f"{side}: only {shared:.1%} of the vocabulary is shared"  # equal counts: any order
    seconds = {side: statistics.median(run["seconds"] for run in done) for side, done in runs.items()}
    peers = [side for side in sides if side != "llmcore"]
    best = min(peers, key=seconds.__getitem__, default=None)
    turns = zip(runs["llmcore"], runs[best or "llmcore"], strict=True)
    return {
        "name": f"train a tokenizer on {size / 1e6:.0f} MB, V={VOCAB}",
        "dtype": "text",
        "flops": 0,
        "traffic": 0,
        "rounds": ROUNDS,
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
    parser.add_argument("--json", type=Path, help="where to write the result")
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--text", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return run_side(args.side, args.text, args.threads)
    from benchmarks.harness.environment import environment

    sides = ["llmcore", *(side for side in args.libraries if side != "llmcore" and find_spec(side))]
    with tempfile.TemporaryDirectory() as folder:
        text = Path(folder, "texts.json")
        documents = texts()
        text.write_text(json.dumps(documents))
        row = compare(args.threads, text, sum(len(document.encode()) for document in documents), sides)
    for side in sides:
        print(
            f"{row['name']}, {args.threads} threads: {side:10} {row['seconds'][side]:6.2f} s "
            f"({row['seconds'][side] / row['seconds']['llmcore']:5.2f}x)  "
            f"{row['memory'][side] / 1e6:6.0f} MB ({row['memory']['llmcore'] / row['memory'][side]:.2f}x)",
            flush=True,
        )
    if args.json:
        title = (__doc__ or "").partition("\n")[0]
        result = {"kind": "ops", "title": title, "environment": environment(args.threads), "rows": [row]}
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
