"""SmolLM3 (Bakouche et al. 2025): a Llama in which every fourth layer does not rotate queries and keys (NoPE, Yang et al.
2025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore.errors import Error
from llmcore.models.config import read, setting
from llmcore.models.llama import Llama, LlamaConfig
from llmcore.models.rope import Rotary

_INTERVAL = 4


@dataclass(frozen=True)
class SmolLM3Config(LlamaConfig):
    """Sizes of a SmolLM3. `rotary_layers`: whether each layer rotates; by default all but every fourth."""

    model_type: ClassVar[str] = "smollm3"
    hf_class: ClassVar[str] = "SmolLM3ForCausalLM"
    gguf_architecture: ClassVar[str | None] = "smollm3"
    fixed: ClassVar[Mapping[str, tuple]] = {**LlamaConfig.fixed, "use_sliding_window": (False,)}
    hf_more: ClassVar[tuple[str, ...]] = ("no_rope_layers", "no_rope_layer_interval", "sliding_window")

    rope_base: float = setting(2e6, "rope_theta", "rope.freq_base", absent=2e6)
    tied: bool = setting(True, "tie_word_embeddings", absent=True)
    rotary_layers: tuple[bool, ...] = None  # type: ignore[assignment]  # until __post_init__

    def __post_init__(self) -> None:
        super().__post_init__()
        self.derive(rotary_layers=all_but_every(self.layers))
        if len(self.rotary_layers) != self.layers:
            self.fail(f"rotary_layers of {self.layers} layers", len(self.rotary_layers))

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        values = super().hf_values(config)
        turned = read(config, "no_rope_layers", list, None)  # 1 means that a layer rotates, whatever the name says
        if turned is None:
            interval = read(config, "no_rope_layer_interval", int, _INTERVAL)
            if interval < 1:
                raise Error("config.json", expected="no_rope_layer_interval at least 1", got=interval)
            return values | {"rotary_layers": all_but_every(values["layers"], interval)}
        if not all(t in (0, 1) for t in turned):
            raise Error("config.json", expected="no_rope_layers of 0 and 1", got=f"{turned!r:.100}")
        return values | {"rotary_layers": tuple(map(bool, turned[: values["layers"]]))}

    def to_hf(self) -> dict[str, Any]:
        return super().to_hf() | {"no_rope_layers": [int(t) for t in self.rotary_layers]}

    def to_gguf(self) -> dict[str, Any]:
        if self.rotary_layers != all_but_every(self.layers):
            self.fail("every fourth layer without rotation for GGUF", self.rotary_layers)
        return super().to_gguf()


def all_but_every(layers: int, interval: int = _INTERVAL) -> tuple[bool, ...]:
    """Return True for each layer except every `interval`-th."""
    return tuple((i + 1) % interval != 0 for i in range(layers))


class SmolLM3(Llama[SmolLM3Config]):
    """The model; parameters are drawn from `seed`."""

    config_class = SmolLM3Config

    def rotaries(self, c: SmolLM3Config) -> Sequence[Rotary | None]:
        pairs = zip(super().rotaries(c), c.rotary_layers, strict=True)
        return [rotary if turns else None for rotary, turns in pairs]
