"""Measures how fast a model prefills and decodes on this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import numpy as np

from llmcore import _core, autograd, runtime
from llmcore.models import CausalLM, DecodeStep

_ROUNDS = 3


def measure_model(model: CausalLM, prompt: int = 512, tokens: int = 128, batches: Sequence[int] = (1, 8)) -> dict:
    """Measure tokens per second, the median of three rounds each: prefill of a prompt, and decoding with each batch size.

    prompt and tokens are cut to what fits into the context. `weight_bytes`: the bytes of weights that a step reads, in the
    form in which they are multiplied.
    """
    context = model.config.context
    prompt = max(1, min(prompt, context - 2))
    tokens = max(1, min(tokens, context - 2))
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (1, prompt))
    model(ids[:, :2])  # packs the weights
    prefill = [prompt / _seconds(lambda: _prefill(model, ids)) for _ in range(_ROUNDS)]
    decode = {}
    for rows in batches:
        rates = []
        for _ in range(_ROUNDS):
            cache = model.new_cache(rows, tokens + 2)
            step = DecodeStep(model, cache)
            for row in range(rows):
                with autograd.no_grad():
                    model(ids[:, :1], cache.row(row), last_only=True)
            step(np.zeros((rows, 1), np.int32))  # records the step
            rates.append(rows * tokens / _seconds(lambda s=step, n=rows: _decode(s, n, tokens)))
        decode[rows] = statistics.median(rates)
    return {
        "threads": runtime.num_threads(),
        "device": model.device,
        "dtype": model.dtype,
        "prompt": prompt,
        "tokens": tokens,
        "weight_bytes": _weight_bytes(model),
        "prefill_tokens_per_second": statistics.median(prefill),
        "decode_tokens_per_second": decode,
    }


def _seconds(work) -> float:
    _core.synchronize()  # a GPU keeps working while the host reads its clock
    began = time.perf_counter()
    work()
    _core.synchronize()
    return time.perf_counter() - began


def _prefill(model: CausalLM, ids: np.ndarray) -> None:
    with autograd.no_grad():
        model(ids, model.new_cache(1, ids.shape[1]), last_only=True)


def _decode(step: DecodeStep, rows: int, tokens: int) -> None:
    ids = np.zeros(rows, np.int32)
    for _ in range(tokens):
        logits = step(ids[:, None]).reshape([rows, -1])
        ids = _core.sample(logits, 0.0, 0, 1.0, 0.0, 0, 0)[0].numpy()


def _weight_bytes(model: CausalLM) -> int:
    """Return the bytes that a step for one sequence reads; the token embedding counts only if it is the output layer."""
    output, total = model.output_weight(), 0
    size = 2 if model.dtype == "bfloat16" else 4
    for _, p in model.named_parameters():
        if p.ndim == 2 and (p is output or p is not model.tokens.weight):
            total += p.size * size if p.quantized is None else p.quantized.nbytes
    return total
