"""What a request may ask of the sampler, checked once; the command line takes its flags and their help from here."""

from __future__ import annotations

import math
import numbers
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmcore._fields import option
from llmcore.errors import ArgumentTypeError, Error


@dataclass(frozen=True)
class SamplingParams:
    """How one request samples its tokens; `llmcore.ops.sample` states the order and the exact meaning of the filters.

    None as seed draws one from the operating system. stop texts and the tokens of stop_ids end the completion and are not
    part of it; before min_tokens, neither the end-of-text token nor one of stop_ids is drawn. ignore_eos continues past the
    end-of-text token. no_repeat_ngram counts the prompt too. banned tokens are never drawn; forced ones begin the
    completion. logprobs keeps the log-probability of every token, top_logprobs those of that many most likely ones too,
    prompt_logprobs those of the prompt's tokens.
    """

    max_tokens: int = option(128, "Maximum number of tokens to write; fewer if the context ends.")
    temperature: float = option(
        0.8, "Sampling temperature: 0 always takes the most likely token, higher values vary more.", metavar="T"
    )
    top_k: int = option(0, "Keep the N most likely tokens; 0 disables it.")
    top_p: float = option(
        1.0, "Keep the most likely tokens up to a total probability of P; 1 disables it.", metavar="P"
    )
    min_p: float = option(
        0.0, "Keep the tokens at least P times as likely as the most likely one; 0 disables it.", metavar="P"
    )
    seed: int | None = option(None, "Random seed: the same seed gives the same text.")
    stop: Sequence[str] = option((), "Stop before this text.")
    ignore_eos: bool = False
    logprobs: bool = False
    repetition_penalty: float = option(
        1.0, "Above 1, tokens that occurred before, in the prompt too, become less likely; 1 disables it.", metavar="R"
    )
    presence_penalty: float = option(
        0.0, "Subtract P from the logit of every token written before; 0 disables it.", metavar="P"
    )
    frequency_penalty: float = option(
        0.0, "Subtract F from a token's logit for each time it was written before; 0 disables it.", metavar="F"
    )
    logit_bias: Mapping[int, float] | None = option(
        None, "Add BIAS to the logit of token ID; -inf bans it.", metavar="ID=BIAS"
    )
    typical_p: float = option(
        1.0, "Keep the most typical tokens up to a total probability of P; 1 disables it.", metavar="P"
    )
    no_repeat_ngram: int = option(0, "Never write the same N tokens in a row twice; 0 disables it.")
    min_tokens: int = option(0, "Minimum number of tokens to write.")
    stop_ids: Sequence[int] = ()
    banned: Sequence[int] = ()
    forced: Sequence[int] = ()
    top_logprobs: int = 0
    prompt_logprobs: bool = False

    def __post_init__(self):
        def number(name, ok, expected, kinds: Any = numbers.Real):  # NumPy's scalars are numbers too
            value: Any = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ArgumentTypeError("generate", expected=f"{name} {expected}", got=repr(value))
            if not ok(value):
                raise Error("generate", expected=f"{name} {expected}", got=value)
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
                raise Error("generate", expected=f"{name} a list of token ids", got=f"{ids!r:.100}")
            object.__setattr__(self, name, tuple(int(i) for i in ids))
        number("repetition_penalty", lambda v: v > 0 and math.isfinite(v), "> 0 (1 is off)")
        number("presence_penalty", math.isfinite, "a finite number (0 is off)")
        number("frequency_penalty", math.isfinite, "a finite number (0 is off)")
        if not isinstance(self.logit_bias, (Mapping, type(None))) or not all(
            isinstance(i, numbers.Integral) and i >= 0 and isinstance(v, numbers.Real) and v < math.inf
            for i, v in (self.logit_bias or {}).items()
        ):
            raise Error("generate", expected="logit_bias as {token id: number}", got=repr(self.logit_bias))
        if not isinstance(self.stop, (str, Sequence, type(None))):
            raise ArgumentTypeError("generate", expected="stop a text or several", got=repr(self.stop))
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())
        if not all(isinstance(s, str) and s for s in stop):
            raise Error("generate", expected="stop texts that are not empty", got=repr(self.stop))
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
