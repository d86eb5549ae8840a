"""Samples the next tokens of a batch from its logits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from llmcore import _core
from llmcore._sequences import largest
from llmcore.generate.engine.allowed import allow
from llmcore.generate.engine.dry import biases, coin, without_top
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

        f32 = np.float32
        self._filters = each("temperature", f32), each("top_k", np.int32), each("top_p", f32), each("min_p", f32)
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
        self._prepare()
        steps = _core.from_numpy(self._steps)
        drawn, logprobs, _ = _core.sample(logits, *self._filters, self._seed, steps, **self._changes)
        tokens, likely = drawn.numpy(), logprobs.numpy()
        for i, r in enumerate(self._requests):
            p = r.params
            if p.xtc_probability and p.temperature and coin(p.seed or 0, int(self._steps[i])) < p.xtc_probability:
                other = Sampler([r], self._vocab)._without_top(logits.narrow(0, i, 1))
                tokens[i], likely[i] = (tokens[i], likely[i]) if other is None else other
        self._steps += 1
        if self._history is not None:
            self._remember(tokens)
        found = [SampledToken(t, p, None) for t, p in zip(tokens.tolist(), likely.tolist(), strict=True)]
        for i, k in self._tops:
            found[i] = found[i]._replace(top=top_logprobs(logits.narrow(0, i, 1).numpy()[0], found[i], k))
        return found

    def probabilities(self, logits: _core.Array) -> np.ndarray:
        """Return what is drawn from, but for XTC: (B, V) float32."""
        self._prepare()
        steps = _core.from_numpy(self._steps)
        probs = _core.sample(logits, *self._filters, self._seed, steps, True, **self._changes)[2]
        assert probs is not None
        return probs.numpy()

    def _without_top(self, logits: _core.Array) -> tuple[int, float] | None:
        """Draw the token of the only row from what XTC leaves of its distribution; None if that is all of it."""
        r = self._requests[0]
        kept = without_top(self.probabilities(logits)[0], r.params.xtc_threshold, r.end_ids)
        if kept is None:
            return None
        words = np.zeros((1, -(-self._vocab // 32)), np.uint32)
        bits = np.packbits(kept, bitorder="little")
        words.view(np.uint8)[0, : len(bits)] = bits
        changes = self._changes | {"mask": _core.from_numpy(words), "typical_p": 1.0}
        steps = _core.from_numpy(self._steps)
        drawn, logprobs, _ = _core.sample(logits, self._filters[0], 0, 1.0, 0.0, self._seed, steps, **changes)
        return int(drawn.numpy()[0]), float(logprobs.numpy()[0])

    def _prepare(self) -> None:
        """Find out what the requests may draw now, and what biases they have."""
        if self._mask is not None:
            for i in self._masked:
                allow(self._requests[i], self._vocab, self._mask[i])
        if any(r.params.dry_multiplier for r in self._requests):
            rows = [biases(r.tokens, r.params, r.breakers) for r in self._requests]
            self._changes["bias"] = bias_arrays(rows)

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
