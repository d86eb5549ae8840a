"""The stand-in for ml_dtypes beside the package. test_gpu.py runs this in a process of its own: numpy never forgets a type,
and after these tests has two of one name.

    python -m pytest tests/bench/stand_in.py
"""

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sysconfig
from pathlib import Path

import numpy as np
import pytest

SOURCE = Path(__file__).parents[2] / "benchmarks/gpu/bfloat16.cpp"


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("there is no compiler")
    path = tmp_path_factory.mktemp("stand-in") / "ml_dtypes.so"
    folders = [f"-I{sysconfig.get_path('include')}", f"-I{np.get_include()}"]
    command = [compiler, "-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", *folders]
    subprocess.run([*command, str(SOURCE), "-o", str(path)], check=True)
    loader = importlib.machinery.ExtensionFileLoader("ml_dtypes", str(path))
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location("ml_dtypes", path, loader=loader))
    loader.exec_module(module)
    return module.bfloat16


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_the_stand_in_casts_as_ml_dtypes(stand_in):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert np.dtype(stand_in).name == "bfloat16"
    rng = np.random.default_rng(0)
    every = np.arange(1 << 16, dtype=np.uint16)
    for dtype in (np.float32, np.float64, bool):
        np.testing.assert_array_equal(every.view(stand_in).astype(dtype), every.view(ml_dtypes.bfloat16).astype(dtype))
    bits = rng.integers(0, 1 << 32, 1 << 18, np.uint32).view(np.float32)
    for x in (bits, rng.standard_normal(1 << 18), rng.integers(-1000, 1000, 5000), rng.integers(0, 200, 99, np.uint8)):
        own, theirs = x.astype(stand_in), x.astype(ml_dtypes.bfloat16)
        known = ~np.isnan(own)
        np.testing.assert_array_equal(known, ~np.isnan(theirs))
        np.testing.assert_array_equal(own.view(np.uint16)[known], theirs.view(np.uint16)[known])


def test_the_stand_in_computes_as_ml_dtypes(stand_in):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    numbers = np.random.default_rng(0).standard_normal((2, 500)).astype(np.float32) * 9

    def computed(dtype):
        a, b = numbers.astype(dtype)
        one = np.float32(1).astype(dtype)
        return a + b, a - b, a * b, a / b, -a, np.abs(a), a.round(), a + a.dtype.type(0.1), np.full(3, one, dtype)

    for own, theirs in zip(computed(stand_in), computed(ml_dtypes.bfloat16), strict=True):
        assert own.dtype == stand_in
        np.testing.assert_array_equal(own.view(np.uint16), theirs.view(np.uint16))
    a = numbers[0].astype(stand_in)
    assert (a * np.float32(2)).dtype == np.float32
    assert np.concatenate([a, numbers[0]]).dtype == np.float32
    assert (a == a.copy()).all()
    assert a.tolist() == [float(x) for x in a]
