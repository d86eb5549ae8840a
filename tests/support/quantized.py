"""Random tensors of every type that a GGUF file can hold."""

import numpy as np

from llmcore.formats.gguf import TYPES, GGUFTensor

NAMES = {kind.name: (number, kind) for number, kind in TYPES.items()}


def random_tensor(name: str, rows: int = 3, width: int = 512, seed: int = 0) -> GGUFTensor:
    """Return a tensor of random blocks, or of normal numbers where the type is a float."""
    kind = NAMES[name][1]
    rng = np.random.default_rng(seed)
    if kind.elements == 1:
        values = rng.standard_normal(rows * width).astype("<f2" if name == "F16" else "<f4")
        data = values.view(np.uint8) if name != "BF16" else (values.view("<u4") >> 16).astype("<u2").view(np.uint8)
    else:
        data = rng.integers(0, 256, rows * width // kind.elements * kind.bytes, np.uint8)
    return GGUFTensor("w", (rows, width), kind, data)
