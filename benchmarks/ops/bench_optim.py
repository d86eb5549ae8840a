"""One AdamW update of GPT-2's 124M parameters: reads the parameter, its gradient and two moments, writes all but the
gradient, 28 bytes a parameter. `bfloat16 weights` also makes what the next step multiplies with: the panels of both
directions here, the copies that autocast makes in torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import torch
from llmcore import _core, models, nn, optim
from reference import optim as reference

LR, BETAS, EPS, DECAY = 3e-4, (0.9, 0.95), 1e-8, 0.1
SAMPLE = 1009  # every so many numbers are compared


def shapes() -> dict[str, tuple[int, ...]]:
    c = models.GPT2Config()
    C, matrices = c.width, {"tokens": (c.vocab_size, c.width), "positions": (c.context, c.width)}
    for i in range(c.layers):
        for name, outputs, inputs in (("qkv", 3 * C, C), ("out", C, C), ("up", 4 * C, C), ("down", C, 4 * C)):
            matrices |= {f"{i}.{name}": (outputs, inputs), f"{i}.{name}.bias": (outputs,)}
        matrices |= {f"{i}.norm{j}.{kind}": (C,) for j in (1, 2) for kind in ("weight", "bias")}
    return matrices | {"norm.weight": (C,), "norm.bias": (C,)}


def values(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, np.float32) * np.float32(0.02)


def workloads() -> Iterator[Workload]:
    count = sum(int(np.prod(s)) for s in shapes().values())
    for what, extra in (("", 0), (", bfloat16 weights", 4)):
        sides = {"llmcore": ours(bool(extra))}
        if torch:
            sides["torch"] = theirs(bool(extra))
        yield Workload(f"AdamW {count / 1e6:.0f}M{what}", "float32", sides, expected, traffic=(28 + extra) * count)


def expected() -> list[np.ndarray]:
    """Of the first update."""
    out = []
    for i, shape in enumerate(shapes().values()):
        p, g = (values(shape, seed).ravel()[::SAMPLE].astype(np.float64) for seed in (2 * i, 2 * i + 1))
        decay = DECAY if len(shape) > 1 else 0.0
        out.append(reference.adamw(p, g, np.zeros_like(p), np.zeros_like(p), LR, *BETAS, EPS, decay, step=1)[0])
    return out


def ours(panels: bool):
    parameters = {}
    for i, (name, shape) in enumerate(shapes().items()):
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


def theirs(copies: bool):
    parameters = []
    for i, shape in enumerate(shapes().values()):
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
