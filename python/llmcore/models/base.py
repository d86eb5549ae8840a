"""What all language models share: the key/value cache, logits and loss from hidden states, initialisation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from llmcore import _core, autograd, nn, ops
from llmcore._tensor import Tensor, to_dtype

if TYPE_CHECKING:
    from llmcore.formats.gguf import GGUFFile


class KVCache:
    """Keys and values of B sequences, up to `capacity` positions each: one (B, capacity, kv_heads, head_size) pair a
    layer. `lengths` (B) int32 counts the positions that are filled; rows move on independently of each other."""

    def __init__(self, batch: int, capacity: int, layers: int, kv_heads: int, head_size: int, dtype: str):
        shape = [batch, capacity, kv_heads, head_size]
        self.capacity = capacity
        self.lengths = np.zeros(batch, np.int32)
        self._layers = [
            (_core.zeros(shape, to_dtype(dtype)), _core.zeros(shape, to_dtype(dtype))) for _ in range(layers)
        ]

    def row(self, b: int) -> KVCache:
        """Sequence b alone, in the same memory."""
        view = object.__new__(KVCache)
        view.capacity = self.capacity
        view.lengths = self.lengths[b : b + 1]
        view._layers = [(k.narrow(0, b, 1), v.narrow(0, b, 1)) for k, v in self._layers]
        return view

    def advance(self, count: int) -> np.ndarray:
        """Make room for `count` more positions in every row; returns the positions (B, count) int32 they take."""
        if self.lengths.max(initial=0) + count > self.capacity:
            raise ValueError(f"[cache] expected at most {self.capacity} positions, got {self.lengths.max() + count}")
        positions = self.lengths[:, None] + np.arange(count, dtype=np.int32)
        self.lengths += np.int32(count)
        return positions

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the keys and values of the positions that `advance` made room for, and attend to all up to them."""
        keys, values = self._layers[layer]
        ops.cache_append(keys, k, self.lengths)
        ops.cache_append(values, v, self.lengths)
        return ops.attention(q, keys, values, causal=True, lengths=self.lengths)


class CausalLM(nn.Module):
    """A decoder-only language model. Subclasses give `config`, `embeddings` and `hidden`.

    dtype is the compute dtype ("float32" or "bfloat16"); parameters are float32 always.
    """

    config: Any  # each architecture has its own
    dtype: str

    @classmethod
    def from_hf(cls, config: Mapping, weights: Mapping[str, np.ndarray], dtype: str) -> CausalLM:
        """From the Hugging Face format: config.json and tensors by name. ValueError, one line, for what does not fit."""
        raise NotImplementedError

    @classmethod
    def from_gguf(cls, file: GGUFFile, dtype: str) -> CausalLM:
        """From a GGUF file whose `general.architecture` is this one. ValueError, one line, for what does not fit."""
        raise NotImplementedError

    def to_hf(self) -> dict[str, np.ndarray]:
        """Weights by their names in the Hugging Face format."""
        raise NotImplementedError

    def hidden(self, ids, cache: KVCache | None = None) -> Tensor:
        """ids (B, T) -> (B, T, width), after the last norm. With a cache, ids continue its sequences."""
        raise NotImplementedError

    def output_weight(self) -> nn.Parameter:
        """(V, width): the matrix that turns hidden states into logits."""
        raise NotImplementedError

    def forward(self, ids, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """ids (B, T) integers -> logits (B, T, V) float32, or (B, 1, V) of the last position only.

        With a cache nothing is recorded for gradients: its keys and values are overwritten in place.
        """
        if cache is not None and autograd.grad_enabled():
            with autograd.no_grad():
                return self.forward(ids, cache, last_only)
        h = self.hidden(ids, cache)
        if last_only:
            h = Tensor(h.array.narrow(1, h.shape[1] - 1, 1))
        return ops.linear(h, self.output_weight(), out_dtype="float32")

    def loss(self, ids, targets, reduction: str = "mean") -> Tensor:
        """Cross entropy of targets (B, T) in nats, negative ones ignored. The (B, T, V) logits never exist at once."""
        return ops.linear_cross_entropy(self.hidden(ids), self.output_weight(), targets, reduction)

    def new_cache(self, batch: int, capacity: int) -> KVCache:
        """An empty cache for `batch` sequences of up to `capacity` positions (at most the context length)."""
        c = self.config
        kv_heads = getattr(c, "kv_heads", c.heads)
        return KVCache(batch, min(capacity, c.context), c.layers, kv_heads, c.head_size, self.dtype)

    def checked_ids(self, ids) -> np.ndarray:
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise ValueError(f"[model] expected integer ids (B, T), got {ids.dtype} {ids.shape}")
        if ids.shape[1] > self.config.context:
            raise ValueError(f"[model] expected at most {self.config.context} positions, got {ids.shape[1]}")
        vocab = self.config.vocab_size
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:  # before they are cut to 32 bits
            raise ValueError(f"[model] expected ids in [0, {vocab}), got {ids.min()} to {ids.max()}")
        return np.ascontiguousarray(ids, np.int32)


def check_shapes(expected: Iterable[tuple[str, tuple[int, ...]]], weights: Mapping[str, np.ndarray]) -> None:
    """Whether a file holds what a config promises, before anything of that size is allocated."""
    for name, shape in expected:
        if name not in weights:
            raise ValueError(f"[load] expected a tensor {name} {shape}, got none")
        if np.shape(weights[name]) != shape:
            raise ValueError(f"[load] expected {name} of shape {shape}, got {np.shape(weights[name])}")
        if weights[name].dtype.kind not in "fV" or weights[name].dtype.itemsize > 4:
            raise ValueError(f"[load] expected {name} float32, float16 or bfloat16, got {weights[name].dtype}")


def initialise(model: nn.Module, seed: int | None, layers: int, residual: tuple[str, ...], std: float = 0.02) -> None:
    """Draw all matrices from N(0, std²); those that write to the residual stream from N(0, std²/2L), so that its size
    does not grow with depth (Radford et al. 2019). Vectors keep their ones and zeros. Same seed, same bits; without a
    seed the matrices stay zeros, for weights that come from a file."""
    if seed is None:
        return
    rng = np.random.Generator(np.random.Philox(key=seed))
    for name, p in model.named_parameters():
        if p.ndim < 2:
            continue
        scale = std / math.sqrt(2 * layers) if name.endswith(residual) else std
        p.assign(rng.standard_normal(p.shape, np.float32) * np.float32(scale))


def check_config(op: str, config) -> None:
    """One line for sizes that cannot be: not positive, or heads that do not divide."""
    for name in ("vocab_size", "context", "width", "layers", "heads"):
        value = getattr(config, name)
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"[{op}] expected {name} a positive integer, got {value!r}")
    if not (math.isfinite(config.eps) and config.eps >= 0):
        raise ValueError(f"[{op}] expected eps >= 0, got {config.eps}")


def field(config: Mapping, name: str, kind, default=None, of: str = "config.json"):
    """A field of a config.json (or of the metadata that `of` names), checked. ValueError names it."""
    value = config.get(name, default)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise ValueError(f"[{of}] expected {name} a number that a float can hold, got a larger one") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"[{of}] expected {name} of type {kind.__name__}, got {value!r}")
    return value
