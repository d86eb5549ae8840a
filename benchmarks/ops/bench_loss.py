"""The output layer with its loss: hidden states (M,C), weight (V,C), the loss and both gradients in one go.

The weight is packed once per update in llmcore and so before the clock starts (see bench_gemm.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import DTYPES, TORCH, as_llmcore, as_torch, normal, torch, torch_sides
from benchmarks.harness.workload import Sides, Workload
from llmcore import nn, ops
from reference import loss as reference

SHAPES = [(1024, 768, 50304), (4096, 384, 4096)]  # M, C, V


def workloads() -> Iterator[Workload]:
    for dtype in DTYPES:
        for M, C, V in SHAPES:
            name, build = f"linear_cross_entropy {M}x{C}, V={V}", partial(linear_cross_entropy, dtype)
            yield Workload(name, dtype, ("llmcore", *TORCH), build, (M, C, V), (40, 64, 200))


def test_loss(entry):
    entry.measure()


def linear_cross_entropy(dtype: str, M: int, C: int, V: int) -> Sides:
    x, w = normal((M, C), (V, C))
    w *= 0.0625
    targets = np.random.default_rng(1).integers(0, V, M).astype(np.int32)
    a, weight = as_llmcore(x, dtype, grad=True), nn.Parameter(w)

    def ours():
        a.grad = None
        weight.zero_grad()
        loss = ops.linear_cross_entropy(a, weight, targets)
        loss.backward()
        return [loss, a.grad, weight.grad]

    def expected():
        logits = x.astype(np.float64) @ w.astype(np.float64).T
        loss = np.asarray(reference.cross_entropy(logits, targets).mean())
        dlogits = reference.cross_entropy_backward(np.full(M, 1 / M), logits, targets)
        return [loss, dlogits @ w, dlogits.T @ x]

    def loss_of(a, b, y):
        return torch.nn.functional.cross_entropy(torch.nn.functional.linear(a, b).float(), y)

    def theirs(compute):
        a, b = as_torch(x, dtype, grad=True), as_torch(w, dtype, grad=True)
        y = torch.tensor(targets, dtype=torch.int64)

        def run():
            a.grad = b.grad = None
            loss = compute(a, b, y)
            loss.backward()
            return [loss, a.grad, b.grad]

        return run

    # factor: the gradient of a logit is rounded before the products that follow.
    sides = {"llmcore": ours, **torch_sides(theirs, loss_of)}
    return Sides(sides, expected, 6 * M * C * V, factor=2)


if __name__ == "__main__":
    main(workloads)
