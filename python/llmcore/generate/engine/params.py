"""The sampling parameters of a request, checked once."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SamplingParams:
    """How one request samples its tokens; `llmcore.ops.sample` states the order and the exact meaning of the filters.

    max_tokens: how many to generate at most (fewer if the context ends).
    temperature: 0 takes the most likely token. top_k: 0 is off. top_p: 1 is off. min_p: 0 is off.
    repetition_penalty: 1 is off; presence_penalty and frequency_penalty: 0 is off; logit_bias: {token id: added to its logit}.
    seed: an integer; None draws one from the operating system.
    stop: texts that end the completion and are not part of it; stop_ids: the same for tokens. ignore_eos: continue past the
    end-of-text token. min_tokens: neither that token nor stop_ids are drawn before so many tokens.
    typical_p: 1 is off. no_repeat_ngram: n forbids repeating any sequence of n tokens, those of the prompt included; 0 is
    off. banned: tokens that are never drawn. forced: tokens that the completion begins with.
    logprobs: keep the log-probability of every token; top_logprobs: also those of so many likeliest tokens;
    prompt_logprobs: also those of the prompt's tokens.
    """

    max_tokens: int = 128
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int | None = None
    stop: Sequence[str] = ()
    ignore_eos: bool = False
    logprobs: bool = False
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] | None = None
    typical_p: float = 1.0
    no_repeat_ngram: int = 0
    min_tokens: int = 0
    stop_ids: Sequence[int] = ()
    banned: Sequence[int] = ()
    forced: Sequence[int] = ()
    top_logprobs: int = 0
    prompt_logprobs: bool = False

    def __post_init__(self):
        def number(name, ok, expected, kinds: Any = numbers.Real):  # NumPy's scalars are numbers too
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise TypeError(f"[generate] expected {name} {expected}, got {value!r}")
            if not ok(value):
                raise ValueError(f"[generate] expected {name} {expected}, got {value}")
            object.__setattr__(self, name, int(value) if kinds is numbers.Integral else float(value))

        number("max_tokens", lambda v: v >= 0, "an integer >= 0", numbers.Integral)
        number("temperature", lambda v: v >= 0 and math.isfinite(v), ">= 0")
        number("top_k", lambda v: 0 <= v < 2**31, "an integer >= 0 (0 is off)", numbers.Integral)
        number("top_p", lambda v: 0 < v <= 1, "in (0, 1] (1 is off)")
        number("min_p", lambda v: 0 <= v <= 1, "in [0, 1] (0 is off)")
        number("typical_p", lambda v: 0 < v <= 1, "in (0, 1] (1 is off)")
        for name in ("no_repeat_ngram", "min_tokens", "top_logprobs"):
            number(name, lambda v: 0 <= v < 2**31, "an integer >= 0 (0 is off)", numbers.Integral)
        for name in ("stop_ids", "banned", "forced"):
            ids = getattr(self, name)
            if (
                isinstance(ids, str)
                or not isinstance(ids, Sequence)
                or not all(isinstance(i, numbers.Integral) and 0 <= i < 2**31 for i in ids)
            ):
                raise ValueError(f"[generate] expected {name} a list of token ids, got {ids!r:.100}")
            object.__setattr__(self, name, tuple(int(i) for i in ids))
        number("repetition_penalty", lambda v: v > 0 and math.isfinite(v), "> 0 (1 is off)")
        number("presence_penalty", math.isfinite, "a finite number (0 is off)")
        number("frequency_penalty", math.isfinite, "a finite number (0 is off)")
        if not isinstance(self.logit_bias, (Mapping, type(None))) or not all(
            isinstance(i, numbers.Integral) and i >= 0 and isinstance(v, numbers.Real) and v < math.inf
            for i, v in (self.logit_bias or {}).items()
        ):
            raise ValueError(f"[generate] expected logit_bias as {{token id: number}}, got {self.logit_bias!r}")
        if not isinstance(self.stop, (str, Sequence, type(None))):
            raise TypeError(f"[generate] expected stop a text or several, got {self.stop!r}")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if not all(isinstance(s, str) and s for s in stop):
            raise ValueError(f"[generate] expected stop texts that are not empty, got {self.stop!r}")
        object.__setattr__(self, "stop", stop)
        if self.seed is None:
            object.__setattr__(self, "seed", int.from_bytes(os.urandom(7), "little"))
        number("seed", lambda v: -(2**63) <= v < 2**63, "a 64-bit integer", numbers.Integral)

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def masks(self) -> bool:
        """Whether some tokens are forbidden at some step."""
        return bool(self.banned or self.forced or self.min_tokens or self.no_repeat_ngram)
