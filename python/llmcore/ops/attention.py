"""Softmax attention."""

from __future__ import annotations

from llmcore import _core, autograd
from llmcore._arrays import check_integer, check_number, to_array
from llmcore._tensor import Tensor, as_tensor
from llmcore.errors import Error


def attention(
    q,
    k,
    v,
    causal: bool = True,
    scale: float | None = None,
    lengths=None,
    window: int | None = None,
    starts=None,
    softcap: float | None = None,
    cache: _core.CacheBlocks | None = None,
) -> Tensor:
    """softmax(scale · q kᵀ + mask) v.

    q (B, T, H, D), k and v (B, S, Hkv, D), H a multiple of Hkv (grouped-query attention, Ainslie et al. 2023); the
    scores never exist as a whole (Dao et al. 2022). scale defaults to 1/√D. Causal: query t stands at key position
    S − T + t and sees keys up to there. lengths (B) int32: keys valid in each row of a cache, counting the queries' own;
    then query t stands at lengths[b] − T + t. Returns (B, T, H, D). Not differentiable with `lengths`.
    A nan or infinity among the values of hidden keys may reach queries nearby; those of keys never do. Sums are float32
    and divided at the end: scores from 2³¹ on in size, and values whose sum overflows, come out as nan or infinity.

    Causal only, and keys outside cost nothing: window: a query sees the last `window` keys, its own among them (sliding
    window, Beltagy et al. 2020). starts (B, T) integers: the first key position that each query sees, at most its own;
    the start of its document, where several are packed in one row and must not see each other.

    softcap: scores s become softcap · tanh(s / softcap) before the mask (Gemma 2).

    cache: k and v are pools of blocks (N, 64, Hkv, D), and row b's keys lie in the blocks that `_core.CacheBlocks` (blocks
    (B, n) int32) names, one after the other (paged attention, Kwon et al. 2023); with its scales (N, 64, Hkv) they are
    uint8 and stand for scale · (q − 128). The same bits as from keys that lie side by side.
    """
    q, k, v = as_tensor(q), as_tensor(k), as_tensor(v)
    if scale is not None:
        scale = check_number("attention", "scale", scale)
    if window is not None:
        window = check_integer("attention", "window", window)
    if softcap is not None:
        softcap = check_number("attention", "softcap", softcap)
    taped = autograd.needs_grad(q, k, v)
    if lengths is not None and taped:
        raise Error("attention", expected="lengths=None where gradients are needed", got="lengths")
    lengths = None if lengths is None else to_array(lengths)
    starts = None if starts is None else to_array(starts)
    if cache is not None and lengths is None:
        raise Error("attention", expected="lengths with a cache", got="None")
    y, lse = _core.attention(q.array, k.array, v.array, scale, causal, lengths, window, starts, softcap, cache)
    out = Tensor(y)
    if taped:
        saved = q.array, k.array, v.array, y, lse
        autograd.record(
            [out], [q, k, v], lambda dy: _core.attention_backward(dy, *saved, scale, causal, window, starts, softcap)
        )
    return out
