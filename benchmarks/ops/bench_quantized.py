"""Linear layers whose weights stay quantized: y = x (M,K) · weightᵀ, weight (N,K) in the block types of GGUF files.

llmcore rounds x to int8 in blocks of 32; torch multiplies with the same weights as float32 and as bfloat16 numbers. The
floor is reading the quantized weights once, or the int8 dot products, which are twice as many a second as bfloat16's.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from benchmarks.harness.compare import Workload, main
from benchmarks.harness.peers import as_numpy, as_torch, normal, torch
from llmcore import _core, nn, ops
from llmcore.formats.quantization import encode
from llmcore.models.weights import Encoded

KINDS = {"Q8_0": 34 / 32, "Q4_0": 18 / 32, "Q4_1": 20 / 32}  # bytes a weight
SHAPES = [  # M, N, K: decoding and reading of SmolLM2-135M and of a model of 7 billion weights
    (1, 1536, 576),
    (1, 49152, 576),
    (1, 4096, 4096),
    (1, 11008, 4096),
    (8, 4096, 4096),
    (512, 1536, 576),
    (512, 4096, 4096),
]
ROUNDED = 0.02  # of the result's largest: x has 127 steps up to its block's largest, bfloat16 256 of any size


def workloads() -> Iterator[Workload]:
    for shape in SHAPES:
        for kind, bytes_a_weight in KINDS.items():
            yield product(shape, kind, bytes_a_weight)


def product(shape: tuple[int, int, int], kind: str, bytes_a_weight: float) -> Workload:
    M, N, K = shape
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

    traffic = N * K * bytes_a_weight + 4 * (M * K + M * N)
    name = f"linear {kind} {M}x{N}x{K}"
    # In bfloat16's operations, of which the machine's peak is known: half as many.
    return Workload(name, "int8", sides, None, M * N * K, traffic, check=check)


if __name__ == "__main__":
    main(workloads)
