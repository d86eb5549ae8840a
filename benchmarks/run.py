"""Runs every benchmark and writes the tables into README.md: about a quarter of an hour on two idle cores.

pip install '.[peers]' && python benchmarks/run.py
"""

import argparse
import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
RESULTS = HERE / "results"


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for name in ("pytest_benchmark", "torch"):
        if importlib.util.find_spec(name) is None:
            sys.exit(f"error: {name} is not installed; pip install '.[peers]' first")
    RESULTS.mkdir(exist_ok=True)
    ops, training = RESULTS / "ops.local.json", RESULTS / "train.local.json"
    timing = ["--benchmark-disable-gc", "--benchmark-min-rounds=7", "--benchmark-warmup=on", f"--benchmark-json={ops}"]
    run("-m", "pytest", "-q", str(HERE), *timing)
    run(str(HERE / "train_gpt.py"), "--json", str(training))
    run(str(HERE / "report.py"), str(training), str(ops), "--readme", str(HERE.parent / "README.md"))


def run(*arguments: str) -> None:
    subprocess.run([sys.executable, *arguments], check=True, cwd=HERE.parent)


if __name__ == "__main__":
    main()
