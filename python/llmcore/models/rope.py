"""Rotary position embeddings (Su et al. 2021): tables of cosines and sines, and the ways in which models stretch them to
longer contexts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmcore import _core
from llmcore.errors import Error
from llmcore.models.config import read

_GGUF_KINDS = ("none", "linear", "yarn")


@dataclass(frozen=True)
class RopeScaling:
    """How frequencies change for a context of `factor` times that of pretraining, `original_context`.

    kind "linear": all are divided by factor (Chen et al. 2023). "llama3": long wavelengths are divided, short ones kept,
    and those in between (from low_freq_factor to high_freq_factor turns over the original context) blended (Llama 3.1).
    "yarn": the same idea with a ramp from beta_fast to beta_slow turns, and cos and sin multiplied by attention_factor
    (Peng et al. 2023).
    """

    kind: str
    factor: float
    original_context: int
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float = 1.0
    truncate: bool = True  # yarn: round the ends of the ramp to whole dimensions

    def __post_init__(self) -> None:
        if self.kind not in ("linear", "llama3", "yarn"):
            raise Error("RopeScaling", expected="kind linear, llama3 or yarn", got=repr(self.kind))
        if not (math.isfinite(self.factor) and self.factor > 0) or self.original_context < 1:
            raise Error(
                "RopeScaling",
                expected="factor > 0 and original_context >= 1",
                got=f"{self.factor} and {self.original_context}",
            )
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor < math.inf:
            raise Error(
                "RopeScaling",
                expected="0 < low_freq_factor < high_freq_factor",
                got=f"{self.low_freq_factor} and {self.high_freq_factor}",
            )
        if self.kind == "yarn" and not (0 < self.beta_slow < self.beta_fast < math.inf and self.attention_factor > 0):
            raise Error(
                "RopeScaling", expected="0 < beta_slow < beta_fast", got=f"{self.beta_slow} and {self.beta_fast}"
            )

    @classmethod
    def from_hf(cls, rope: Mapping | None, context: int) -> RopeScaling | None:
        """Read rope_scaling (or rope_parameters) of config.json. ValueError names an unsupported kind."""
        if rope is None:
            return None
        if not isinstance(rope, Mapping):
            raise Error("config.json", expected="rope_scaling an object", got=f"{rope!r:.100}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in ("default", "mrope", None):  # mrope: three positions per token, which are one where all are text
            return None
        if kind not in ("linear", "llama3", "yarn"):
            raise Error("config.json", expected="rope_scaling of type default, linear, llama3 or yarn", got=repr(kind))
        values: dict[str, Any] = {
            "kind": kind,
            "factor": read(rope, "factor", float),
            "original_context": read(rope, "original_max_position_embeddings", int, context),
        }
        if kind == "llama3":
            values |= {name: read(rope, name, float) for name in ("low_freq_factor", "high_freq_factor")}
        if kind == "yarn":
            values |= {
                name: read(rope, name, float, default) for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
            }
            values["truncate"] = read(rope, "truncate", bool, True)
            values["attention_factor"] = read(rope, "attention_factor", float, None) or _yarn_attention_factor(rope)
        return cls(**values)

    def to_hf(self) -> dict[str, Any]:
        """Return the rope_scaling of config.json."""
        rope: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind != "linear":
            rope["original_max_position_embeddings"] = self.original_context
        if self.kind == "llama3":
            rope |= {"low_freq_factor": self.low_freq_factor, "high_freq_factor": self.high_freq_factor}
        if self.kind == "yarn":
            rope |= {
                "beta_fast": self.beta_fast,
                "beta_slow": self.beta_slow,
                "attention_factor": self.attention_factor,
                "truncate": self.truncate,
            }
        return rope

    @classmethod
    def from_gguf(cls, metadata: Mapping, architecture: str, context: int) -> RopeScaling | None:
        """Read `<architecture>.rope.scaling.*`. (GGUF stores Llama 3's as a tensor: see `Rotary.frequency_factors`.)"""

        def value(name: str, kind: type, absent: Any = None) -> Any:
            return read(metadata, f"{architecture}.rope.scaling.{name}", kind, absent, "gguf")

        kind = value("type", str, "none")
        if kind not in _GGUF_KINDS:
            raise Error(
                "gguf", expected=f"{architecture}.rope.scaling.type one of {', '.join(_GGUF_KINDS)}", got=repr(kind)
            )
        factor = value("factor", float, 1.0)
        if kind == "none":
            return None
        scaling: dict[str, Any] = {"rope_type": kind, "factor": factor}
        scaling["factor"] = float(str(np.float32(factor)))
        scaling["original_max_position_embeddings"] = value("original_context_length", int, context)
        return cls.from_hf(scaling, context)

    def to_gguf(self, architecture: str) -> dict[str, Any]:
        """Return `<architecture>.rope.scaling.*`. ValueError for a scaling that GGUF cannot express."""
        if self.kind == "llama3":
            return {}
        own = RopeScaling.from_hf(
            {
                "rope_type": self.kind,
                "factor": self.factor,
                "original_max_position_embeddings": self.original_context,
            },
            self.original_context,
        )
        if self != own:
            raise Error("gguf", expected="yarn with its usual betas and attention factor", got="others")
        prefix = f"{architecture}.rope.scaling"
        return {
            f"{prefix}.type": self.kind,
            f"{prefix}.factor": self.factor,
            f"{prefix}.original_context_length": self.original_context,
        }


def _yarn_attention_factor(rope: Mapping) -> float:
    factor = read(rope, "factor", float)
    mscale, all_dimensions = read(rope, "mscale", float, None), read(rope, "mscale_all_dim", float, None)

    def scale(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    return scale(mscale) / scale(all_dimensions) if mscale and all_dimensions else scale(1.0)


class Rotary:
    """Tables of cos and sin for heads whose first `size` dimensions rotate. They grow as positions are needed, because a
    config may promise any context."""

    def __init__(self, size: int, base: float, context: int, scaling: RopeScaling | None = None):
        self.size, self.base, self.context, self.scaling = size, base, context, scaling
        self._tables: dict[str, tuple[_core.Array, _core.Array]] = {}

    def tables(self, positions: int, device: str = "cpu") -> tuple[_core.Array, _core.Array]:
        """Return cos and sin (at least `positions`, size / 2) float32 of position · frequency, on a device."""
        found = self._tables.get(device)
        if found is None or found[0].shape[0] < positions:
            rows = min(max(1 << (positions - 1).bit_length(), 256), max(self.context, positions))
            angle = np.arange(rows, dtype=np.float64)[:, None] * self.frequencies()
            scale = self.scaling.attention_factor if self.scaling else 1.0
            cos, sin = (np.asarray(f(angle) * scale, np.float32) for f in (np.cos, np.sin))
            found = _core.from_numpy(cos).to(device), _core.from_numpy(sin).to(device)
            self._tables[device] = found
        return found

    def frequencies(self) -> np.ndarray:
        """Return radians per position, (size / 2) float64: base^(−2i / size), scaled."""
        plain = self.base ** (-np.arange(0, self.size, 2, dtype=np.float64) / self.size)
        s = self.scaling
        if s is None:
            return plain
        if s.kind == "linear":
            return plain / s.factor
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
