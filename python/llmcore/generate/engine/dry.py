"""DRY and XTC, two samplers of text-generation-webui (#5677 and #6335 there, by p-e-w), as llama.cpp has them.

DRY makes a token less likely that would go on with a repetition; XTC now and then leaves out all likely tokens but the
least likely of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence

import numpy as np

from llmcore.generate.engine.params import SamplingParams

_MOST = 1e30  # of a penalty
_COINS = 0x585443  # a stream of its own beside the noise of the draws


class Breakers:
    """Texts that a repetition does not go across."""

    def __init__(self, spell: Callable[[int], bytes], texts: Sequence[str]):
        """spell: the bytes of a token."""
        self._spell, self._texts = spell, [t.encode("utf-8", "surrogatepass") for t in texts]
        self._longest = max(map(len, self._texts), default=0)

    def within(self, token: int) -> bool:
        """Return whether a token holds such a text."""
        return any(t in self._spell(token) for t in self._texts)

    def since(self, tokens: Sequence[int], most: int) -> int:
        """Return how many tokens, at most so many, come after the last one in which such a text ends."""
        tail, ends = b"", [0]  # where the tokens read so far end, from the end of the text
        for n in range(min(most, len(tokens))):
            token = self._spell(tokens[-1 - n])
            near = token + tail[: self._longest - 1]
            found = [at + len(t) for t in self._texts if 0 <= (at := near.rfind(t, 0, len(near))) < len(token)]
            if found:
                after = len(token) + len(tail) - max(found)  # bytes
                return next(i for i, end in enumerate(ends) if i == len(ends) - 1 or ends[i + 1] > after)
            tail = token + tail
            ends.append(len(tail))
        return min(most, len(tokens))


def penalties(tokens: Sequence[int], params: SamplingParams, breakers: Breakers) -> dict[int, float]:
    """Return what is subtracted from logits: multiplier · base ** (n − allowed_length) for a token that would make a
    repetition of n + 1 tokens of the last n >= allowed_length, the longest for each token; nothing for a breaker."""
    base, allowed = params.dry_base, params.dry_allowed_length
    # From some length on the penalty is as good as infinite.
    longest = math.log(_MOST) / math.log(base) if base > 1.000001 else 0.0
    text = np.asarray(tokens if not params.dry_range else tokens[-params.dry_range :])[::-1]
    most = breakers.since(tokens, min(len(text), allowed + int(longest) + 1))
    if len(text) <= allowed or most < allowed:
        return {}
    # Beginnings of earlier occurrences, seen from the end; `lengths`: how many tokens before each equal the last ones.
    starts = np.arange(1, len(text))
    lengths = np.zeros(len(text), np.int64)
    for n in range(most):
        starts = starts[starts + n < len(text)]
        starts = starts[text[starts + n] == text[n]]
        if not len(starts):
            break
        lengths[starts] = n + 1
    found: dict[int, float] = {}
    for at in np.flatnonzero(lengths >= allowed)[np.argsort(lengths[lengths >= allowed], kind="stable")].tolist():
        exponent = min(int(lengths[at]) - allowed, longest)
        found[int(text[at - 1])] = min(params.dry_multiplier * base**exponent, _MOST)
    return {token: penalty for token, penalty in found.items() if not breakers.within(token)}


def biases(tokens: Sequence[int], params: SamplingParams, breakers: Breakers) -> dict[int, float]:
    """Return what is added to logits after these tokens: logit_bias, and what DRY subtracts."""
    found = dict(params.biases)
    for token, penalty in penalties(tokens, params, breakers).items() if params.dry_multiplier else ():
        found[token] = found.get(token, 0.0) - penalty
    return found


def coin(seed: int, step: int) -> float:
    """Return a number in [0, 1) for a draw."""
    return int(np.random.Philox(key=[seed % 2**64, _COINS], counter=[step, 0, 0, 0]).random_raw()) / 2**64


def without_top(probs: np.ndarray, threshold: float, end_ids: Collection[int]) -> np.ndarray | None:
    """Return which tokens are kept of probabilities (V): not those of at least threshold, but the least likely of them.
    None if all are, because fewer than two are as likely, or because the text would lose its end."""
    top = np.flatnonzero(probs >= threshold)
    if len(top) < 2:
        return None
    removed = np.delete(top, np.lexsort((-top, probs[top]))[0])
    if any(i in end_ids for i in removed.tolist()):
        return None
    kept = probs > 0
    kept[removed] = False
    return kept
