"""What each stage of sampling leaves of a model's distribution."""

from __future__ import annotations

import numpy as np

from llmcore import ops
from llmcore._tensor import Tensor
from llmcore.generate.engine.dry import without_top
from llmcore.generate.engine.params import SamplingParams


def stages(logits: Tensor, params: SamplingParams, end_ids: tuple[int, ...]) -> list[tuple[str, np.ndarray]]:
    """See `LanguageModel.trace_filters`. logits: (1, V)."""
    p = params
    on = {
        f"temperature {p.temperature:g}": (p.temperature != 1, "temperature"),
        f"top-k {p.top_k}": (p.top_k > 0, "top_k"),
        f"top-p {p.top_p:g}": (p.top_p < 1, "top_p"),
        f"min-p {p.min_p:g}": (p.min_p > 0, "min_p"),
        f"typical-p {p.typical_p:g}": (p.typical_p < 1, "typical_p"),
    }
    given: dict[str, float] = {}
    found = [("the model", _probabilities(logits, given))]
    for name, (acts, field) in on.items():
        given[field] = getattr(p, field)
        if acts:
            found.append((name, _probabilities(logits, given)))
    if p.xtc_probability:
        last = found[-1][1]
        kept = without_top(last, p.xtc_threshold, end_ids) if p.temperature else None
        left = last if kept is None else np.where(kept, last, 0) / last[kept].sum()
        found.append((f"xtc {p.xtc_threshold:g}", left))
    return found


def expected(logits: Tensor, params: SamplingParams, end_ids: tuple[int, ...]) -> np.ndarray:
    """Return how likely each token is to be drawn: (V) float32."""
    found, share = stages(logits, params, end_ids), params.xtc_probability
    return (1 - share) * found[-2][1] + share * found[-1][1] if share else found[-1][1]


def _probabilities(logits: Tensor, given: dict[str, float]) -> np.ndarray:
    probs = ops.sample(logits, **given, return_probs=True).probs
    assert probs is not None
    return probs.numpy()[0].copy()
