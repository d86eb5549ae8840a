"""Makes the modules of benchmarks/, which are scripts and no part of a package, importable here alone."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
