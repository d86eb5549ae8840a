"""The noise that other devices draw (csrc/core/noise.h) is the CPU's, to the bit."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from llmcore import _core

HERE = Path(__file__).parent
SEED, STEPS, V = 0x9E3779B97F4A7C15, 40, 3001
WORDS = [0, 1, 0x7FFFFFFF, 0x80000000, 0xFFFFFEFF, 0xFFFFFFFF]
BITS = [0x41B6FDA9, 0x41AE33B3, 0x3EBBA795, 0x3EBBA795, 0xC033F049, 0xC033F049]  # of the AVX2 and AVX-512 kernels


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Tokens drawn from equal logits, and the noise of some random words."""
    compiler = shutil.which(os.environ.get("CXX") or "c++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program = tmp_path_factory.mktemp("noise") / "noise"
    include = HERE.parents[1] / "csrc"
    subprocess.run(
        [compiler, "-std=c++17", "-O2", f"-I{include}", HERE / "noise.cpp", "-o", program, "-lm"],
        check=True,
        timeout=120,
    )
    lines = subprocess.run([program, str(SEED), str(STEPS), str(V)], check=True, capture_output=True, text=True).stdout
    lines = lines.split()
    return [int(line) for line in lines[:STEPS]], np.array([int(line, 16) for line in lines[STEPS:]], np.uint32)


@pytest.mark.skipif(_core.current_isa() == "baseline", reason="without FMA the last bits of logarithms differ")
def test_tokens_are_the_kernels(drawn):
    """Another word for a token, seed or step shows here; bits of the logarithms show below."""
    logits = _core.from_numpy(np.zeros((STEPS, V), np.float32))
    steps = _core.from_numpy(np.arange(STEPS))
    seed = SEED - 2**64  # as int64
    tokens = _core.sample(logits, 1.0, 0, 1.0, 0.0, seed, steps)[0].numpy()
    np.testing.assert_array_equal(tokens, drawn[0])


def test_bits_of_some_words(drawn):
    """What every compiler must find, and near the formula in float64."""
    uniform = (np.array(WORDS, np.uint32).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)
    want = -np.log(-np.log1p(-np.minimum(uniform, np.float32(1 - 2.0**-24)).astype(np.float64)))
    np.testing.assert_allclose(drawn[1].view(np.float32), want, rtol=3e-7, atol=3e-7)
    assert drawn[1].tolist() == BITS
