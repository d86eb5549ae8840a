"""What tests of the core's own functions share."""

import numpy as np

import llmcore
from llmcore import _core
from llmcore._tensor import to_host_array


def put(values: np.ndarray) -> _core.Array:
    """Numbers where the test runs; on the CPU the same memory."""
    return to_host_array(values).to(llmcore.device())


def array(values, dtype=np.float32) -> _core.Array:
    """A copy of numbers where the test runs."""
    return put(np.array(values, dtype))
