"""The GPU's rows of single ops: measured peaks, attention, what is bound by memory, the output layer, AdamW, drawing."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu.timing import Row, as_llmcore, as_torch, copies, normal, where
from benchmarks.ops.bench_optim import BETAS, DECAY, EPS, GPT2, LR, shapes
from benchmarks.ops.bench_sample import SLACK, TEMPERATURE, check_row, torch_sample
from llmcore import _core, autograd, nn, ops, optim
from llmcore.models.rope import Rotary

MADE = "bfloat16"
# Where memory is the limit: share of the measured bandwidth, times torch's eager speed.
SHARE, EAGER = 0.85, 1.2


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """(name, what makes the row)"""
    tiny = where.tiny
    M, C = (24, 64) if tiny else (32768, 768)
    yield f"layer_norm forward + backward, {M}x{C}", lambda: layer_norm(M, C)
    yield f"rms_norm forward + backward, {M}x{C}", lambda: rms_norm(M, C)
    ffn = 96 if tiny else 2048
    yield f"swiglu forward + backward, {M}x2x{ffn}", lambda: swiglu(M, ffn)
    B, T, H = (2, 12, 2) if tiny else (32, 1024, 12)
    yield f"rope forward + backward, B={B} T={T} H={H} D=64", lambda: rope(B, T, H, 64)
    rows_of_loss, V = (20, 200) if tiny else (16384, 50304)
    yield f"linear_cross_entropy and gradients, {rows_of_loss}x{C}, V={V}", lambda: output_layer(rows_of_loss, C, V)
    count = 2 if tiny else None
    yield f"AdamW, {'a few matrices' if tiny else '124M parameters'}", lambda: adamw(count)
    for D in (64, 128):
        B, T, H = (1, 40, 2) if tiny else (8, 4096, 1024 // D)
        for backward in (False, True):
            name = f"attention forward{' + backward' if backward else ''}, causal, B={B} T={T} H={H} D={D}"
            yield name, lambda shape=(B, T, H, D), b=backward: attention(shape, b)
    B, V = (3, 1000) if tiny else (64, 131072)
    yield f"sample top-k 50, top-p 0.95, {B}x{V}", lambda: sample(B, V)


def peaks() -> Iterator[tuple[str, Callable[[], Row]]]:
    """What the floors of the others are made of."""
    megabytes = 0.25 if where.tiny else 1024
    yield f"copy of {megabytes:g} MB", lambda: copying(int(megabytes * (1 << 20)))
    n = 128 if where.tiny else 8192
    yield f"product {n}x{n}x{n}", lambda: product(n)


def copying(size: int) -> Row:
    a, b = normal(size // 4, dtype="float32"), normal(size // 4, dtype="float32", seed=1)
    theirs = torch.empty_like(a), torch.empty_like(a)
    sources, target = [as_llmcore(x).array for x in (a, b)], _core.zeros([size // 4], _core.DType.float32, where.device)

    def ours(i):
        target.copy_from(sources[i % 2])
        return [target]

    return Row(
        {"llmcore": ours, "torch": lambda i: [theirs[0].copy_((a, b)[i % 2])]}, "float32", traffic=2 * size, factor=0.0
    )


def product(n: int) -> Row:
    a, b = normal(n, n), normal(n, n, seed=1)
    x, weight = as_llmcore(a), nn.Parameter(b.float().cpu().numpy())

    def ours(i):
        with autograd.no_grad():
            return [ops.linear(x, weight)]

    return Row({"llmcore": ours, "torch": lambda i: [F.linear(a, b)]}, MADE, flops=2 * n**3)


# ---- forward and backward ----


def differentiated(
    ours: Callable,
    theirs: Callable,
    inputs: Callable[[int], list[torch.Tensor]],
    parameters: list[torch.Tensor],
    sets: int,
) -> dict[str, Callable[[int], list]]:
    """Sides that call an op (x, *parameters) and its backward; inputs(i) gives [x, gradient of the result] of a set.
    Parameters are float32 in llmcore, as in training, and of x's dtype in torch, where it is fastest."""
    pairs = [inputs(i) for i in range(sets)]
    xs, mine = [x.requires_grad_() for x, _ in pairs], [as_llmcore(x, True) for x, _ in pairs]
    douts, my_douts = [d for _, d in pairs], [as_llmcore(d) for _, d in pairs]
    weights, my_weights = [p.requires_grad_() for p in parameters], [as_llmcore(p.float(), True) for p in parameters]

    def side(op, xs, weights, douts):
        def run(i):
            x = xs[i % sets]
            for t in (x, *weights):
                t.grad = None
            out = op(x, *weights)
            out.backward(douts[i % sets])
            return [out, *(t.grad for t in (x, *weights))]

        return run

    return {
        "llmcore": side(ours, mine, my_weights, my_douts),
        "torch eager": side(theirs, xs, weights, douts),
    }


