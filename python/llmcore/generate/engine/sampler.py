"""Samples the next tokens of a batch from its logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llmcore import _core
from llmcore._sequences import largest
from llmcore.generate.engine.allowed import allow
from llmcore.generate.engine.request import Request, SampledToken
from llmcore.ops.sample import bias_arrays

_NAMES = ("repetition_penalty", "presence_penalty", "frequency_penalty")


class Sampler:
    """The parameters of requests as arrays, one row each; valid as long as exactly these requests decode."""

    def __init__(self, requests: Sequence[Request], vocab_size: int):
        self._requests, self._vocab = list(requests), vocab_size
        params = [r.params for r in requests]

        def each(name: str, dtype) -> _core.Array:
            return _core.from_numpy(np.array([getattr(p, name) for p in params], dtype))

        self._filters = each("temperature", np.float32), each("top_k", np.int32), each("top_p", np.float32)
        self._min_p = each("min_p", np.float32)
        self._seed = _core.from_numpy(np.array([(p.seed or 0) % 2**64 for p in params], np.uint64).view(np.int64))
        self._steps = np.array([r.generated for r in requests], np.int64)
        self._changes: dict = {"typical_p": each("typical_p", np.float32)}
        if any(p.biases for p in params):
            self._changes["bias"] = bias_arrays([p.biases for p in params])
        self._history: np.ndarray | None = None
        if any(p.penalised for p in params):
            self._set_history([len(r.tokens) + 256 for r in requests])
            self._changes |= {name: each(name, np.float32) for name in _NAMES}
        self._masked = [i for i, r in enumerate(requests) if r.params.masks or r.constraint is not None]
        self._mask = np.full((len(params), -(-vocab_size // 32)), ~np.uint32(0)) if self._masked else None
        if self._mask is not None:
            self._changes["mask"] = _core.from_numpy(self._mask)
        self._tops = [(i, p.top_logprobs) for i, p in enumerate(params) if p.top_logprobs]

    def is_for(self, requests: Sequence[Request]) -> bool:
        """Return whether its rows are these requests, at the step where it left them."""
        return len(requests) == len(self._requests) and all(
            a is b and a.generated == n for a, b, n in zip(requests, self._requests, self._steps.tolist(), strict=True)
        )

    def draw(self, logits: _core.Array) -> list[SampledToken]:
        """Sample a token for each row of logits (B, V), whose memory may be overwritten afterwards."""
        if self._mask is not None:
            for i in self._masked:
                allow(self._requests[i], self._vocab, self._mask[i])
        drawn, logprobs, _ = _core.sample(
            logits, *self._filters, self._min_p, self._seed, _core.from_numpy(self._steps), **self._changes
        )
        tokens = drawn.numpy()
        self._steps += 1
        if self._history is not None:
            self._remember(tokens)
        found = [SampledToken(t, p, None) for t, p in zip(tokens.tolist(), logprobs.numpy().tolist(), strict=True)]
        for i, k in self._tops:
            found[i] = found[i]._replace(top=top_logprobs(logits.narrow(0, i, 1).numpy()[0], found[i], k))
        return found

    def _set_history(self, room: Iterable[int]) -> None:
        self._lengths = np.array([len(r.tokens) for r in self._requests], np.int32)
        self._history = np.zeros((len(self._requests), max(room)), np.int32)
        for row, r in zip(self._history, self._requests, strict=True):
            row[: len(r.tokens)] = r.tokens
        prompts = np.array([r.prompt_length for r in self._requests], np.int32)
        self._changes |= {
            "history": _core.from_numpy(self._history),
            "history_lengths": _core.from_numpy(self._lengths),
            "prompt_lengths": _core.from_numpy(prompts),
        }

    def _remember(self, tokens: np.ndarray) -> None:
        assert self._history is not None
        if self._lengths.max() == self._history.shape[1]:
            self._set_history(2 * self._lengths)  # the requests do not have the new token yet
        self._history[np.arange(len(tokens)), self._lengths] = tokens
        self._lengths += 1


def top_logprobs(logits: np.ndarray, drawn: SampledToken, k: int) -> list[tuple[int, float]]:
    """Return the k likeliest tokens of a row with their log-probabilities, likeliest first, the lower id first among equals."""
    top = logits.astype(np.float64)
    log_sum = top[drawn.token] - drawn.logprob
    return [(int(i), float(top[i] - log_sum)) for i in largest(top, k)]
