"""Drawing a token from each row of logits, beside the usual torch code: sort, mask, softmax, multinomial.

What is timed draws a token and nothing else; that each side keeps the tokens that a float64 sort keeps, with their
probabilities, is checked before. The floor is one read of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from benchmarks.harness.compare import main
from benchmarks.harness.peers import DTYPES, as_llmcore, as_numpy, as_torch, normal, size_of, torch
from benchmarks.harness.workload import Sides, Workload
from llmcore import ops

TEMPERATURE = 0.8
# How far the mass before a token may be from top_p for either decision. llmcore's rule has 1e-6 of it; torch adds up
# 131072 float32 numbers.
SLACK = {"llmcore": 2e-6, "torch": 2e-4}
FILTERS = {"top-k 50, top-p 0.95": {"top_k": 50, "top_p": 0.95}, "top-p 0.95": {"top_p": 0.95}, "temperature": {}}


def workloads() -> Iterator[Workload]:
    for dtype in DTYPES:
        for V in (131072, 32768, 262144):
            for B in (1, 64):
                for name, filters in FILTERS.items():
                    if V == 131072 or "top_k" in filters:
                        yield workload(name, dtype, filters, torch_sample, B, V)
                    if V == 131072 and "top_k" in filters:
                        yield workload(f"{name}, beside torch.topk", dtype, filters, torch_topk_sample, B, V)


def workload(name: str, dtype: str, filters: dict, theirs: Callable, B: int, V: int) -> Workload:
    build = partial(drawing, dtype, filters, theirs)
    return Workload(f"sample {name}, {B}x{V}", dtype, ("llmcore", "torch"), build, (B, V), (3, 1000))


def test_sample(entry):
    entry.measure()


def drawing(dtype: str, filters: dict, theirs: Callable, B: int, V: int) -> Sides:
    logits = 3 * normal((B, V), seed=V)[0]
    x = as_llmcore(logits, dtype)
    sides = {"llmcore": lambda: [ops.sample(x, TEMPERATURE, **filters).tokens]}
    if torch:
        t = as_torch(logits, dtype)
        sides["torch"] = lambda: theirs(t, **filters)

    rounded = as_numpy(x).astype(np.float64)

    def check(library: str, got: list) -> None:
        mine = library == "llmcore"
        probs = ops.sample(x, TEMPERATURE, **filters, return_probs=True).probs.numpy() if mine else as_numpy(got[1]())
        tokens = as_numpy(got[0]).reshape(-1).astype(np.int64)
        for row, token, p in zip(rounded, tokens, probs, strict=True):
            assert p[token] > 0
            check_row(row, p, SLACK[library], lowest_ids=mine, **filters)

    return Sides(sides, traffic=logits.size * size_of(dtype), check=check)


def check_row(logits, probs, slack: float, lowest_ids: bool, top_k: int = 0, top_p: float = 1.0) -> None:
    """Assert that the likeliest tokens are kept, as many as the mass before each in float64 says, give or take those within
    `slack` of the limit, with their probabilities. lowest_ids: and of equal ones at the end those of lowest id."""
    order = np.argsort(-logits, kind="stable")[: top_k or None]
    weights = np.exp((logits[order] - logits[order[0]]) / TEMPERATURE)
    before = np.concatenate([[0.0], np.cumsum(weights)[:-1]]) / weights.sum()
    kept = np.flatnonzero(probs)
    least, most = (len(order),) * 2 if top_p == 1 else np.searchsorted(before, [top_p - slack, top_p + slack])
    assert least <= len(kept) <= most
    if lowest_ids:
        assert (np.sort(order[: len(kept)]) == kept).all()
    kept = kept[np.argsort(-logits[kept], kind="stable")]
    assert (logits[kept] == logits[order[: len(kept)]]).all()
    np.testing.assert_allclose(probs[kept], weights[: len(kept)] / weights[: len(kept)].sum(), rtol=max(slack, 2e-5))


def torch_sample(logits, top_k: int = 0, top_p: float = 1.0) -> list:
    """One sort for both filters, then masks in the order of the sort."""
    scaled = logits.float() / TEMPERATURE
    if top_k or top_p < 1:
        ordered, ids = scaled.sort(dim=-1, descending=True, stable=True)
        if top_k:
            ordered[:, top_k:] = -torch.inf
        p = ordered.softmax(-1)
        ordered[p.cumsum(-1) - p >= top_p] = -torch.inf
        scaled = torch.full_like(scaled, -torch.inf).scatter_(1, ids, ordered)
    probs = scaled.softmax(-1)
    return [torch.multinomial(probs, 1), lambda: probs]


def torch_topk_sample(logits, top_k: int, top_p: float) -> list:
    """What a careful reader of torch's manual would write."""
    ordered, ids = (logits.float() / TEMPERATURE).topk(top_k, dim=-1)
    p = ordered.softmax(-1)
    ordered[p.cumsum(-1) - p >= top_p] = -torch.inf
    p = ordered.softmax(-1)
    token = ids.gather(1, torch.multinomial(p, 1))
    return [token, lambda: torch.zeros_like(logits, dtype=torch.float32).scatter_(1, ids, p)]


if __name__ == "__main__":
    main(workloads)
