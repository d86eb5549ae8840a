"""Runs every benchmark on one thread and on all, and writes RESULTS.md and README.md's table: about 45 minutes on two idle cores.

pip install '.[peers]' && python benchmarks/run.py
python benchmarks/run.py attention train_gpt          # some of them; the others' last results are kept
"""

import argparse
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"
MODULES = {path.stem.removeprefix("bench_"): f"benchmarks.{path.parent.name}.{path.stem}"
           for folder in ("ops", "tokenizer") for path in sorted((HERE / folder).glob("bench_*.py"))}  # fmt: skip
MODULES |= {
    "tokenizer_train": "benchmarks.tokenizer.train",
    "generate": "benchmarks.generation.generate",
    "finetune": "benchmarks.training.finetune",
    "train_gpt": "benchmarks.training.train_gpt",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(MODULES)}; by default all")
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each workload")
    args = parser.parse_args()
    if unknown := set(args.names) - MODULES.keys():
        parser.error(f"no benchmark named {', '.join(unknown)}")
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: torch is not installed; pip install '.[peers]' first")
    names = args.names or list(MODULES)
    cores = len(os.sched_getaffinity(0))
    for name in names:
        if name == "train_gpt":
            run(MODULES[name], "--json", RESULTS / "train.local.json")
            continue
        for threads in sorted({1, cores}):
            result = RESULTS / f"{name}-{threads}.local.json"
            run(MODULES[name], "--threads", threads, "--seconds", args.seconds, "--json", result)
    run("benchmarks.harness.report", *sorted(RESULTS.glob("*.local.json")), "--write")


def run(*arguments: object) -> None:
    print("\n$ python -m", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
