"""The embedding of tokens, forward and backward: the floor is bytes over bandwidth, with a gradient that is new at every call."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import TORCH, as_llmcore, as_torch, normal, torch, torch_sides
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops

TOKENS, VOCABULARY, WIDTHS = 4096, 50257, (256, 768)


def workloads() -> Iterator[Workload]:
    for C in WIDTHS:
        name = f"embedding {TOKENS} of {VOCABULARY}x{C}"
        yield Workload(name, "float32", ("llmcore", *TORCH), embedding, (TOKENS, VOCABULARY, C), (40, 96, 32))


def test_embedding(entry):
    entry.measure()


def embedding(N: int, V: int, C: int) -> Sides:
    """ids (N), table (V, C): out (N, C) and the gradient (V, C), in which the rows of equal ids are added."""
    table, dout = normal((V, C), (N, C))
    ids = np.random.default_rng(1).integers(0, V, N)

    def side(table, dout, compute):
        def run():
            table.grad = None
            out = compute(table)
            out.backward(dout)
            return [out, table.grad]

        return run

    def expected():
        dtable = np.zeros((V, C))
        np.add.at(dtable, ids, dout)
        return [table[ids].astype(np.float64), dtable]

    def theirs(table):
        return torch.nn.functional.embedding(torch_ids, table)

    torch_ids = torch.tensor(ids) if torch else None
    runs = {
        "llmcore": side(
            as_llmcore(table, "float32", grad=True), as_llmcore(dout, "float32"), partial(ops.embedding, ids)
        )
    }
    runs |= torch_sides(lambda f: side(as_torch(table, "float32", grad=True), as_torch(dout, "float32"), f), theirs)
    # The rows read and written, dout, and the gradient, which is all zeros before.
    return Sides(runs, expected, traffic=4 * (3 * N * C + V * C))


if __name__ == "__main__":
    main(workloads)
