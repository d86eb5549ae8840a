"""Drawing the next token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from llmcore import _core
from llmcore._arrays import to_array
from llmcore._tensor import Tensor
from llmcore.errors import ArgumentTypeError, Error

_NAMES = ("temperature", "top_k", "top_p", "min_p", "seed", "step")
_TYPES = (np.float32, np.int32, np.float32, np.float32, np.int64, np.int64)


class Sample(NamedTuple):
    """What `sample` returns."""

    tokens: Tensor  # (B) int32
    logprobs: Tensor  # (B) float32: log-probability under softmax(logits), before temperature and filters
    probs: Tensor | None  # (B, V) float32: the distribution that was drawn from, when asked for


def sample(
    logits,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    seed=0,
    step=0,
    return_probs: bool = False,
    *,
    logit_bias=None,
    history=None,
    prompt_lengths=0,
    repetition_penalty=1.0,
    presence_penalty=0.0,
    frequency_penalty=0.0,
    typical_p=1.0,
    mask=None,
) -> Sample:
    """Draw one token from each row of logits (B, V).

    Every parameter is a number, or an array with one for each row. Order: mask, bias → penalties → temperature → top-k →
    top-p → min-p → typical → draw. temperature 0 takes the largest logit (lowest id on ties). top_k keeps exactly k tokens (0: off; lowest
    id wins ties). top_p renormalises and keeps a token iff the mass before it is < top_p − 1e-6 (1: off). min_p keeps
    p ≥ min_p · p_max (0: off). typical_p keeps the tokens whose −log p is nearest to the entropy, by the rule of top_p
    (1: off; Meister et al. 2023). The draw depends on the row's logits, history, seed and step (the number of the draw) only,
    never on its neighbours.

    logit_bias: {token: what is added to its logit}, −inf to exclude it, or a list of such, one for each row.
    history: the tokens of each row so far, a list of lists of which the first prompt_lengths are the prompt.
    repetition_penalty r turns the logit l of every token of the history into l / r where l > 0, else l · r, once (Keskar
    et al. 2019); a token c > 0 times in the output then loses c · frequency_penalty + presence_penalty (OpenAI's formula).

    mask (B, ceil(V / 32)) uint32: token i may be drawn where bit i % 32 of word i / 32 is set.

    NaN and −inf are never drawn, +inf counts as the largest number; a row without any other logit raises ValueError. The
    log-probability is NaN where the row holds NaN or +inf.
    """
    logits = to_array(logits)
    penalties: dict = {"typical_p": _each("typical_p", typical_p, np.float32)}
    if mask is not None:
        penalties["mask"] = to_array(mask)
    if history is not None:
        tokens, lengths = _padded(history)
        penalties |= {
            "history": tokens,
            "history_lengths": lengths,
            "prompt_lengths": _each("prompt_lengths", prompt_lengths, np.int32),
            "repetition_penalty": _each("repetition_penalty", repetition_penalty, np.float32),
            "presence_penalty": _each("presence_penalty", presence_penalty, np.float32),
            "frequency_penalty": _each("frequency_penalty", frequency_penalty, np.float32),
        }
    else:
        for penalty, off in ((repetition_penalty, 1.0), (presence_penalty, 0.0), (frequency_penalty, 0.0)):
            if penalty is not off and np.any(np.not_equal(penalty, off)):
                raise Error("sample", expected="a history for the penalties", got="None")
    if logit_bias is not None:
        rows = logits.shape[0] if logits.ndim else 0
        penalties["bias"] = bias_arrays([logit_bias] * rows if isinstance(logit_bias, Mapping) else logit_bias)
    try:
        drawn = _core.sample(logits, temperature, top_k, top_p, min_p, seed, step, return_probs, **penalties)
    except TypeError:  # not all of them are numbers, which are the usual case
        parameters = temperature, top_k, top_p, min_p, seed, step
        arrays = [_each(*p) for p in zip(_NAMES, parameters, _TYPES, strict=True)]
        drawn = _core.sample(logits, *arrays, want_probs=return_probs, **penalties)  # type: ignore[misc]
    tokens, logprobs, probs = drawn
    return Sample(Tensor(tokens), Tensor(logprobs), None if probs is None else Tensor(probs))


def _each(name: str, value, dtype):
    """A number, or an array with one for each row, as the core takes them."""
    kind = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return value
    whole = dtype != np.float32
    if kind is float and not whole:
        return value
    a = np.asarray(value)
    if a.dtype.kind not in ("iu" if whole else "iuf"):
        raise ArgumentTypeError("sample", expected=f"{name} {'an integer' if whole else 'a number'}", got=repr(value))
    # A seed may use all 64 bits, signed or not; a count must not wrap into another one.
    if dtype == np.int32 and a.size and int(a.max()) >= 2**31:
        raise Error("sample", expected=f"{name} below 2^31", got=a.max())
    a = np.ascontiguousarray(a, dtype) if a.ndim else a.astype(dtype)
    return _core.from_numpy(a) if a.ndim else a.item()


def _padded(rows) -> tuple[_core.Array, _core.Array]:
    """Lists of tokens as a matrix with their lengths."""
    rows = [np.asarray(r) for r in rows]
    for r in rows:
        if r.ndim != 1 or (r.size and r.dtype.kind not in "iu"):
            raise ArgumentTypeError(
                "sample", expected="history as a list of tokens for each row", got=f"{r.tolist()!r}"
            )
    lengths = np.array([len(r) for r in rows], np.int32)
    tokens = np.zeros((len(rows), lengths.max(initial=0)), np.int32)
    for to, r in zip(tokens, rows, strict=True):
        to[: len(r)] = np.clip(r, -1, 2**31 - 1)  # what is out of range stays so
    return _core.from_numpy(tokens), _core.from_numpy(lengths)


def bias_arrays(rows: Sequence[Mapping[int, float] | None]) -> tuple[_core.Array, _core.Array, _core.Array]:
    """The biases of each row as (offsets, ids, values), for the core."""
    offsets = np.cumsum([0, *(len(r or ()) for r in rows)], dtype=np.int64)
    ids = np.array([i for r in rows for i in r or ()])
    values = np.array([v for r in rows for v in (r or {}).values()], np.float32)
    if ids.size and ids.dtype.kind not in "iu":
        raise ArgumentTypeError("sample", expected="tokens of logit_bias as integers", got=f"{ids.tolist()!r}")
    ids = np.clip(ids, -1, 2**31 - 1).astype(np.int32)
    return _core.from_numpy(offsets), _core.from_numpy(ids), _core.from_numpy(values)
