"""Low-rank adapters of a model (LoRA), attached by layer name, and whole layers that are trained beside them. Adapters of a
later run stand beside those of an earlier one, which are frozen. `adapter_files` stores them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmcore import nn
from llmcore.errors import Error
from llmcore.models.adapter_config import ALL_LINEAR, is_target
from llmcore.models.base import CausalLM
from llmcore.models.weights import Part, rows_of_parts
from llmcore.nn.lora import Dropout, EmbeddingLoRA, LoRA, LoRAEmbedding, LoRALinear


@dataclass(frozen=True)
class LoRAConfig:
    """rank and alpha of every adapter; dropout of their inputs. targets: last parts of the layers' names in the Hugging Face
    format ("q_proj"; "embed_tokens" and "lm_head" are layers too), a regular expression for whole names, or "all-linear":
    all but the output layer. stabilised: scale by alpha / √rank (rsLoRA). dora: learn the lengths of the weights' rows too.
    modules_to_save: names of layers and norms that are trained as a whole. Where the output layer is the token embedding,
    both names mean the one matrix. name: of the stage, for `llmcore info`."""

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: str | Sequence[str] = ALL_LINEAR
    stabilised: bool = False
    dora: bool = False
    modules_to_save: Sequence[str] = ()
    name: str = ""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise Error("lora", expected="rank >= 1", got=self.rank)
        if not (self.alpha > 0 and math.isfinite(self.alpha)):
            raise Error("lora", expected="alpha > 0", got=self.alpha)
        if not 0 <= self.dropout < 1:
            raise Error("lora", expected="dropout in [0, 1)", got=self.dropout)
        if not isinstance(self.targets, str) and not self.targets:
            raise Error("lora", expected="some targets", got="none")

    def described(self) -> str:
        """Describe a run with these settings."""
        kinds = [word for word, on in (("DoRA", self.dora), ("rsLoRA", self.stabilised)) if on]
        whole = [f"whole {', '.join(self.modules_to_save)}"] if self.modules_to_save else []
        return (f"{self.name}: " if self.name else "") + ", ".join([f"rank {self.rank}", *kinds, *whole])


@dataclass(frozen=True)
class Site:
    """A place for an adapter: some outputs of a layer that have a name in files. module: None for an output layer that is
    the token embedding."""

    model: CausalLM
    path: str
    module: nn.Linear | nn.Embedding | None
    part: Part
    start: int

    @property
    def name(self) -> str:
        return self.part.hf.removesuffix(".weight")

    def is_target(self, targets: str | Sequence[str]) -> bool:
        if targets in (ALL_LINEAR, [ALL_LINEAR], (ALL_LINEAR,)):
            return isinstance(self.module, nn.Linear) and self.path != _HEAD
        return is_target(self.name, targets)

    def layer(self) -> nn.Linear | nn.Embedding:
        """Return its layer, which is made where the token embedding serves as one."""
        if self.module is None:
            return untie(self.model) if self.model.head is None else self.model.head
        return self.module

    def adapters(self) -> list[LoRA]:
        """Return the adapters that it has, the oldest first."""
        lora = None if self.module is None else self.module.lora
        return [] if lora is None else [p for p in lora.every if p.start == self.start]


_HEAD = "head.weight"


def sites(model: CausalLM) -> Iterator[Site]:
    """Yield the places for adapters: linear layers, embeddings and the output layer; not the routers of a mixture."""
    modules = dict(model.modules())
    for path, parts in model.layout(model.config):
        module = modules.get(path.removesuffix(".weight"))
        if not isinstance(module, (nn.Linear, nn.Embedding)) or path.endswith("router.weight"):
            continue
        for part, start, _ in rows_of_parts(parts) if path.endswith(".weight") else ():
            yield Site(model, path, module, part, start)
    if model.head is None:
        yield Site(model, _HEAD, None, head_part(model), 0)


def head_part(model: CausalLM) -> Part:
    """Return the tensor of files that an output layer of its own would be."""
    return Part(model.hf_head, "output.weight", (model.config.vocab_size, model.config.width))


def untie(model: CausalLM) -> nn.Linear:
    """Give a model whose output layer is the token embedding one of its own, which has the same weight for now."""
    head = nn.Linear(model.config.width, model.config.vocab_size, bias=False)
    head.weight, model.head = model.tokens.weight, head
    model.config = dataclasses.replace(model.config, **{"tied": False})
    if _TOKENS in model.replaced:
        model.replaced = {**model.replaced, _HEAD: model.replaced[_TOKENS]}
    return head


def attach_lora(model: CausalLM, config: LoRAConfig, seed: int = 0) -> None:
    """Freeze the model and attach new adapters to its layers; adapters that it has stay, frozen too. The new ones change
    nothing yet: a is drawn uniformly from ±1/√inputs and b is 0, as PEFT initialises them (of an embedding a is 0, and b
    is drawn from N(0, 1)). ValueError names the layers if a target or a module to save is none of them."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    whole = _chosen_whole(model, config.modules_to_save)
    chosen: list[tuple[Site, LoRA]] = []
    places = list(sites(model))
    for site in places:
        if site.is_target(config.targets) and site.path not in whole:
            chosen.append((site, _new(site, config, rng)))
    each = config.targets if not isinstance(config.targets, str) else ()
    if not chosen or not all(any(s.is_target([t]) for s in places) for t in each):
        raise Error("lora", expected=f"targets among {_last_names(s.name for s in places)}", got=config.targets)
    for p in model.parameters():
        p.requires_grad = False
    model.replaced = {path: _parameter(model, path) for path in model.replaced}
    attach(model, chosen, Dropout(config.dropout, seed))
    for path in whole:
        _train_whole(model, path)
    for site, low in chosen if config.dora else ():
        low.magnitude = nn.Parameter(_lengths(site, low, model.dtype))
    model.runs = (*model.runs, config.described())


