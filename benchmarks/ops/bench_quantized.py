"""Linear layers whose weights stay quantized: y = x (M,K) · weightᵀ, weight (N,K) in the block types of GGUF files.

llmcore rounds x to int8 in blocks of 32; torch multiplies with the same weights as float32 and as bfloat16 numbers. The
floor is reading the quantized weights once, or the int8 dot products, of which a core does twice as many per second as of bfloat16's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import as_numpy, as_torch, normal, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import _core, nn, ops
from llmcore.formats.quantization import encode
from llmcore.models.weights import Encoded

KINDS = {"Q8_0": 34 / 32, "Q4_0": 18 / 32, "Q4_1": 20 / 32}  # bytes per weight
SHAPES = [  # M, N, K: decoding and prefill of SmolLM2-135M and of a model of 7 billion weights
    (1, 1536, 576),
    (1, 49152, 576),
    (1, 4096, 4096),
    (1, 11008, 4096),
    (8, 4096, 4096),
    (512, 1536, 576),
    (512, 4096, 4096),
]
ROUNDED = 0.02  # of the result's largest: x has 127 steps up to its block's largest, bfloat16 256 of any size


LIBRARIES = ("llmcore", "torch float32", "torch bfloat16")


def workloads() -> Iterator[Workload]:
    for M, N, K in SHAPES:
        for kind in KINDS:
            yield Workload(
                f"linear {kind} {M}x{N}x{K}", "int8", LIBRARIES, partial(product, kind), (M, N, K), (8, 96, 256)
            )


def test_quantized(entry):
    entry.measure()


def product(kind: str, M: int, N: int, K: int) -> Sides:
    x, w = normal((M, K), (N, K))
    source = Encoded(encode(w, kind), kind, (N, K))
    weight, exact = nn.QuantizedWeight(source, lambda: [(kind, source.pieces[0].blocks())]), source.values()
    assert weight.quantized is not None
    a = _core.from_numpy(x)
    sides = {"llmcore": lambda: [ops.linear(a, weight)]}
    if torch:
        for name, dtype in (("torch float32", "float32"), ("torch bfloat16", "bfloat16")):
            ta, tb = as_torch(x, dtype), as_torch(exact, dtype)
            sides[name] = lambda ta=ta, tb=tb: [torch.nn.functional.linear(ta, tb)]

    expected = x.astype(np.float64) @ exact.T.astype(np.float64)

    def check(library: str, got) -> None:
        error = np.abs(as_numpy(got[0]) - expected).max() / np.abs(expected).max()
        assert error < ROUNDED, f"{library}: relative error {error:.3g}"

    traffic = N * K * KINDS[kind] + 4 * (M * K + M * N)
    # In bfloat16's operations, of which the machine's peak is known: half as many.
    return Sides(sides, flops=M * N * K, traffic=traffic, check=check)


if __name__ == "__main__":
    main(workloads)
