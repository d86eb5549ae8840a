"""The promise that results do not depend on the number of threads."""

import numpy as np

import llmcore


def assert_same_bits(compute, threads=(1, 2, 3, 8)) -> None:
    """compute() returns numpy arrays; they must be equal to the bit for every number of threads."""
    before = llmcore.num_threads()
    try:
        results = []
        for n in threads:
            llmcore.set_num_threads(n)
            results.append([np.asarray(a).tobytes() for a in compute()])
        assert all(r == results[0] for r in results)
    finally:
        llmcore.set_num_threads(before)