def attach(model: CausalLM, chosen: Sequence[tuple[Site, LoRA]], dropout: Dropout) -> None:
    """Attach adapters to the layers of a model, beside those that these have."""
    new: dict[int, list[LoRA]] = {}
    for site, low in chosen:
        new.setdefault(id(site.layer()), []).append(low)
    for _, module in list(model.modules()):
        if not isinstance(module, (nn.Linear, nn.Embedding)):
            continue
        before, parts = ([] if module.lora is None else module.lora.every), new.get(id(module), [])
        if before or parts:
            kind: Callable = LoRALinear if isinstance(module, nn.Linear) else LoRAEmbedding
            module.lora = kind(parts, module.weight.shape[isinstance(module, nn.Embedding)], dropout, before)


def _new(site: Site, config: LoRAConfig, rng: np.random.Generator) -> LoRA:
    outputs, inputs = site.part.shape
    if isinstance(site.module, nn.Embedding):  # (rows, width)
        b = rng.standard_normal((inputs, config.rank), np.float32)
        return EmbeddingLoRA(np.zeros((outputs, config.rank), np.float32), b, 0, config.alpha, config.stabilised)
    a = rng.uniform(-1, 1, (config.rank, inputs)).astype(np.float32) / np.float32(math.sqrt(inputs))
    return LoRA(a, np.zeros((outputs, config.rank), np.float32), site.start, config.alpha, config.stabilised)


def _lengths(site: Site, low: LoRA, dtype: str) -> np.ndarray:
    """Return the lengths that the rows of a new adapter's layer are given: those that they have."""
    module = site.layer()
    assert module.lora is not None
    earlier = module.lora.magnitudes().get(low.start)
    if earlier is not None and earlier.magnitude is not None:
        return earlier.magnitude.array.numpy()
    return module.lora.lengths(module.weight, dtype)[low.start : low.end]


def _chosen_whole(model: CausalLM, names: Sequence[str]) -> list[str]:
    """Return the parameters of these layers. ValueError for names of none, or of a part of a parameter only."""
    found, known, used = [], [], set()
    for path, parts in model.layout(model.config):
        of = [_names_of(model, path, part) for part in parts]
        known += [n for each in of for n in each]
        hits = [[t for t in names if any(is_target(n, [t]) for n in each)] for each in of]
        used |= {t for hit in hits for t in hit}
        if any(hits) and not all(hits):
            together = ", ".join(each[0] for each in of)
            raise Error("lora", expected=f"all of {together} in modules_to_save: they are one matrix", got=list(names))
        if any(hits):
            found.append(path)
    if used != set(names):
        raise Error("lora", expected=f"modules_to_save among {_last_names(known)}", got=sorted(set(names) - used))
    return found


