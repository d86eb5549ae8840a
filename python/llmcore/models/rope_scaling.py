"""The ways in which models stretch rotary positions to longer contexts, as config.json and GGUF describe them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.formats.quantization import dequantize
from llmcore.models.config import REQUIRED, read

# What each kind reads of a rope_scaling, beside what all have.
_FIELDS: Mapping[str, tuple[str, ...]] = {
    "linear": (),
    "llama3": ("low_freq_factor", "high_freq_factor"),
    "yarn": ("beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"),
    "longrope": ("short_factor", "long_factor", "attention_factor"),
    "proportional": (),
}
_ANY = (
    *("type", "rope_type", "rope_theta", "factor", "original_max_position_embeddings", "partial_rotary_factor"),
    # Positions in time, height and width, which are one where all tokens are text; and a remark.
    *("mrope_section", "mrope_interleaved", "interleaved", "finetuned"),
)
_KNOWN = frozenset(_ANY).union(*_FIELDS.values())
_PLAIN = ("default", "mrope", None)
_SAME = {"su": "longrope"}  # as the first Phi-3 files call it
_GGUF_KINDS = ("none", "linear", "yarn", "longrope")
_GGUF_YARN = (("yarn_beta_fast", "beta_fast", 32.0), ("yarn_beta_slow", "beta_slow", 1.0))
_LARGEST = 1e6  # of any factor
_LONGEST_SHORT = 1 << 20  # positions of longrope's short factors, whose table is made at once
GGUF_FACTORS = {"long_factor": "rope_factors_long.weight", "short_factor": "rope_factors_short.weight"}


@dataclass(frozen=True)
class RopeScaling:
    """How frequencies change for a context of `factor` times that of pretraining, `original_context`.

    kind "linear": all are divided by factor (Chen et al. 2023). "llama3": long wavelengths are divided, short ones kept,
    and those in between (from low_freq_factor to high_freq_factor turns over the original context) blended (Llama 3.1).
    "yarn": the same idea with a ramp from beta_fast to beta_slow turns, and cos and sin multiplied by attention_factor
    (Peng et al. 2023). "longrope": each is divided by its own factor, of short_factor in sequences of up to
    original_context tokens and of long_factor in longer ones, from their first token on; cos and sin are multiplied by
    attention_factor in both (Ding et al. 2024). "proportional": the first `part` of the frequencies turn, divided by factor, and the rest do not.
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
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    part: float = 1.0
    kinds: ClassVar[tuple[str, ...]] = tuple(_FIELDS)

    def __post_init__(self) -> None:
        if self.kind not in _FIELDS:
            raise Error("RopeScaling", expected=f"kind {_choice(_FIELDS)}", got=repr(self.kind))
        longest = _LONGEST_SHORT if self.kind == "longrope" else 2**31 - 1
        if not 1 / _LARGEST <= self.factor <= _LARGEST or not 1 <= self.original_context <= longest:
            raise Error(
                "RopeScaling",
                expected=f"factor > 0 and at most {_LARGEST:g}, original_context >= 1 and at most {longest}",
                got=f"{self.factor} and {self.original_context!r:.40}",
            )
        if not 1 / _LARGEST <= self.attention_factor <= _LARGEST:
            raise Error(
                "RopeScaling", expected=f"attention_factor > 0 and at most {_LARGEST:g}", got=self.attention_factor
            )
        if self.kind == "llama3" and not 0 < self.low_freq_factor < self.high_freq_factor < math.inf:
            raise Error(
                "RopeScaling",
                expected="0 < low_freq_factor < high_freq_factor",
                got=f"{self.low_freq_factor} and {self.high_freq_factor}",
            )
        if self.kind == "yarn" and not 0 < self.beta_slow < self.beta_fast < math.inf:
            raise Error(
                "RopeScaling", expected="0 < beta_slow < beta_fast", got=f"{self.beta_slow} and {self.beta_fast}"
            )
        if self.kind == "longrope":
            for name in GGUF_FACTORS:
                if not getattr(self, name) or not all(1 / _LARGEST <= f <= _LARGEST for f in getattr(self, name)):
                    raise Error(
                        "RopeScaling", expected=f"{name} of numbers above 0", got=f"{getattr(self, name)!r:.60}"
                    )
        if self.kind == "proportional" and not 0 < self.part <= 1:
            raise Error("RopeScaling", expected="partial_rotary_factor in (0, 1]", got=self.part)

    def check_size(self, size: int) -> None:
        """Raise ValueError unless the factors are those of `size` dimensions that rotate."""
        for name in GGUF_FACTORS if self.kind == "longrope" else ():
            if (got := len(getattr(self, name))) != size // 2:
                raise Error("config.json", expected=f"rope_scaling: {name} of {size // 2} numbers", got=got)

    def context(self, stated: int) -> int:
        """Return the context of a config.json whose max_position_embeddings is `stated`.

        Model cards have a factor added for "yarn" and "linear" and leave the number of pretraining as it is, so that the
        context is the larger one."""
        scaled = self.factor * self.original_context
        return max(stated, int(min(scaled, 2**31 - 1))) if self.kind in ("yarn", "linear") else stated

    @classmethod
    def from_hf(cls, rope: Mapping | None, context: int) -> RopeScaling | None:
        """Read rope_scaling (or rope_parameters) of config.json; context: its max_position_embeddings. ValueError names an
        unsupported kind or field."""
        if rope is None:
            return None
        if not isinstance(rope, Mapping):
            raise Error("config.json", expected="rope_scaling an object", got=f"{rope!r:.100}")
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in _PLAIN:
            kind = "default"
        elif kind == "dynamic":
            raise Error(
                "config.json",
                expected="rope_scaling of a type whose rotations do not change with every token (without it, the model is "
                f"the same in texts of up to {context} tokens)",
                got="'dynamic'",
            )
        elif not isinstance(kind, str) or _SAME.get(kind, kind) not in _FIELDS:
            known = _choice(["default", *_FIELDS])
            raise Error("config.json", expected=f"rope_scaling of type {known}", got=f"{kind!r:.60}")
        for name in sorted(rope.keys() - _KNOWN):
            if rope[name] not in (None, False, [], {}):
                raise Error(
                    "config.json",
                    expected=f"rope_scaling of type {kind} without {name!r:.60}, which is unknown",
                    got=f"{rope[name]!r:.60}",
                )
        if kind == "default":
            return None
        kind = _SAME.get(kind, kind)
        original = read(rope, "original_max_position_embeddings", int, context)
        factor = read(rope, "factor", float, None if kind in ("yarn", "longrope", "proportional") else REQUIRED)
        if factor is None:
            factor = min(context, 2**31) / original if kind != "proportional" and original > 0 else 1.0
        values: dict[str, Any] = {"kind": kind, "factor": factor, "original_context": original}
        if kind == "llama3":
            values |= {name: read(rope, name, float) for name in ("low_freq_factor", "high_freq_factor")}
        if kind == "yarn":
            values |= {
                name: read(rope, name, float, None) or default
                for name, default in (("beta_fast", 32.0), ("beta_slow", 1.0))
            }
            values["truncate"] = read(rope, "truncate", bool, True)
        if kind == "longrope":
            values |= {name: _numbers(rope, name) for name in GGUF_FACTORS}
        if kind in ("yarn", "longrope"):
            own = read(rope, "attention_factor", float, None)
            usual = _yarn_attention_factor(rope, factor) if kind == "yarn" else long_attention_factor(factor, original)
            values["attention_factor"] = usual if own is None else own
        if kind == "proportional":
            values["part"] = read(rope, "partial_rotary_factor", float, 1.0)
        return cls(**values)

    def to_hf(self, context: int) -> dict[str, Any]:
        """Return the rope_scaling of config.json, for a model of this context."""
        rope: dict[str, Any] = {"rope_type": self.kind, "factor": self.factor}
        if self.kind in ("llama3", "yarn", "longrope") or context not in (self.original_context, self.context(1)):
            rope["original_max_position_embeddings"] = self.original_context
        if self.kind == "proportional":
            rope["partial_rotary_factor"] = self.part
        for name in _FIELDS[self.kind]:
            if hasattr(self, name):
                value = getattr(self, name)
                rope[name] = list(value) if isinstance(value, tuple) else value
        return rope

    @classmethod
    def from_gguf(cls, file: GGUFFile, architecture: str, context: int) -> RopeScaling | None:
        """Read `<architecture>.rope.scaling.*`, and longrope's factors. (GGUF stores Llama 3's as a tensor: see
        `Rotary.frequency_factors`.)"""

        def value(name: str, kind: type, absent: Any = None) -> Any:
            found = read(file.metadata, f"{architecture}.rope.scaling.{name}", kind, absent, "gguf")
            return float(str(np.float32(found))) if isinstance(found, float) else found

        kind = value("type", str, "none")
        if kind not in _GGUF_KINDS:
            raise Error("gguf", expected=f"{architecture}.rope.scaling.type {_choice(_GGUF_KINDS)}", got=repr(kind))
        scaling: dict[str, Any] = {"factor": value("factor", float, 1.0)}
        scaling["original_max_position_embeddings"] = original = value("original_context_length", int, context)
        attention = value("attn_factor", float, 1.0)
        tensors = {name: file.tensors.get(tensor) for name, tensor in GGUF_FACTORS.items()}
        if any(t is not None for t in tensors.values()):  # whatever the type says
            for name, tensor in tensors.items():
                if tensor is None:
                    raise Error("gguf", expected=f"a tensor {GGUF_FACTORS[name]}", got="none")
                scaling[name] = [float(str(f)) for f in dequantize(tensor).reshape(-1).astype(np.float32)]
            if scaling["factor"] != 1:  # llama.cpp would divide by it too
                raise Error(
                    "gguf", expected=f"{architecture}.rope.scaling.factor 1 for longrope", got=scaling["factor"]
                )
            scaling["factor"] = context / original if original > 0 else 1.0
            usual = long_attention_factor(scaling["factor"], original)
            scaling["attention_factor"] = usual if math.isclose(attention, usual, rel_tol=1e-6) else attention
            return cls.from_hf({"rope_type": "longrope", **scaling}, context)
        if kind == "longrope":
            raise Error("gguf", expected=f"tensors {' and '.join(GGUF_FACTORS.values())}", got="none")
        if kind == "none":
            return None
        if kind == "yarn":
            for theirs, ours, usual in _GGUF_YARN:
                scaling[ours] = value(theirs, float, usual)
            own = attention * value("yarn_attn_factor", float, 1.0)
            usual = _yarn_attention_factor({}, scaling["factor"])
            scaling["attention_factor"] = usual if own == 1 else float(str(np.float32(own * usual)))
            if (ext := value("yarn_ext_factor", float, 1.0)) not in (1.0, -1.0):
                raise Error("gguf", expected=f"{architecture}.rope.scaling.yarn_ext_factor 1", got=ext)
        return cls.from_hf({"rope_type": kind, **scaling}, context)

    def to_gguf(self, architecture: str) -> dict[str, Any]:
        """Return `<architecture>.rope.scaling.*`. ValueError for a scaling that GGUF cannot express."""
        if self.kind == "llama3":  # a tensor
            return {}
        prefix = f"{architecture}.rope.scaling"
        if self.kind == "proportional" or not self.truncate:
            raise Error(
                "gguf",
                expected="rope_scaling that GGUF can say",
                got=self.kind if self.truncate else "yarn with truncate false",
            )
        values = {
            f"{prefix}.type": self.kind,
            f"{prefix}.factor": self.factor,
            f"{prefix}.original_context_length": self.original_context,
        }
        if self.kind == "longrope":
            del values[f"{prefix}.factor"]  # the tensors say it
            values[f"{prefix}.attn_factor"] = self.attention_factor
        if self.kind == "yarn":
            usual = _yarn_attention_factor({}, self.factor)
            if not math.isclose(self.attention_factor, usual, rel_tol=1e-6):
                values[f"{prefix}.attn_factor"] = self.attention_factor / usual
            for _, ours, default in _GGUF_YARN:  # llama.cpp does not read them for every architecture
                if getattr(self, ours) != default:
                    raise Error("gguf", expected=f"yarn with {ours} {default:g}", got=getattr(self, ours))
        return values

    def describe(self) -> str:
        """Return one line that says what is applied."""
        text = f"{self.kind}, factor {self.factor:g} over {self.original_context} tokens"
        if self.kind == "longrope":
            return (
                f"{text}: short factors in sequences of up to {self.original_context} tokens, long ones in longer ones"
            )
        return text


