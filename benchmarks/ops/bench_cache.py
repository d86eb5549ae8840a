"""Keys or values of one decode step written to the cache, without gradients: what a call costs, and few bytes."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import DTYPES, as_llmcore, as_torch, normal, size_of, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops

CONTEXT, HEADS, SIZE = 1024, 8, 64


def workloads() -> Iterator[Workload]:
    for B, T in ((1, 1), (32, 1), (1, 512)):
        for dtype in DTYPES:
            name, shape = f"cache_append {B}x{T}x{HEADS}x{SIZE}", (B, T, CONTEXT, HEADS, SIZE)
            yield Workload(name, dtype, ("llmcore", "torch"), partial(append, dtype), shape, (4, 8, 32, 2, 16))


def test_cache(entry):
    entry.measure()


def append(dtype: str, B: int, T: int, S: int, H: int, D: int) -> Sides:
    """x (B, T, H, D) into cache (B, S, H, D), after as many positions in each row as are known there; torch's is index_put_."""
    given, x = normal((B, S, H, D), (B, T, H, D))
    lengths = np.random.default_rng(1).integers(T, S + 1, B).astype(np.int32)
    positions = lengths[:, None] - T + np.arange(T)  # (B, T)

    def expected():
        out = given.astype(np.float64)
        np.put_along_axis(out, positions[:, :, None, None], x.astype(np.float64), axis=1)
        return [out]

    def ours():
        cache, new = as_llmcore(given, dtype), as_llmcore(x, dtype)

        def run():
            ops.cache_append(cache, new, lengths)
            return [cache]

        return run

    def theirs():
        cache, new = as_torch(given, dtype), as_torch(x, dtype)
        index = torch.arange(B)[:, None], torch.tensor(positions)

        def run():
            cache.index_put_(index, new)
            return [cache]

        return run

    runs = {"llmcore": ours(), **({"torch": theirs()} if torch else {})}
    return Sides(runs, expected, traffic=2 * x.size * size_of(dtype))


if __name__ == "__main__":
    main(workloads)
