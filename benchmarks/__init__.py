"""The benchmarks: `harness` measures; `ops`, `tokenizer`, `generation`, `training` and `gpu` hold what is measured.

Programs run as modules from the root of the repository: `python -m benchmarks.training.train_gpt`.
"""

import os
import sys
from pathlib import Path

# The float64 twins and the tolerances are those of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))

# OpenBLAS's idle threads spin for 2^20 cycles only: its own 2^26 are longer than a pause of `harness/compare.py`. It reads
# the environment when numpy is imported, which is after this.
os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", "20")
