"""Speculative decoding: guess the next tokens, so that one pass of the model verifies several (Leviathan et al. 2023).

Draws are keyed by their number: the engine draws every token from the model's own logits, with the same noise as without
guesses, and a guess is right if it equals that token. So guesses change the speed but no token, at any temperature.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmcore import autograd
from llmcore._sequences import common_prefix, continuations
from llmcore.errors import Error
from llmcore.generate.engine.request import Request
from llmcore.generate.engine.sampler import Sampler
from llmcore.models import CausalLM, DecodeStep, KVCache


class _Adaptive:
    """Guesses more tokens while all guesses are right, fewer when some are wrong."""

    def __init__(self, most: int):
        if most < 1:
            raise Error("generate", expected="draft_tokens >= 1", got=most)
        self._most, self._count = most, most
        self.proposed = self.right = 0

    def record(self, right: int, proposed: int) -> None:
        self.proposed += proposed
        self.right += right
        if proposed:
            self._count = min(self._count + 1, self._most) if right == proposed else max(1, right + 1)


class PromptLookup(_Adaptive):
    """Guesses what followed the previous occurrence of the last tokens (Saxena 2023): for answers that quote their prompt."""

    def __init__(self, most: int = 7, longest: int = 4):
        super().__init__(most)
        self._longest = longest

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        tokens = np.asarray(request.tokens)
        for n in range(min(self._longest, len(tokens) - 1), 1, -1):
            found = continuations(tokens, n)
            if len(found):
                return tokens[found[-1] : found[-1] + min(limit, self._count)].tolist()
        return []


class Draft(_Adaptive):
    """Guesses what a smaller model with the same vocabulary draws with the same noise: where the two agree on the
    probabilities, they agree on the token."""

    def __init__(self, model: CausalLM, most: int = 4):
        super().__init__(most)
        self._model = model
        self._cache: KVCache | None = None
        self._step: DecodeStep | None = None
        self._known: list[int] = []

    def propose(self, request: Request, limit: int) -> Sequence[int]:
        count = min(limit, self._count, self._model.config.context - len(request.tokens))
        p = request.params
        if count < 1 or p.masks or request.constraint is not None or p.dry_multiplier or p.xtc_probability:
            return []
        if self._cache is None:
            room = request.prompt_length + request.params.max_tokens + self._most
            self._cache = self._model.new_cache(1, room)
            self._step = DecodeStep(self._model, self._cache)
        assert self._step is not None
        tokens, cache = request.tokens, self._cache
        same = common_prefix(self._known, tokens[:-1])
        vocab = self._model.config.vocab_size
        cache.lengths[0] = same
        with autograd.no_grad():
            if len(tokens) - same == 1:
                logits = self._step(np.array([tokens[-1:]]))
            else:
                logits = self._model(np.array([tokens[same:]]), cache, last_only=True).array
            sampler, guesses = Sampler([request], vocab), []
            while True:
                guesses.append(sampler.draw(logits.reshape([1, vocab]))[0].token)
                if len(guesses) == count:
                    break
                logits = self._step(np.array([guesses[-1:]]))
        self._known = [*tokens, *guesses[:-1]]
        return guesses
