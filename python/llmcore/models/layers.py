"""Layers that most architectures share: attention with its variations, the gated feed-forward layer, and the positions of
a call's tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.models.kv_cache import KVCache
from llmcore.models.rope import Rotary


@dataclass(frozen=True)
class Positions:
    """The positions of a call's tokens (B, T): `positions` (B, T) int32 in the sequences of `cache`, or, without either,
    0..T−1. `end`: all positions are below it, but for a shift (`CausalLM.shift`). `starts` (B, T) int32, without a cache: where in its row each token's
    document begins; positions count from there, and attention sees nothing before it."""

    cache: KVCache | None
    positions: np.ndarray | None
    end: int
    starts: np.ndarray | None = None

    @classmethod
    def packed(cls, starts: np.ndarray, shift: Callable[[int], int]) -> Positions:
        """Return the positions of tokens (B, T) whose rows hold several documents, which do not see each other. shift: of a
        document of so many tokens."""
        starts = np.ascontiguousarray(starts, np.int32)
        columns = np.arange(starts.shape[1], dtype=np.int32)
        positions = columns - starts
        end = int(positions.max(initial=0)) + 1
        if at := shift(end):
            last = np.append(starts[:, 1:] != starts[:, :-1], np.ones((len(starts), 1), bool), axis=1)
            lasts = np.minimum.accumulate(np.where(last, columns, len(columns))[:, ::-1], axis=1)[:, ::-1]
            positions = positions + np.where(lasts - starts + 1 > at, np.int32(at), np.int32(0))
        return cls(None, np.ascontiguousarray(positions, np.int32), end, starts)

    @classmethod
    def of(cls, ids: np.ndarray, cache: KVCache | None, shift: Callable[[int], int]) -> Positions:
        """Return the positions of ids (B, T) that are sequences, or continue those of a cache, which makes room for them.
        shift: of a sequence of so many tokens."""
        B, T = ids.shape
        if cache is None:
            at = shift(T)
            positions = np.tile(np.arange(at, at + T, dtype=np.int32), (B, 1)) if at else None
            return cls(None, positions, T)
        positions = cache.advance(T)
        return cls(cache, positions, int(cache.lengths.max(initial=0)))

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor, **options) -> Tensor:
        """Attend causally from these tokens to those before them; options as of `ops.attention`."""
        if self.cache is None:
            return ops.attention(q, k, v, starts=self.starts, **options)
        return self.cache.attend(layer, q, k, v, **options)


class Attention(nn.Module):
    """Causal self-attention (B, T, width) -> (B, T, width) in one matrix for queries, keys and values, and one for the
    output; with `heads` a multiple of `kv_heads` (grouped queries).

    bias, out_bias: whether the two matrices have one. rotary: None for no rotation. norm: "head" normalises each query and
    key over its head, "width" all queries (and all keys) of a token together. window, scale, softcap: as of
    `ops.attention`.
    """

    def __init__(
        self,
        layer: int,
        width: int,
        heads: int,
        kv_heads: int,
        head_size: int,
        rotary: Rotary | None = None,
        bias: bool = False,
        out_bias: bool = False,
        norm: str | None = None,
        eps: float = 1e-6,
        window: int | None = None,
        scale: float | None = None,
        softcap: float | None = None,
    ):
        self.layer, self.heads, self.kv_heads, self.head_size = layer, heads, kv_heads, head_size
        self.rotary, self.norm = rotary, norm
        self.options = {"window": window, "scale": scale} | ({} if softcap is None else {"softcap": softcap})
        self.qkv = nn.Linear(width, (heads * head_size, kv_heads * head_size, kv_heads * head_size), bias)
        if norm is not None:
            q, k = (head_size, head_size) if norm == "head" else (heads * head_size, kv_heads * head_size)
            self.q_norm, self.k_norm = nn.RMSNorm(q, eps), nn.RMSNorm(k, eps)
        self.out = nn.Linear(heads * head_size, width, out_bias)

    def forward(self, x: Tensor, pos: Positions, residual: Tensor | None = None) -> Tensor:
        """Return residual + attention(x)."""
        B, T, _ = x.shape
        qkv = self.qkv(x)
        if pos.cache is not None and pos.positions is not None and self.rotary is not None and self.norm is None:
            packed = qkv.reshape(B, T, self.heads + 2 * self.kv_heads, self.head_size)
            tables = self.rotary.tables(pos.end, packed.device)
            y = pos.cache.attend_packed(self.layer, packed, tables, pos.positions, **self.options)
        else:
            q, k, v = self._split(qkv, pos)
            y = pos.attend(self.layer, q, k, v, **self.options)
        return self.out(y.reshape(B, T, self.heads * self.head_size), residual=residual)

    def project(self, x: Tensor, pos: Positions) -> list[Tensor]:
        """Return the queries, keys and values (B, T, heads, D) of x (B, T, width), the first two rotated."""
        return self._split(self.qkv(x), pos)

    def _split(self, qkv: Tensor, pos: Positions) -> list[Tensor]:
        B, T, _ = qkv.shape
        sizes = [self.heads, self.kv_heads, self.kv_heads]
        if self.norm is None:
            qkv = qkv.reshape(B, T, sum(sizes), self.head_size)
            # One call rotates the packed tensor; values pass through.
            return ops.split(self._rotated(qkv, pos, self.heads + self.kv_heads), sizes, dim=2)
        if self.norm == "width":
            q, k, _ = ops.split(qkv, [n * self.head_size for n in sizes], dim=-1)
            q = self.q_norm(q).reshape(B, T, self.heads, self.head_size)
            k = self.k_norm(k).reshape(B, T, self.kv_heads, self.head_size)
            v = ops.split(qkv.reshape(B, T, sum(sizes), self.head_size), sizes, dim=2)[2]
        else:
            q, k, v = ops.split(qkv.reshape(B, T, sum(sizes), self.head_size), sizes, dim=2)
            q, k = self.q_norm(q), self.k_norm(k)
        return [self._rotated(q, pos), self._rotated(k, pos), v]

    def _rotated(self, x: Tensor, pos: Positions, heads: int | None = None) -> Tensor:
        if self.rotary is None:
            return x
        return ops.rope(x, *self.rotary.tables(pos.end, x.device), pos.positions, heads=heads)


class GatedFeedForward(nn.Module):
    """down(act(gate(x)) · up(x)), with gate and up in one matrix (Shazeer 2020); activation: "swiglu" or "geglu"."""

    def __init__(self, width: int, size: int, activation: str = "swiglu"):
        self.activation = activation
        self.gate_up = nn.Linear(width, (size, size), bias=False)
        self.down = nn.Linear(size, width, bias=False)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Return residual + the layer's output."""
        return self.down(self.gate_up(x, activation=self.activation), residual=residual)