def _names_of(model: CausalLM, path: str, part: Part) -> list[str]:
    """Return the names of the modules whose weight a part is."""
    name = part.hf.rpartition(".")[0]
    return [name, model.hf_head.removesuffix(".weight")] if path == _TOKENS and model.head is None else [name]


def names_of_tokens(model: CausalLM) -> list[str]:
    """Return what files call the token embedding, and the output layer if it is another matrix: for modules_to_save."""
    embedding = next(iter(model.layout(model.config)))[1][0].hf.rpartition(".")[0].rpartition(".")[2]
    return [embedding] if model.head is None else [embedding, model.hf_head.rpartition(".")[0]]


_TOKENS = "tokens.weight"


def _train_whole(model: CausalLM, path: str) -> None:
    """Put a trainable copy in the place of a parameter; adapters of its layer are merged into it."""
    module, name = owner(model, path)
    old = getattr(module, name)
    if isinstance(module, (nn.Linear, nn.Embedding)) and module.lora is not None and name == "weight":
        if module is model.tokens and model.head is None:
            untie(model)
        parts, old = old.parts, nn.Parameter(module.lora.merged(old))
        old.parts, old.requires_grad = parts, False
        del module.lora
    replace(model, path, np.array(old.stored(), np.float32))
    model.replaced = {**model.replaced, path: old}


def replace(model: CausalLM, path: str, values: np.ndarray) -> None:
    """Put a new parameter in the place of one, which is kept in model.replaced."""
    module, name = owner(model, path)
    old = getattr(module, name)
    new = nn.Parameter(values)
    new.parts = old.parts
    setattr(module, name, new)
    model.replaced = {path: old, **model.replaced}


def owner(model: CausalLM, path: str) -> tuple[nn.Module, str]:
    """Return the module that holds a parameter, and its name there."""
    where, _, name = path.rpartition(".")
    return dict(model.modules())[where], name


def _parameter(model: CausalLM, path: str) -> nn.Parameter:
    module, name = owner(model, path)
    return getattr(module, name)


def has_lora(model: nn.Module) -> bool:
    """Return whether any layer has an adapter."""
    return any(isinstance(m, (LoRALinear, LoRAEmbedding)) for _, m in model.modules())


def dropout_of(model: nn.Module) -> Dropout | None:
    """Return the dropout that the adapters share, or None for a model without adapters."""
    return next((m.dropout for _, m in model.modules() if isinstance(m, (LoRALinear, LoRAEmbedding))), None)


def base_model(model: CausalLM) -> CausalLM:
    """Return a model of the same weights without what is trained: the adapters of this run. Those of earlier runs stay."""
    other = model.shared_copy()
    for _, module in list(other.modules()):
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.lora is not None:
            before, kind = module.lora.before, type(module.lora)
            outputs = module.lora.outputs
            del module.lora
            if before:
                module.lora = kind(before, outputs, Dropout(0.0, 0))
    for path, parameter in model.replaced.items():
        module, name = owner(other, path)
        setattr(module, name, parameter)
    other.replaced = {}
    return other


def merge(model: CausalLM) -> None:
    """Add the adapters' changes to the weights and detach the adapters. Quantized weights become float32."""
    for _, module in list(model.modules()):
        if isinstance(module, (nn.Linear, nn.Embedding)) and module.lora is not None:
            if module is model.tokens and model.head is None:
                untie(model)  # the output layer has no part in what an embedding's adapter adds
            parts = module.weight.parts
            module.weight = nn.Parameter(module.lora.merged(module.weight))  # a new one: others may share the old one
            module.weight.parts = parts
            del module.lora
    model.replaced, model.runs = {}, ()
    for p in model.parameters():
        p.requires_grad = not isinstance(p, nn.QuantizedWeight)


def _last_names(names: Iterable[str]) -> str:
    return ", ".join(sorted({n.rpartition(".")[2] for n in names}))