def elementwise(ours, theirs, shape, out_shape, traffic: float, parameters=(), factor: float = 2.0) -> Row:
    """traffic: how often the bytes of x are moved, at least."""
    size = 2 * int(np.prod(shape))
    sets = copies(2 * size)
    sides = differentiated(
        ours, theirs, lambda i: [normal(*shape, seed=2 * i), normal(*out_shape, seed=2 * i + 1)], list(parameters), sets
    )
    return Row(sides, MADE, traffic=traffic * size, asked=EAGER, share=SHARE, factor=factor)


def weights_of(C: int) -> list[torch.Tensor]:
    return [1 + 0.1 * normal(C, seed=101), 0.1 * normal(C, seed=102)]


# Factor: gradients of parameters are sums over all rows, which torch rounds.
# Traffic: forward reads x and writes the result; backward reads x and its gradient, and writes x's.


def layer_norm(M: int, C: int) -> Row:
    def theirs(x, w, b):
        return F.layer_norm(x, (C,), w, b)

    return elementwise(ops.layer_norm, theirs, (M, C), (M, C), 5, weights_of(C), 4.0)


def rms_norm(M: int, C: int) -> Row:
    def theirs(x, w):
        return F.rms_norm(x, (C,), w, 1e-6)

    return elementwise(ops.rms_norm, theirs, (M, C), (M, C), 5, weights_of(C)[:1], 4.0)


def swiglu(M: int, ffn: int) -> Row:
    def theirs(x):
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    return elementwise(ops.swiglu, theirs, (M, 2 * ffn), (M, ffn), 4)


