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
FAMILIES = [path.stem.removeprefix("bench_") for path in sorted(HERE.glob("bench_*.py"))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"of {', '.join([*FAMILIES, 'train_gpt'])}; by default all")
    parser.add_argument("--seconds", type=float, default=3.0, help="spent on each workload")
    args = parser.parse_args()
    if unknown := set(args.names) - {*FAMILIES, "train_gpt"}:
        parser.error(f"no benchmark named {', '.join(unknown)}")
    if importlib.util.find_spec("torch") is None:
        sys.exit("error: torch is not installed; pip install '.[peers]' first")
    names = args.names or [*FAMILIES, "train_gpt"]
    cores = len(os.sched_getaffinity(0))
    for name in names:
        if name == "train_gpt":
            run(HERE / "train_gpt.py", "--json", RESULTS / "train.local.json")
            continue
        for threads in sorted({1, cores}):
            result = RESULTS / f"{name}-{threads}.local.json"
            run(HERE / f"bench_{name}.py", "--threads", threads, "--seconds", args.seconds, "--json", result)
    run(HERE / "report.py", *sorted(RESULTS.glob("*.local.json")), "--write")


def run(*arguments: object) -> None:
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent / "tests"), os.getenv("PYTHONPATH", "")])
    }
    print("\n$ python", *arguments, flush=True)
    subprocess.run([sys.executable, *map(str, arguments)], check=True, cwd=HERE.parent, env=environment)


if __name__ == "__main__":
    main()
