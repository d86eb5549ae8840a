"""One AdamW update of GPT-2's 124M parameters: reads the parameter, its gradient and two moments, writes all but the
gradient, 28 bytes per parameter. `bfloat16 weights` also makes what the next step multiplies with: the panels of both
directions here, the copies that autocast makes in torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import _core, nn, optim
from reference import optim as reference

LR, BETAS, EPS, DECAY = 3e-4, (0.9, 0.95), 1e-8, 0.1
GPT2 = (50257, 1024, 768, 12)  # vocabulary, context, width, layers
SAMPLE = 1009  # one in so many numbers is compared


Shapes = dict[str, tuple[int, ...]]


def shapes(vocab_size: int, context: int, width: int, layers: int) -> Shapes:
    """Return those of GPT-2's parameters."""
    C, matrices = width, {"tokens": (vocab_size, width), "positions": (context, width)}
    for i in range(layers):
        for name, outputs, inputs in (("qkv", 3 * C, C), ("out", C, C), ("up", 4 * C, C), ("down", C, 4 * C)):
            matrices |= {f"{i}.{name}": (outputs, inputs), f"{i}.{name}.bias": (outputs,)}
        matrices |= {f"{i}.norm{j}.{kind}": (C,) for j in (1, 2) for kind in ("weight", "bias")}
    return matrices | {"norm.weight": (C,), "norm.bias": (C,)}


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.02)


def workloads() -> Iterator[Workload]:
    for what, copies in (("", False), (", bfloat16 weights", True)):
        build = partial(adamw, copies)
        yield Workload(f"AdamW 124M{what}", "float32", ("llmcore", "torch"), build, GPT2, (96, 16, 64, 2))


def test_optim(entry):
    entry.measure()


def adamw(copies: bool, *sizes: int) -> Sides:
    of = shapes(*sizes)
    sides = {"llmcore": ours(of, copies)}
    if torch:
        sides["torch"] = theirs(of, copies)
    numbers = sum(int(np.prod(s)) for s in of.values())
    return Sides(sides, partial(expected, of), traffic=(28 + 4 * copies) * numbers)


def expected(of: Shapes) -> list[np.ndarray]:
    """Return a sample of the parameters after the first update."""
    out = []
    for i, shape in enumerate(of.values()):
        p, g = (values(shape, seed).ravel()[::SAMPLE].astype(np.float64) for seed in (2 * i, 2 * i + 1))
        decay = DECAY if len(shape) > 1 else 0.0
        out.append(reference.adamw(p, g, np.zeros_like(p), np.zeros_like(p), LR, *BETAS, EPS, decay, step=1)[0])
    return out


def ours(of: Shapes, panels: bool):
    parameters = {}
    for i, (name, shape) in enumerate(of.items()):
        p = parameters[name] = nn.Parameter(values(shape, 2 * i))
        p.accumulate_grad(_core.from_numpy(values(shape, 2 * i + 1)))
    optimizer = optim.AdamW(parameters.items(), LR, BETAS, EPS, DECAY)

    def pack():
        if panels:
            for p in parameters.values():
                if p.ndim == 2:
                    p.panels(_core.DType.bfloat16, transposed=True), p.panels(_core.DType.bfloat16, transposed=False)

    def run():
        optimizer.step()
        pack()
        return [p.numpy().ravel()[::SAMPLE] for p in parameters.values()]

    pack()
    return run


def theirs(of: Shapes, copies: bool):
    parameters = []
    for i, shape in enumerate(of.values()):
        p = torch.nn.Parameter(torch.from_numpy(values(shape, 2 * i)))
        p.grad = torch.from_numpy(values(shape, 2 * i + 1))
        parameters.append(p)
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)

    def run():
        optimizer.step()
        if copies:
            for p in parameters:
                if p.ndim == 2:
                    p.detach().bfloat16()
        return [p.detach().flatten()[::SAMPLE] for p in parameters]

    return run


if __name__ == "__main__":
    main(workloads)
