"""Rotary position embeddings (Su et al. 2021): tables of cosines and sines."""

from __future__ import annotations

import math

import numpy as np

from llmcore import _core
from llmcore.models.rope_scaling import RopeScaling


class Rotary:
    """Tables of cos and sin for heads whose first `size` dimensions rotate. They grow as positions are needed, because a
    config may promise any context.

    Longrope has two: rows [0, original_context) of short factors, and after them those of long factors, which the
    positions of longer sequences reach by `shift`."""

    def __init__(self, size: int, base: float, context: int, scaling: RopeScaling | None = None):
        self.size, self.base, self.context, self.scaling = size, base, context, scaling
        self._tables: dict[str, tuple[_core.Array, _core.Array]] = {}
        if scaling is not None:
            scaling.check_size(size)

    def tables(self, positions: int, device: str = "cpu") -> tuple[_core.Array, _core.Array]:
        """Return cos and sin (at least `positions` + the largest shift, size / 2) float32 of position · frequency, on a
        device."""
        found, short = self._tables.get(device), shift(self.scaling, self.context)
        if found is None or found[0].shape[0] < short + positions:
            rows = min(max(1 << (positions - 1).bit_length(), 256), max(self.context, positions))
            angle = np.arange(rows, dtype=np.float64)[:, None] * self.frequencies()
            if short:
                within = np.arange(short, dtype=np.float64)[:, None] * self.frequencies(short=True)
                angle = np.concatenate([within, angle])
            scale = self.scaling.attention_factor if self.scaling else 1.0
            cos, sin = (np.asarray(f(angle) * scale, np.float32) for f in (np.cos, np.sin))
            found = _core.from_numpy(cos).to(device), _core.from_numpy(sin).to(device)
            self._tables[device] = found
        return found

    def frequencies(self, short: bool = False) -> np.ndarray:
        """Return radians per position, (size / 2) float64: base^(−2i / size), scaled; short: with longrope's short factors
        instead of the long ones."""
        plain = self.base ** (-np.arange(0, self.size, 2, dtype=np.float64) / self.size)
        s = self.scaling
        if s is None:
            return plain
        if s.kind == "linear":
            return plain / s.factor
        if s.kind == "longrope":
            return plain / np.array(s.short_factor if short else s.long_factor)
        if s.kind == "proportional":
            return np.where(np.arange(self.size // 2) < int(s.part * self.size // 2), plain / s.factor, 0.0)
        turns = s.original_context * plain / (2 * math.pi)  # over the original context
        if s.kind == "llama3":
            keep = np.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0, 1)
        else:
            keep = 1 - self._yarn_ramp(s)
        return plain * (keep + (1 - keep) / s.factor)

    def frequency_factors(self) -> np.ndarray:
        """Return GGUF's tensor `rope_freqs.weight`, the divisors of the plain frequencies, (size / 2) float32."""
        plain = self.base ** (-np.arange(0, self.size, 2, dtype=np.float64) / self.size)
        return (plain / self.frequencies()).astype(np.float32)

    def _yarn_ramp(self, s: RopeScaling) -> np.ndarray:
        def dimension(turns: float) -> float:  # that turns so often over the original context
            return self.size * math.log(s.original_context / (turns * 2 * math.pi)) / (2 * math.log(self.base))

        low, high = dimension(s.beta_fast), dimension(s.beta_slow)
        if s.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        return np.clip((np.arange(self.size // 2) - low) / (high - low or 1e-3), 0, 1)


def shift(scaling: RopeScaling | None, tokens: int) -> int:
    """Return how many rows of the rotation tables a sequence of so many tokens skips: those of longrope's short factors, if
    it is longer than the original context."""
    if scaling is None or scaling.kind != "longrope" or tokens <= scaling.original_context:
        return 0
    return scaling.original_context
