"""One update of a small GPT; `train_gpt.py` trains the whole one and measures memory too."""

import functools

import numpy as np
import pytest

import gpt
from llmcore import models
from peers import peer

BATCH, STEPS = 8, 4
CONFIG = models.GPT2Config(vocab_size=1024, context=128, width=192, layers=2, heads=3)


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(step).integers(0, CONFIG.vocab_size, (BATCH, CONFIG.context + 1)).astype(np.int32)
    return np.ascontiguousarray(ids[:, :-1]), np.ascontiguousarray(ids[:, 1:])


@functools.cache
def losses(library: str) -> list[float]:
    trainer = gpt.trainer(library, CONFIG, gpt.initial_weights(CONFIG))
    return [trainer.step(*batch(i)) for i in range(STEPS)]


@pytest.mark.parametrize("library", gpt.LIBRARIES)
def test_update(benchmark, library):
    if library != "llmcore":
        peer("torch")
        assert losses(library) == pytest.approx(losses("llmcore"), rel=5e-3)  # bfloat16, summed in another order
    trainer = gpt.trainer(library, CONFIG, gpt.initial_weights(CONFIG))
    trainer.step(*batch(0))
    inputs = batch(1)
    tokens = BATCH * CONFIG.context
    sizes = {"B": BATCH, "T": CONFIG.context, "C": CONFIG.width, "L": CONFIG.layers, "V": CONFIG.vocab_size}
    benchmark.group = "update of a small GPT ({L}x{C}, B={B} T={T} V={V})".format(**sizes)
    matrices = 12 * CONFIG.layers * CONFIG.width**2 + CONFIG.vocab_size * CONFIG.width
    attention = 7 * CONFIG.layers * CONFIG.context * CONFIG.width  # scores computed again backward, half the square
    benchmark.extra_info.update(
        library=library, dtype="bfloat16", shape=sizes, flops=tokens * (6 * matrices + attention), correct=True
    )
    benchmark(lambda: trainer.step(*inputs))
