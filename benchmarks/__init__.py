"""The benchmarks: `harness` measures; `ops`, `tokenizer`, `generation`, `training` and `gpu` hold what is measured.

Programs run as modules from the root of the repository: `python -m benchmarks.training.train_gpt`.
"""

import sys
from pathlib import Path

# The float64 twins and the tolerances are those of the tests.
sys.path.append(str(Path(__file__).parents[1] / "tests"))
