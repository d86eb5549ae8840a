"""Drawing a token from each row of logits, beside the usual torch code: sort, mask, softmax, multinomial.

What is timed draws a token and nothing else; that both sides keep the same tokens with the same probabilities is
checked before. The floor is one read of the logits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from compare import Workload, main
from llmcore import ops
from peers import DTYPES, as_llmcore, as_numpy, as_torch, normal, torch

TEMPERATURE = 0.8
FILTERS = {"top-k 50, top-p 0.95": {"top_k": 50, "top_p": 0.95}, "top-p 0.95": {"top_p": 0.95}, "temperature": {}}


def workloads() -> Iterator[Workload]:
    for dtype in DTYPES:
        for V in (131072, 32768, 262144):
            for B in (1, 64):
                (logits,) = normal((B, V), seed=V)
                for name, filters in FILTERS.items():
                    if V == 131072 or "top_k" in filters:
                        yield workload(name, logits * 3, dtype, filters, torch_sample)
                    if V == 131072 and "top_k" in filters:
                        yield workload(f"{name}, beside torch.topk", logits * 3, dtype, filters, torch_topk_sample)


def workload(name: str, logits: np.ndarray, dtype: str, filters: dict, theirs: Callable) -> Workload:
    x = as_llmcore(logits, dtype)
    sides = {"llmcore": lambda: [ops.sample(x, TEMPERATURE, **filters).tokens]}
    if torch:
        t = as_torch(logits, dtype)
        sides["torch"] = lambda: theirs(t, **filters)

    def check(library: str, got: list) -> None:
        """The token is one of the distribution that was drawn from, which is the same but for rounding: a token at the
        limit of top-p may fall on either side, and which of several equal tokens are the last of the k is anyone's."""
        probs = ops.sample(x, TEMPERATURE, **filters, return_probs=True).probs.numpy()
        mine = probs if library == "llmcore" else as_numpy(got[1]())
        assert (np.take_along_axis(mine, as_numpy(got[0]).astype(np.int64).reshape(-1, 1), 1) > 0).all()
        if theirs is torch_topk_sample:
            mine, probs = np.sort(mine), np.sort(probs)
        assert np.abs(mine - probs).sum(1).max() < 1e-4

    B, V = logits.shape
    traffic = logits.size * (2 if dtype == "bfloat16" else 4)
    return Workload(f"sample {name}, {B}x{V}", dtype, sides, list, traffic=traffic, check=check)


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
