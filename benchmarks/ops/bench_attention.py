"""Attention: causal training shapes, forward and backward, and one query against a cache of keys and values."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import DTYPES, as_llmcore, as_torch, normal, size_of, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import autograd, ops
from reference import attention as reference

TRAINING = [(4, 256, 12, 12, 64), (16, 256, 12, 12, 64), (2, 1024, 12, 12, 64), (1, 4096, 12, 12, 64)]  # B T H Hkv D
DECODING = [(B, S, 12, Hkv, 64) for B in (1, 4) for S in (1024, 4096) for Hkv in (12, 4)]  # B S H Hkv D


def workloads() -> Iterator[Workload]:
    for dtype in DTYPES:
        for B, T, H, Hkv, D in TRAINING:
            name = f"attention forward + backward B={B} T={T} H={H} D={D}"
            build, small = partial(training, dtype), (2, 40, 4, 4, 16)
            yield Workload(name, dtype, ("llmcore", "torch"), build, (B, T, H, Hkv, D), small)
        for B, S, H, Hkv, D in DECODING:
            name = f"attention, one query of {B} rows, {S} keys, H={H} Hkv={Hkv} D={D}"
            build, small = partial(decoding, dtype), (2, 70, 12, 12, 16)
            yield Workload(name, dtype, ("llmcore", "torch"), build, (B, S, H, Hkv, D), small)


def test_attention(entry):
    entry.measure()


def heads_first(x: np.ndarray, dtype: str, grad: bool = False):
    """(B,T,H,D) -> torch's (B,H,T,D), in memory too: the layout it is fastest in."""
    return as_torch(np.ascontiguousarray(x.transpose(0, 2, 1, 3)), dtype, grad)


def training(dtype: str, B: int, T: int, H: int, Hkv: int, D: int) -> Sides:
    *arrays, dout = normal((B, T, H, D), (B, T, Hkv, D), (B, T, Hkv, D), (B, T, H, D))
    inputs, d = [as_llmcore(x, dtype, grad=True) for x in arrays], as_llmcore(dout, dtype)

    def ours():
        for x in inputs:
            x.grad = None
        out = ops.attention(*inputs)
        out.backward(d)
        return [out, *(x.grad for x in inputs)]

    sides = {"llmcore": ours}
    if torch:
        theirs_in, theirs_d = [heads_first(x, dtype, grad=True) for x in arrays], heads_first(dout, dtype)

        def theirs():
            for x in theirs_in:
                x.grad = None
            out = torch.nn.functional.scaled_dot_product_attention(*theirs_in, is_causal=True)
            out.backward(theirs_d)
            return [out.transpose(1, 2), *(x.grad.transpose(1, 2) for x in theirs_in)]

        sides["torch"] = theirs

    def expected():
        one = [twin(*(x[b : b + 1] for x in (*arrays, dout))) for b in range(B)]  # a batch row at a time: memory
        return [np.concatenate(parts) for parts in zip(*one, strict=True)]

    def twin(q, k, v, dy):
        return reference.attention(q, k, v, D**-0.5)[0], *reference.attention_backward(dy, q, k, v, D**-0.5)

    flops = (4 + 10) * B * H * D * T * (T + 1) / 2  # half the square; the backward computes the scores again
    traffic = 4 * (arrays[0].size + arrays[1].size) * size_of(dtype)
    return Sides(sides, expected, flops, traffic, factor=2)  # four products, one after the other


def decoding(dtype: str, B: int, S: int, H: int, Hkv: int, D: int) -> Sides:
    """Several caches in turn, as the layers of a model have: what one leaves in the processor's caches is gone."""
    q, k, v = normal((B, 1, H, D), (B, S, Hkv, D), (B, S, Hkv, D))
    copies, turn = min(max(2, (128 << 20) // (2 * k.size * size_of(dtype))), 128), [0, 0]
    query, lengths = as_llmcore(q, dtype), np.full(B, S, np.int32)
    caches = [[as_llmcore(x.copy(), dtype) for x in (k, v)] for _ in range(copies)]  # a tensor may share x's memory

    def ours():
        turn[0] += 1
        with autograd.no_grad():
            return [ops.attention(query, *caches[turn[0] % copies], lengths=lengths)]

    sides = {"llmcore": ours}
    if torch:
        their_query = heads_first(q, dtype)
        their_caches = [[heads_first(x, dtype) for x in (k, v)] for _ in range(copies)]

        def theirs():
            turn[1] += 1
            with torch.no_grad():
                out = torch.nn.functional.scaled_dot_product_attention(
                    their_query, *their_caches[turn[1] % copies], enable_gqa=Hkv != H
                )
                return [out.transpose(1, 2)]

        sides["torch"] = theirs
    traffic = 2 * k.size * size_of(dtype)
    return Sides(sides, lambda: [reference.attention(q, k, v, D**-0.5)[0]], traffic=traffic)


if __name__ == "__main__":
    main(workloads)
