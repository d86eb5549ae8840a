"""The measured peaks are plausible. No figure is asserted: speed is never a pass or fail of a unit test."""

import numpy as np
import pytest

from llmcore import _core, bench, num_threads


def test_measures_every_floor():
    before = num_threads()
    m = bench.measure_machine(threads=2)
    assert num_threads() == before
    assert m["threads"] == 2
    assert m["isa"] == _core.current_isa()
    assert m["cpu"]
    for name in ("fp32_gflops", "bf16_gflops", "int8_gops", "read_gb_s"):
        assert set(m[name]) == {"1", "all"}
        assert all(0.01 < rate < 1e6 for rate in m[name].values()), name
    # some processors have bf16 dot products of less than half the rate of float32
    assert m["bf16_gflops"]["1"] > 0.2 * m["fp32_gflops"]["1"]


def test_operations_are_counted():
    one = _core.machine_peak(_core.DType.float32, 1, 10)
    assert one > 0
    assert one % 2 == 0
    assert _core.machine_peak(_core.DType.float32, 3, 20) == 6 * one


@pytest.mark.parametrize("size", [0, 1, 7, 1000, (1 << 20) + 13, (3 << 20) + 1])
def test_every_word_is_read_once(size):
    words = np.random.default_rng(size).integers(0, 1 << 32, size, np.uint32)
    assert _core.machine_read(_core.from_numpy(words)) == int(words.sum(dtype=np.uint64)) % (1 << 32)


def test_bad_input_is_named():
    with pytest.raises(TypeError, match=r"\[machine_peak\] expected float32, bfloat16 or uint8, got int64"):
        _core.machine_peak(_core.DType.int64, 1, 1)
    with pytest.raises(ValueError, match=r"\[machine_peak\] expected pieces and rounds >= 1, got 0 and 1"):
        _core.machine_peak(_core.DType.float32, 0, 1)
    with pytest.raises(TypeError, match=r"\[machine_read\] expected x uint32, got float32"):
        _core.machine_read(_core.from_numpy(np.ones(3, np.float32)))
