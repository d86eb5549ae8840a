"""Drawing the next token."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from llmcore import _core
from llmcore._tensor import Tensor, as_tensor


class Sample(NamedTuple):
    """What `sample` returns."""

    tokens: Tensor  # (B) int32
    logprobs: Tensor  # (B) float32: log-probability under softmax(logits), before temperature and filters
    probs: Tensor | None  # (B, V) float32: the distribution that was drawn from, when asked for


def sample(
    logits, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, seed=0, step=0, return_probs: bool = False
) -> Sample:
    """Draw one token from each row of logits (B, V).

    Every parameter is a number, or an array with one for each row. Order: temperature → top-k → top-p → min-p → draw.
    temperature 0 takes the largest logit (lowest id on ties). top_k keeps exactly k tokens (0: off; lowest id wins ties).
    top_p renormalises and keeps a token iff the mass before it is < top_p − 1e-6 (1: off). min_p keeps p ≥ min_p · p_max
    (0: off). The draw depends on the row's logits, seed and step (the number of the draw) only, never on its neighbours.
    """
    logits = as_tensor(logits)
    rows = logits.shape[0] if logits.ndim else 0

    def each(name, value, dtype):
        a = np.asarray(value)
        whole = dtype != np.float32
        if a.dtype.kind not in ("iu" if whole else "iuf"):
            raise TypeError(f"[sample] expected {name} {'an integer' if whole else 'a number'}, got {value!r}")
        # A seed may use all 64 bits, signed or not; a count must not wrap into another one.
        if dtype == np.int32 and a.size and int(a.max()) >= 2**31:
            raise ValueError(f"[sample] expected {name} below 2^31, got {a.max()}")
        return _core.from_numpy(np.full(rows, a, dtype) if a.ndim == 0 else np.ascontiguousarray(a, dtype))

    tokens, logprobs, probs = _core.sample(
        logits.array,
        each("temperature", temperature, np.float32),
        each("top_k", top_k, np.int32),
        each("top_p", top_p, np.float32),
        each("min_p", min_p, np.float32),
        each("seed", seed, np.int64),
        each("step", step, np.int64),
        return_probs,
    )
    return Sample(Tensor(tokens), Tensor(logprobs), None if probs is None else Tensor(probs))