def merged(config: Mapping) -> dict[str, Any] | None:
    """Return what a config.json says of its rotations in rope_parameters (transformers 5) and rope_scaling (before), under
    the names of rope_scaling. ValueError if the two disagree."""
    found: dict[str, Any] = {}
    for name in ("rope_parameters", "rope_scaling"):
        rope = config.get(name)
        if rope is None:
            continue
        if not isinstance(rope, Mapping):
            raise Error("config.json", expected=f"{name} an object", got=f"{rope!r:.100}")
        rope = {key: value for key, value in one_kind(rope, name).items() if value is not None}
        if "type" in rope:
            rope.setdefault("rope_type", rope.pop("type"))
        for key, value in rope.items():
            if found.setdefault(key, value) != value:
                raise Error(
                    "config.json",
                    expected=f"one {key!r:.60} in rope_parameters and rope_scaling",
                    got=f"{found[key]!r:.60} and {value!r:.60}",
                )
    # transformers gives the number outside the object precedence.
    outside = config.get("original_max_position_embeddings")
    if found.get("rope_type", "default") not in _PLAIN and outside is not None:
        found["original_max_position_embeddings"] = outside
    return found or None


def one_kind(rope: Mapping, name: str) -> Mapping:
    """Return the parameters of all layers, where a config.json has them per kind of layer. ValueError if they differ."""
    kinds = [rope[kind] for kind in ("full_attention", "sliding_attention") if rope.get(kind) is not None]
    if not kinds:
        return rope
    if not all(isinstance(kind, Mapping) for kind in kinds) or any(kind != kinds[0] for kind in kinds):
        raise Error("config.json", expected=f"{name} of the same values for all layers", got=f"{dict(rope)!r:.100}")
    return kinds[0]


def long_attention_factor(factor: float, original: int) -> float:
    """Return what longrope multiplies cos and sin with: √(1 + ln(factor) / ln(original context))."""
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 and original > 1 else 1.0


def _yarn_attention_factor(rope: Mapping, factor: float) -> float:
    mscale, all_dimensions = read(rope, "mscale", float, None), read(rope, "mscale_all_dim", float, None)

    def scale(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    if not mscale or not all_dimensions:
        return scale(1.0)
    below = scale(all_dimensions)
    return scale(mscale) / below if below else math.inf


def _numbers(rope: Mapping, name: str) -> tuple[float, ...]:
    found = read(rope, name, list)
    if not all(isinstance(f, (int, float)) and not isinstance(f, bool) for f in found):
        raise Error("config.json", expected=f"rope_scaling: {name} of numbers", got=f"{found!r:.60}")
    return tuple(float(max(min(f, 2.0 * _LARGEST), 0.0)) for f in found)  # larger ones are refused


def _choice(kinds) -> str:
    *first, last = kinds
    return f"{', '.join(first)} or {last}"