def rope(B: int, T: int, H: int, D: int) -> Row:
    """torch's as in transformers: rotate_half, with cosines and sines in x's dtype."""
    cos, sin = Rotary(D, 10000.0, T).tables(T, where.device)
    c, s = (as_torch(t)[:T].to(torch.bfloat16) for t in (cos, sin))
    c, s = (torch.cat((t, t), 1)[None, :, None] for t in (c, s))

    def theirs(x):
        half = torch.cat((-x[..., D // 2 :], x[..., : D // 2]), dim=-1)
        return x * c + half * s

    return elementwise(lambda x: ops.rope(x, cos, sin), theirs, (B, T, H, D), (B, T, H, D), 4)


def attention(shape: tuple[int, int, int, int], backward: bool) -> Row:
    """(B, T, H, D), causal. torch gets views of the same layout, which is what its flash kernels work in."""
    B, T, H, D = shape
    tensors = [normal(*shape, seed=i) for i in range(4)]
    dout, my_dout = tensors[3], as_llmcore(tensors[3])
    theirs_in, mine = [t.requires_grad_() for t in tensors[:3]], [as_llmcore(t, True) for t in tensors[:3]]

    def ours(i):
        if not backward:
            with autograd.no_grad():
                return [ops.attention(*mine)]
        for t in mine:
            t.grad = None
        out = ops.attention(*mine)
        out.backward(my_dout)
        return [out, *(t.grad for t in mine)]

    def theirs(backend):
        def run(i):
            with sdpa_kernel(backend), torch.set_grad_enabled(backward):
                out = F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in theirs_in), is_causal=True)
                out = out.transpose(1, 2)
            if not backward:
                return [out]
            for t in theirs_in:
                t.grad = None
            out.backward(dout)
            return [out, *(t.grad for t in theirs_in)]

        return run

    sides = {"llmcore": ours, "torch flash": theirs(SDPBackend.FLASH_ATTENTION)}
    if where.torch_device == "cuda":
        sides["torch cudnn"] = theirs(SDPBackend.CUDNN_ATTENTION)
    # Half the square; the backward computes the scores again: two products forward, five backward.
    flops = (14 if backward else 4) * B * H * D * T * (T + 1) / 2
    traffic = (12 if backward else 4) * 2 * B * T * H * D
    return Row(sides, MADE, flops=flops, traffic=traffic, asked=0.8)


def output_layer(M: int, C: int, V: int) -> Row:
    """torch eager: the product in bfloat16, its loss in float32, all (M, V) logits at once."""
    x, w = normal(M, C), 0.0625 * normal(V, C, seed=1)
    targets = np.random.default_rng(1).integers(0, V, M).astype(np.int32)
    y = torch.from_numpy(targets.astype(np.int64)).to(where.torch_device)
    a, weight = as_llmcore(x, True), nn.Parameter(w.float().cpu().numpy())
    ta, tw = x.requires_grad_(), w.requires_grad_()

    def ours(i):
        a.grad = None
        weight.zero_grad()
        loss = ops.linear_cross_entropy(a, weight, targets)
        loss.backward()
        return [loss, a.grad, weight.grad]

    def theirs(i):
        ta.grad = tw.grad = None
        loss = F.cross_entropy(F.linear(ta, tw).float(), y)
        loss.backward()
        return [loss, ta.grad, tw.grad]

    return Row({"llmcore": ours, "torch eager": theirs}, MADE, flops=6 * M * C * V, asked=EAGER, factor=4.0)


def adamw(count: int | None) -> Row:
    """One update of GPT-2's parameters, of the first `count` where it is given: reads the parameter, its gradient and two
    moments, writes all but the gradient. torch's is the fused one."""
    sizes = [(30, 20), (20,)] if count else list(shapes(*GPT2).values())
    theirs_p, mine = [], {}
    for i, shape in enumerate(sizes):
        value, grad = (0.02 * normal(*shape, dtype="float32", seed=2 * i + j) for j in (0, 1))
        p = torch.nn.Parameter(value)
        p.grad = grad
        theirs_p.append(p)
        own = mine[str(i)] = nn.Parameter(value.cpu().numpy())
        own.accumulate_grad(as_llmcore(grad.clone()).array)
    groups = [
        {"params": [p for p in theirs_p if p.ndim >= 2], "weight_decay": DECAY},
        {"params": [p for p in theirs_p if p.ndim < 2], "weight_decay": 0.0},
    ]
    theirs_optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
    optimizer = optim.AdamW(mine.items(), LR, BETAS, EPS, DECAY)

    def ours(i):
        optimizer.step()
        return list(mine.values())

    def theirs(i):
        theirs_optimizer.step()
        return theirs_p

    numbers = sum(int(np.prod(s)) for s in sizes)
    sides = {"llmcore": ours, "torch fused": theirs}
    return Row(sides, "float32", traffic=28 * numbers, asked=EAGER, share=SHARE)


def sample(B: int, V: int) -> Row:
    """torch: one sort for both filters, masks in the order of the sort, softmax, multinomial."""
    filters = {"top_k": 50, "top_p": 0.95}
    sets = copies(4 * B * V)
    theirs_in = [3 * normal(B, V, dtype="float32", seed=i) for i in range(sets)]
    mine = [as_llmcore(t) for t in theirs_in]

    def check(_: Row) -> float:
        """Both keep what a float64 sort keeps."""
        probs = ops.sample(mine[0], TEMPERATURE, **filters, return_probs=True).probs
        tokens = ops.sample(mine[0], TEMPERATURE, **filters).tokens.numpy()
        drawn, theirs_probs = torch_sample(theirs_in[0], **filters)
        for name, p, t in (("llmcore", probs, tokens), ("torch", theirs_probs(), drawn.flatten().cpu().numpy())):
            p = as_torch(p).cpu().numpy()
            assert all(p[row, token] > 0 for row, token in enumerate(t)), f"{name} drew a token that it does not keep"
            for row in range(min(B, 4)):
                logits = theirs_in[0][row].double().cpu().numpy()
                check_row(logits, p[row], SLACK[name], lowest_ids=name == "llmcore", **filters)
        return 0.0

    return Row(
        {
            "llmcore": lambda i: ops.sample(mine[i % sets], TEMPERATURE, **filters),
            "torch sort and mask": lambda i: torch_sample(theirs_in[i % sets], **filters)[0],
        },
        "float32",
        traffic=4 * B * V,
        asked=10.0,
        check=check,
    )
