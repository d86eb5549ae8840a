"""The likelihood of given continuations under a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import autograd, ops
from llmcore.data.evaluation import IGNORED
from llmcore.errors import Error
from llmcore.models import CausalLM

_ROWS = 512  # hidden states whose logits exist at a time


class Likelihood(NamedTuple):
    """Of a continuation: the sum of its tokens' log-probabilities in nats, and whether each token is the likeliest."""

    logprob: float
    greedy: bool


def target_logprobs(
    model: CausalLM, inputs: np.ndarray, targets: np.ndarray, starts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return, for every target that is not −1 in row order, its log-probability (float64) and whether it is the likeliest
    token (bool). inputs, targets, starts (B, T) int32."""
    with autograd.no_grad():
        hidden = model.hidden(inputs, starts=starts)
        at = np.flatnonzero(targets.reshape(-1) != IGNORED).astype(np.int32)
        wanted = targets.reshape(-1)[at]
        rows = hidden.reshape(inputs.size, hidden.shape[-1])
        logprobs, greedy = np.empty(len(at), np.float64), np.empty(len(at), bool)
        for start in range(0, len(at), _ROWS):
            part = slice(start, start + _ROWS)
            logits = model.logits(ops.take(rows, at[part]))
            logprobs[part] = -ops.cross_entropy(logits, wanted[part], "none").numpy()
            greedy[part] = logits.numpy().argmax(axis=1) == wanted[part]
    return logprobs, greedy


def likelihoods(
    model: CausalLM,
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]],
    batch_size: int = 16,
    progress: Callable[[int, int], object] = lambda done, of: None,
) -> list[Likelihood]:
    """Return the likelihood of each continuation after its context, given as pairs (context ids, continuation ids), neither
    empty. A pair longer than the model's context is truncated on the left. Results do not depend on batch_size. progress:
    called with how many are done, of how many."""
    room = model.config.context + 1
    for number, (context, continuation) in enumerate(pairs):
        if not len(context) or not len(continuation):
            raise Error("likelihood", expected=f"tokens in context and continuation of pair {number}", got="none")
        if len(continuation) >= room:
            raise Error("likelihood", expected=f"a continuation of at most {room - 1} tokens", got=len(continuation))
    order = sorted(range(len(pairs)), key=lambda i: -len(pairs[i][0]) - len(pairs[i][1]))
    found: list[Likelihood | None] = [None] * len(pairs)
    for first in range(0, len(order), batch_size):
        chosen = order[first : first + batch_size]
        ids = [[*pairs[i][0], *pairs[i][1]][-room:] for i in chosen]
        T = max(map(len, ids)) - 1
        inputs, targets = np.zeros((len(ids), T), np.int32), np.full((len(ids), T), IGNORED, np.int32)
        counts = [len(pairs[i][1]) for i in chosen]
        for row, (tokens, count) in enumerate(zip(ids, counts, strict=True)):
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            targets[row, len(tokens) - 1 - count : len(tokens) - 1] = tokens[-count:]
        logprobs, greedy = target_logprobs(model, inputs, targets)
        ends = np.cumsum(counts)
        for i, end, count in zip(chosen, ends.tolist(), counts, strict=True):
            found[i] = Likelihood(float(logprobs[end - count : end].sum()), bool(greedy[end - count : end].all()))
        progress(min(first + batch_size, len(order)), len(order))
    return found  # type: ignore[return-value]
