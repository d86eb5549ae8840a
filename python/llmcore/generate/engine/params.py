"""What a request may ask of the sampler, checked once; the command line takes its flags and their help from here."""

from __future__ import annotations

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from llmcore._fields import flag, is_number, number, option
from llmcore._names import KnownFields
from llmcore.errors import ArgumentTypeError, Error

_LARGE = 1e30  # logits, biases and penalties beyond this would leave float32


@dataclass(frozen=True)
class SamplingParams(metaclass=KnownFields):
    """How one request samples its tokens; `llmcore.ops.sample` states the order and the exact meaning of the filters.
    DRY changes logits where logit_bias does, before the penalties; XTC comes after the filters.

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
    stop: Sequence[str] = option((), "Stop before this text; $'\\n' is a line end in a shell.")
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
    dry_multiplier: float = option(
        0.0,
        "DRY: subtract X · base ** (n − allowed length) from a token that repeats what came after the last n; 0 disables it.",
        metavar="X",
    )
    dry_base: float = option(1.75, "DRY: how much more with every token of a repetition.", metavar="X")
    dry_allowed_length: int = option(2, "DRY: repetitions of fewer tokens are left alone.")
    dry_range: int = option(0, "DRY: look at the last N tokens only; 0 looks at all.")
    dry_breakers: Sequence[str] = option(
        ("\n", ":", '"', "*"), "DRY: a repetition ends at this text [line end, colon, quotation mark, asterisk]."
    )
    xtc_probability: float = option(
        0.0,
        "XTC: leave out all likely tokens but the least likely of them, with probability P; 0 disables it.",
        metavar="P",
    )
    xtc_threshold: float = option(0.1, "XTC: tokens of at least this probability are likely.", metavar="P")
    stop_ids: Sequence[int] = ()
    banned: Sequence[int] = ()
    forced: Sequence[int] = ()
    top_logprobs: int = 0
    prompt_logprobs: bool = False

    def __post_init__(self):
        def check(name: str, ok: Callable[[Any], bool], expected: str, whole: bool = False) -> None:
            object.__setattr__(self, name, number("generate", name, getattr(self, name), ok, expected, whole))

        check("max_tokens", lambda v: 0 <= v < 2**31, "an integer >= 0", True)
        check("temperature", lambda v: 0 <= v <= _LARGE, ">= 0")
        check("top_k", lambda v: 0 <= v < 2**31, "an integer >= 0 (0 is off)", True)
        for name in ("top_p", "typical_p"):
            check(name, lambda v: 1 / _LARGE <= v <= 1, "in (0, 1] (1 is off)")
        check("min_p", lambda v: 0 <= v <= 1, "in [0, 1] (0 is off)")
        for name in ("no_repeat_ngram", "min_tokens", "top_logprobs"):
            check(name, lambda v: 0 <= v < 2**31, "an integer >= 0 (0 is off)", True)
        check("repetition_penalty", lambda v: 1 / _LARGE <= v <= _LARGE, "> 0 (1 is off)")
        for name in ("presence_penalty", "frequency_penalty"):
            check(name, lambda v: abs(v) <= _LARGE, "a finite number (0 is off)")
        check("dry_multiplier", lambda v: 0 <= v <= _LARGE, ">= 0 (0 is off)")
        check("dry_base", lambda v: 1 <= v <= _LARGE, ">= 1")
        check("dry_allowed_length", lambda v: 1 <= v < 2**31, "an integer >= 1", True)
        check("dry_range", lambda v: 0 <= v < 2**31, "an integer >= 0 (0 is all)", True)
        check("xtc_probability", lambda v: 0 <= v <= 1, "in [0, 1] (0 is off)")
        check("xtc_threshold", lambda v: 0 < v <= 1, "in (0, 1]")
        for name in ("ignore_eos", "logprobs", "prompt_logprobs"):
            flag("generate", name, getattr(self, name))
        for name in ("stop_ids", "banned", "forced"):
            ids = getattr(self, name)
            ids = ids.tolist() if hasattr(ids, "tolist") else ids  # of numpy, which --help does not load
            if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence) or not all(map(_is_id, ids)):
                raise Error("generate", expected=f"{name} a list of token ids", got=f"{getattr(self, name)!r:.100}")
            object.__setattr__(self, name, tuple(int(i) for i in ids))
        if not isinstance(self.logit_bias, (Mapping, type(None))) or not all(
            _is_id(i) and is_number(v) and v <= _LARGE for i, v in (self.logit_bias or {}).items()
        ):
            raise Error("generate", expected="logit_bias as {token id: number}", got=f"{self.logit_bias!r:.100}")
        for name in ("stop", "dry_breakers"):
            given = getattr(self, name)
            if isinstance(given, bytes) or not isinstance(given, (str, Sequence, type(None))):
                raise ArgumentTypeError("generate", expected=f"{name} a text or several", got=f"{given!r:.100}")
            texts = (given,) if isinstance(given, str) else tuple(given or ())
            if not all(isinstance(s, str) and s for s in texts):
                raise Error("generate", expected=f"{name} texts that are not empty", got=f"{given!r:.100}")
            object.__setattr__(self, name, texts)
        if self.seed is None:
            object.__setattr__(self, "seed", int.from_bytes(os.urandom(7), "little"))
        check("seed", lambda v: -(2**63) <= v < 2**64, "an integer of 64 bits", True)

    def check_ids(self, vocab_size: int) -> None:
        """ValueError for a token id that the model does not have."""
        for name in ("forced", "banned", "stop_ids", "logit_bias"):
            wrong = next((i for i in getattr(self, name) or () if i >= vocab_size), None)
            if wrong is not None:
                raise Error("generate", expected=f"{name} in [0, {vocab_size})", got=wrong)

    def numbered(self, i: int) -> SamplingParams:
        """Return the parameters of the i-th of several completions, which has a seed of its own."""
        assert self.seed is not None
        seed = self.seed + i
        return replace(self, seed=seed if seed < 2**64 else seed - 2**64)

    @cached_property
    def biases(self) -> dict[int, float]:
        """What is added to logits, without the biases that ban a token."""
        return {int(i): float(v) for i, v in (self.logit_bias or {}).items() if v >= -_LARGE}

    @cached_property
    def biased_out(self) -> tuple[int, ...]:
        """The tokens that logit_bias bans."""
        return tuple(int(i) for i, v in (self.logit_bias or {}).items() if v < -_LARGE)

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens change the logits."""
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1.0, 0.0, 0.0)

    @property
    def masks(self) -> bool:
        """Whether some tokens are forbidden at some step."""
        return bool(self.banned or self.biased_out or self.forced or self.min_tokens or self.no_repeat_ngram)


def _is_id(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool) and 0 <= int(value) < 2**31
