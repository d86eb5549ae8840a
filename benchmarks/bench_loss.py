"""The output layer with its loss: hidden states (M,C), weight (V,C), forward and both gradients."""

import numpy as np
import pytest

from llmcore import nn, ops
from peers import TORCH, as_llmcore, as_torch, measure, peer, torch_call
from reference import loss as reference

SHAPES = {"small vocabulary": (4096, 384, 4096), "large vocabulary": (512, 768, 50257)}  # M, C, V


@pytest.mark.parametrize("library", ["llmcore", *TORCH])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", SHAPES)
def test_linear_cross_entropy(benchmark, name, dtype, library):
    M, C, V = SHAPES[name]
    rng = np.random.default_rng(0)
    x, w = (
        as_llmcore(a, "bfloat16").numpy().astype(np.float32)
        for a in (rng.standard_normal((M, C), np.float32), 0.05 * rng.standard_normal((V, C), np.float32))
    )
    targets = rng.integers(0, V, M).astype(np.int32)
    if library == "llmcore":
        a, weight = as_llmcore(x, dtype, grad=True), nn.Parameter(w)

        def run():
            a.grad = None
            weight.zero_grad()
            loss = ops.linear_cross_entropy(a, weight, targets)
            loss.backward()
            return [loss, a.grad, weight.grad]

    else:
        torch = peer("torch")

        def loss_of(a, b, y):
            return torch.nn.functional.cross_entropy(torch.nn.functional.linear(a, b).float(), y)

        compute = torch_call(library, loss_of)
        a, b = as_torch(x, dtype, grad=True), as_torch(w, dtype, grad=True)
        y = torch.tensor(targets, dtype=torch.int64)

        def run():
            a.grad = b.grad = None
            loss = compute(a, b, y)
            loss.backward()
            return [loss, a.grad, b.grad]

    x, w = x.astype(np.float64), w.astype(np.float64)
    logits = x @ w.T
    expected = [np.asarray(reference.cross_entropy(logits, targets).mean())]
    dlogits = reference.cross_entropy_backward(np.full(M, 1 / M), logits, targets)
    expected += [dlogits @ w, dlogits.T @ x]
    measure(
        benchmark,
        f"output layer and loss, {name} ({M}x{C}, V={V})",
        library,
        run,
        expected,
        dtype,
        {"M": M, "C": C, "V": V},
        6 * M * C * V,
        factor=2,  # the gradient of a logit is rounded before the second product
    )
