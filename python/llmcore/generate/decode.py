"""The decoding loop: prompts of any lengths in one batch, one token a step for each, with a key/value cache.

A row's tokens depend on its prompt and its own parameters only: kernels compute every row alone, and the draw is keyed
by the row's seed and the number of the draw.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import _core, autograd
from llmcore.generate.sampling import SamplingParams
from llmcore.models import CausalLM, DecodeStep
from llmcore.ops.sample import bias_arrays


class Step(NamedTuple):
    """One generated token of one row."""

    row: int
    token: int
    logprob: float
    last: bool  # the row ends here for want of room, whatever the token


class Sampler:
    """The sampling parameters of a batch as arrays, the tokens so far where a penalty needs them, and up to `draws` draws."""

    def __init__(self, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], draws: int):
        def each(name, dtype):
            return _core.from_numpy(np.array([getattr(p, name) for p in params], dtype))

        self._filters = each("temperature", np.float32), each("top_k", np.int32), each("top_p", np.float32)
        self._min_p, self._seed = each("min_p", np.float32), each("seed", np.int64)
        self._rows = len(params)
        self._changes: dict = {}
        if any(p.logit_bias for p in params):
            self._changes["bias"] = bias_arrays([p.logit_bias for p in params])
        self._history: np.ndarray | None = None
        if any(p.penalised for p in params):
            self._lengths = np.array([len(ids) for ids in prompts], np.int32)
            self._history = np.zeros((len(prompts), self._lengths.max() + draws), np.int32)
            for row, ids in zip(self._history, prompts, strict=True):
                row[: len(ids)] = ids
            self._changes |= {
                "history": _core.from_numpy(self._history),
                "history_lengths": _core.from_numpy(self._lengths),
                "prompt_lengths": _core.from_numpy(self._lengths.copy()),
                **{
                    f"{name}_penalty": each(f"{name}_penalty", np.float32)
                    for name in ("repetition", "presence", "frequency")
                },
            }

    def draw(self, logits: _core.Array, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and log-probabilities (B) from logits (B, V); every row is at its draw number `step`."""
        drawn, logprobs, _ = _core.sample(logits, *self._filters, self._min_p, self._seed, step, **self._changes)
        tokens = drawn.numpy()
        if self._history is not None:
            self._history[np.arange(self._rows), self._lengths] = tokens
            self._lengths += 1
        return tokens, logprobs.numpy()


def decode(
    model: CausalLM, prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams]
) -> Generator[Step, bool | None, None]:
    """Generate for all prompts at once. Yields Steps; send(True) after one ends its row.

    Prompts are lists of token ids, each shorter than the context.
    """
    context, vocab = model.config.context, model.config.vocab_size
    for ids in prompts:
        if not 0 < len(ids) < context:
            raise ValueError(
                f"[generate] expected a prompt of 1 to {context - 1} tokens (the context is {context}), got {len(ids)}"
            )
    room = [min(p.max_tokens, context - len(ids)) for ids, p in zip(prompts, params, strict=True)]
    done = np.array([n == 0 for n in room])
    if done.all():
        return
    sampler = Sampler(prompts, params, max(room))
    with autograd.no_grad():
        cache = model.new_cache(len(prompts), max(len(ids) + n for ids, n in zip(prompts, room, strict=True)))
        rows = []
        for b, ids in enumerate(prompts):
            logits = model(np.asarray([ids]), cache.row(b), last_only=True)
            rows.append(logits.array.reshape([1, vocab]))
        logits = _core.join(rows, 0)
    next_logits = DecodeStep(model, cache)
    step = 0
    while True:
        tokens, logprobs = sampler.draw(logits, step)
        step += 1
        for b in np.flatnonzero(~done).tolist():
            last = step >= room[b]
            ended = yield Step(b, int(tokens[b]), float(logprobs[b]), last)
            done[b] = last or bool(ended)
        if done.all():
            return
        # A finished row keeps its place in the batch and writes over its own first position.
        cache.lengths[done] = 0
        logits = next_logits(tokens)
