"""Configs of architectures: every field knows its name in a Hugging Face config.json and in GGUF's metadata, so one line in
a dataclass says how it is read, checked and written."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, TypeVar

import numpy as np

from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.models import config_fields

REQUIRED: Any = object()
_MOST_LAYERS = 1 << 16
C = TypeVar("C", bound="Config")


def setting(default: Any, hf: str | None = None, gguf: str | None = None, kind: type | None = None, absent=REQUIRED):
    """Declare a config field: Python default, key in config.json, key in GGUF (after `<architecture>.`), type (if the
    default does not show it), and the value that a file without the key implies (`absent`; if not given, a missing key is
    an error). A field whose default is None may be null or missing; `__post_init__` fills it in if it needs a value."""
    kind = kind or (int if default is None else type(default))
    absent = None if default is None and absent is REQUIRED else absent
    return dataclasses.field(default=default, metadata={"hf": hf, "gguf": gguf, "kind": kind, "absent": absent})


@dataclass(frozen=True)
class Config:
    """The config that every architecture has. Subclasses are frozen dataclasses whose fields are `setting`s."""

    model_type: ClassVar[str]  # in config.json
    hf_class: ClassVar[str]  # the class in transformers
    gguf_architecture: ClassVar[str | None] = None  # general.architecture
    # Allowed values of other fields of config.json. The first is the one that is written, and implied by a missing field.
    fixed: ClassVar[Mapping[str, tuple]] = {}
    gguf_fixed: ClassVar[Mapping[str, tuple]] = {}
    # Fields of config.json beyond those of `setting`s that `hf_values` reads or checks, or that this architecture does not
    # compute by, whatever others do. A subclass adds to them.
    hf_more: ClassVar[tuple[str, ...]] = ()

    vocab_size: int = setting(32000, "vocab_size")
    context: int = setting(2048, "max_position_embeddings", "context_length")
    width: int = setting(768, "hidden_size", "embedding_length")
    layers: int = setting(12, "num_hidden_layers", "block_count")
    heads: int = setting(12, "num_attention_heads", "attention.head_count")

    @property
    def tied(self) -> bool:
        """Whether the output layer is the token embedding."""
        raise NotImplementedError

    @property
    def head_size(self) -> int:
        """The dimensions of a head."""
        return self.width // self.heads

    @property
    def kv_heads(self) -> int:
        """The heads of keys and values."""
        return self.heads

    def __post_init__(self) -> None:
        for name in ("vocab_size", "context", "width", "layers", "heads"):
            self.check_positive(name)

    def check_positive(self, *names: str) -> None:
        """Raise ValueError unless these fields are positive integers."""
        for name in names:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                self.fail(f"{name} a positive integer", repr(value))

    def check_number(self, name: str, least: float, strict: bool = False) -> None:
        """Raise ValueError unless a field is finite and at least (or, if strict, above) `least`."""
        value = getattr(self, name)
        if not (math.isfinite(value) and (value > least if strict else value >= least)):
            self.fail(f"{name} {'>' if strict else '>='} {least:g}", value)

    def fail(self, expected: str, got: object) -> None:
        """Raise the ValueError of a config that does not fit."""
        raise Error(type(self).__name__, expected=expected, got=got)

    def derive(self, **values: Any) -> None:
        """Fill in the fields that were left None."""
        for name, value in values.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    # ---- config.json ----

    @classmethod
    def from_hf(cls: type[C], config: Mapping) -> C:
        """Read a config.json. ValueError, one line, names a field that is missing, wrong, or asks for something that this
        implementation does not support."""
        for name, allowed in cls.fixed.items():
            if config.get(name, allowed[0]) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise Error("config.json", expected=f"{name} {choices} for {cls.model_type}", got=repr(config[name]))
        config_fields.check_foreign(config, cls.hf_fields(), cls.model_type)
        return cls(**cls.hf_values(config))

    @classmethod
    def hf_notes(cls, config: Mapping) -> list[str]:
        """Return what is worth knowing about how a config.json is read, a line each."""
        rest = config_fields.unknown(config, cls.hf_fields())
        names = ", ".join(f"{name:.60}" for name in rest[:12]) + (
            f" and {len(rest) - 12} more" if len(rest) > 12 else ""
        )
        return [f"config.json: unknown here and not used: {names}"] if rest else []

    def notes_on_tensors(self, tensors: Mapping[str, np.ndarray]) -> list[str]:
        """Return notes on tensors of a Hugging Face file that follow from the config, but say something else."""
        return []

    @classmethod
    def hf_fields(cls) -> frozenset[str]:
        """Return the fields of config.json that this architecture reads or checks."""
        more = (name for base in cls.__mro__ for name in vars(base).get("hf_more", ()))
        return frozenset({*(f.metadata.get("hf") for f in dataclasses.fields(cls)), *cls.fixed, *more} - {None})

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        """Return the constructor's arguments from config.json. Architectures add what their fields cannot express."""
        values = {
            f.name: read(config, f.metadata["hf"], f.metadata["kind"], f.metadata["absent"], "config.json")
            for f in dataclasses.fields(cls)
            if f.metadata.get("hf")
        }
        return _with_few_layers(values, "config.json")

    def to_hf(self) -> dict[str, Any]:
        """Return the config.json of the Hugging Face format."""
        values = {f.metadata["hf"]: getattr(self, f.name) for f in dataclasses.fields(self) if f.metadata.get("hf")}
        fixed = {name: allowed[0] for name, allowed in self.fixed.items()}
        return {"model_type": self.model_type, "architectures": [self.hf_class], **values, **fixed}

    # ---- GGUF ----

    @classmethod
    def from_gguf(cls: type[C], file: GGUFFile) -> C:
        """Read the metadata of a GGUF file, with the same errors."""
        for name, allowed in cls.gguf_fixed.items():
            if (got := file.metadata.get(f"{cls.gguf_architecture}.{name}", allowed[0])) not in allowed:
                choices = " or ".join(map(repr, allowed))
                raise Error("gguf", expected=f"{cls.gguf_architecture}.{name} {choices}", got=repr(got))
        return cls(**cls.gguf_values(file))

    @classmethod
    def gguf_values(cls, file: GGUFFile) -> dict[str, Any]:
        """Return the constructor's arguments from a GGUF file. Architectures add what their fields cannot express."""
        values: dict[str, Any] = {
            f.name: read(
                file.metadata,
                f"{cls.gguf_architecture}.{f.metadata['gguf']}",
                f.metadata["kind"],
                f.metadata["absent"],
                "gguf",
            )
            for f in dataclasses.fields(cls)
            if f.metadata.get("gguf")
        }
        for name, value in values.items():  # 1e-5 was rounded to float32: restore the decimal that was meant
            if isinstance(value, float):
                values[name] = float(str(np.float32(value)))
        embedding = file.tensors.get("token_embd.weight")
        values["vocab_size"] = 0 if embedding is None else embedding.shape[0]
        return _with_few_layers(values, "gguf")

    def to_gguf(self) -> dict[str, Any]:
        """Return the metadata by full key, as Python numbers, strings and lists."""
        values: dict[str, Any] = {"general.architecture": self.gguf_architecture}
        for f in dataclasses.fields(self):
            if f.metadata.get("gguf") and getattr(self, f.name) is not None:
                values[f"{self.gguf_architecture}.{f.metadata['gguf']}"] = getattr(self, f.name)
        return values


def _with_few_layers(values: dict[str, Any], of: str) -> dict[str, Any]:
    """Return the same values, of as many layers as one can list."""
    if values["layers"] > _MOST_LAYERS:
        raise Error(of, expected=f"at most {_MOST_LAYERS} layers", got=repr(values["layers"])[:40])
    return values


def read(config: Mapping, name: str, kind: type, absent: Any = REQUIRED, of: str = "config.json") -> Any:
    """Read and check a field of a config.json (or of the metadata that `of` names). ValueError names it."""
    value = config.get(name)
    if value is None and absent is not REQUIRED:
        return absent
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            value = float(value)
        except OverflowError:
            raise Error(of, expected=f"{name} a number that a float can hold", got="a larger one") from None
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise Error(of, expected=f"{name} of type {kind.__name__}", got=f"{value!r:.100}")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise Error(of, expected=f"{name} of at most 64 bits", got=f"{value!r:.40}")
    return value
