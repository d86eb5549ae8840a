"""What a mixture of experts is made of, forward and backward: rows taken by number, and rows added up by weight. Bound by memory,
so the floor is bytes over bandwidth.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.memory_bound import Op, differentiated
from benchmarks.harness.peers import DTYPES, TORCH, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops

TOKENS, EXPERTS, WIDTHS = 1024, 4, (768, 2048)


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        for dtype in DTYPES:
            for build in (take, weighted_sum):
                name = f"{build.__name__} {TOKENS}x{EXPERTS}x{C}"
                libraries = ("llmcore", *TORCH)
                yield Workload(name, dtype, libraries, partial(build, dtype), (TOKENS, EXPERTS, C), (20, 3, 32))


def test_gather(entry):
    entry.measure()


def take(dtype: str, M: int, k: int, C: int) -> Sides:
    """x (M, C), each row k times: (M k, C), in the order of the experts that read them."""
    ids = np.random.default_rng(1).permutation(np.repeat(np.arange(M), k))
    torch_ids = torch.tensor(ids) if torch else None

    def twin(x, dout):
        dx = np.zeros_like(x)
        np.add.at(dx, ids, dout)
        return [x[ids], dx]

    op = Op(lambda x: ops.take(x, ids), lambda x: x.index_select(0, torch_ids), twin, traffic=2 + 2 * k)
    return differentiated(op, dtype, (M, C), (M * k, C))


def weighted_sum(dtype: str, M: int, k: int, C: int) -> Sides:
    """y (M, k, C), weight (M, k) float32: (M, C)."""

    def theirs(y, weight):
        return (y * weight[..., None].to(y.dtype)).sum(1)

    def twin(y, dout, weight):
        return [np.einsum("mkc,mk->mc", y, weight), weight[..., None] * dout[:, None], np.einsum("mc,mkc->mk", dout, y)]

    op = Op(ops.weighted_sum, theirs, twin, parameters=[(M, k)], traffic=4)
    return differentiated(op, dtype, (M, k, C), (M, C))


if __name__ == "__main__":
    main(workloads)
