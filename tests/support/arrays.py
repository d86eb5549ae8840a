"""What tests of the core's own functions share."""

import numpy as np

import llmcore
from llmcore import _core
from llmcore._arrays import to_host_array
from support.tolerances import assert_close


def put(values: np.ndarray) -> _core.Array:
    """Numbers where the test runs; on the CPU the same memory."""
    return to_host_array(values).to(llmcore.device())


def assert_repeats(got, want, dtype) -> None:
    """Of the same queries in another batch: the same bits on the CPU. A GPU has kernels for few queries and for many, which
    round in another order; what is no number stays so."""
    if llmcore.device() == "cpu":
        np.testing.assert_array_equal(got, want)
    else:
        got, want = (np.asarray(x, np.float64) for x in (got, want))
        np.testing.assert_array_equal(np.isfinite(got), np.isfinite(want))
        numbers = np.isfinite(want)
        assert_close(np.where(numbers, got, 0), np.where(numbers, want, 0), dtype)


def array(values, dtype=np.float32) -> _core.Array:
    """A copy of numbers where the test runs."""
    return put(np.array(values, dtype))
