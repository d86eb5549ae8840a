"""What all language models share: loading and saving, logits and loss from hidden states, initialisation."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Generic, TypeVar

import numpy as np

from llmcore import autograd, nn, ops
from llmcore._arrays import to_host_array
from llmcore._tensor import Tensor
from llmcore.errors import Error
from llmcore.formats.gguf import GGUFFile
from llmcore.formats.quantization import encode
from llmcore.models import names
from llmcore.models.config import Config
from llmcore.models.kv_cache import BlockPool, KVCache, blocks_for
from llmcore.models.layers import Attention, Positions
from llmcore.models.rope import Rotary, shift
from llmcore.models.weights import (
    Encoded,
    Layout,
    Part,
    Piece,
    Stored,
    rows_of_parts,
    stored_in_gguf,
    stored_in_hf,
    stored_type,
)
from llmcore.runtime import default_dtype

C = TypeVar("C", bound=Config)  # each architecture has its own
M = TypeVar("M", bound="CausalLM")


class CausalLM(nn.Module, Generic[C]):
    """A decoder-only language model. Subclasses provide `config`, `tokens`, `head`, `hidden_at` and `layout`.

    dtype is the compute dtype ("float32" or "bfloat16"); parameters are always float32.
    """

    config_class: ClassVar[type[Config]]
    config: C
    dtype: str
    tokens: nn.Embedding
    head: nn.Linear | None  # None: the output layer is the token embedding
    logit_softcap: float | None = None  # see ops.softcap
    recompute: bool = False  # whether gradients recompute the activations of a block instead of keeping them
    notes: tuple[str, ...] = ()  # on what its files held beyond it: see `TextModel.notes`
    runs: tuple[str, ...] = ()  # that its adapters come from, the oldest first, in words
    # By name: the parameters that adapters took the place of, as a whole (`adapters.base_model` puts them back).
    replaced: Mapping[str, nn.Parameter] = MappingProxyType({})
    hf_base: ClassVar[str] = "model"  # in Hugging Face files, the module of all but the head
    hf_head: ClassVar[str] = "lm_head.weight"
    recordable: ClassVar[bool] = True  # whether a decode step runs the same ops whatever the tokens: see DecodeStep

    def __init__(self, config: Config, dtype: str = "float32", seed: int | None = 0):
        raise NotImplementedError

    @classmethod
    def layout(cls, config: C) -> Layout:
        """Yield each parameter's name and the tensors of files that it is made of."""
        raise NotImplementedError

    def hidden_at(self, ids: np.ndarray, pos: Positions) -> Tensor:
        """Compute ids (B, T) int32 and their positions -> hidden states (B, T, width), after the last norm."""
        raise NotImplementedError

    def hidden(self, ids, cache: KVCache | None = None, starts: np.ndarray | None = None) -> Tensor:
        """Compute ids (B, T) -> hidden states (B, T, width), after the last norm. With a cache, ids continue its sequences; with starts (B, T),
        rows hold several documents that do not see each other (see `Positions`)."""
        return self.hidden_at(*self.locate(ids, cache, starts))

    def run_blocks(self, blocks: Sequence[nn.Module], x: Tensor, pos: Positions) -> Tensor:
        """Pass x (B, T, width) through the blocks one after another."""
        for block in blocks:
            if self.recompute:
                x = autograd.recomputed(block, x, pos, parameters=block.parameters())
            else:
                x = block(x, pos)
        return x

    def training_flops(self, T: int) -> float:
        """Return the operations per token in rows of T, forward and backward: three multiply-adds for each weight of a matrix
        that a token is multiplied with (the embedding lookup costs none), and causal attention's products with the T / 2
        keys before it on average."""
        c = self.config
        matrices = sum(p.size for name, p in self.named_parameters() if p.ndim == 2 and name.startswith("blocks."))
        attention = c.layers * 2 * T * c.heads * c.head_size
        return 6.0 * (matrices + self.output_weight().size) + 3.0 * attention

    # ---- logits and loss ----

    def output_weight(self) -> nn.Parameter:
        """Return the matrix (V, width) that turns hidden states into logits."""
        return self.tokens.weight if self.head is None else self.head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """Turn hidden states (..., width) into logits (..., V) float32."""
        if self.head is None:
            logits = ops.linear(hidden, self.tokens.weight, out_dtype="float32")
        else:
            logits = self.head(hidden, out_dtype="float32")
        return logits if self.logit_softcap is None else ops.softcap(logits, self.logit_softcap)

    def forward(self, ids, cache: KVCache | None = None, last_only: bool = False) -> Tensor:
        """Compute ids (B, T) integers -> logits (B, T, V) float32, or (B, 1, V) of the last position only.

        With a cache, nothing is recorded for gradients: its keys and values are overwritten in place.
        """
        if cache is not None and autograd.grad_enabled():
            with autograd.no_grad():
                return self.forward(ids, cache, last_only)
        h = self.hidden(ids, cache)
        if last_only:
            h = Tensor(h.array.narrow(1, h.shape[1] - 1, 1))
        return self.logits(h)

    def loss(
        self, ids, targets, reduction: str = "mean", starts: np.ndarray | None = None, temperature: float = 1.0
    ) -> Tensor:
        """Return the cross entropy of targets (B, T) in nats; negative targets are ignored. starts: as of `hidden`.
        temperature divides the logits. The (B, T, V) logits never exist all at once, unless they are capped."""
        h = self.hidden(ids, starts=starts)
        return self.loss_of(h, targets, reduction, temperature)

    def loss_of(self, h: Tensor, targets, reduction: str = "mean", temperature: float = 1.0) -> Tensor:
        """Return the same loss from hidden states (B, T, width)."""
        if temperature != 1.0:
            if self.logit_softcap is not None:
                return ops.cross_entropy(ops.mul(self.logits(h), 1 / temperature), targets, reduction)
            h = ops.mul(h, 1 / temperature)
        adapted = self.head is not None and self.head.lora is not None
        if (adapted or self.output_weight().quantized is not None) and not autograd.grad_enabled():
            return self._loss_in_pieces(h, targets, reduction)
        if adapted or self.logit_softcap is not None:
            return ops.cross_entropy(self.logits(h), targets, reduction)
        return ops.linear_cross_entropy(h, self.output_weight(), targets, reduction)

    def _loss_in_pieces(self, h: Tensor, targets, reduction: str) -> Tensor:
        """Return the same loss from the logits of a few positions at a time."""
        targets = np.asarray(targets)
        rows, flat = h.array.reshape([-1, h.shape[-1]]), targets.reshape(-1)
        losses = []
        for start in range(0, len(flat), _POSITIONS):
            n = min(_POSITIONS, len(flat) - start)
            logits = self.logits(Tensor(rows.narrow(0, start, n)))
            losses.append(ops.cross_entropy(logits, flat[start : start + n], "none").numpy())
        each = np.concatenate(losses) if losses else np.empty(0, np.float32)
        if reduction == "none":
            return Tensor(to_host_array(each.reshape(targets.shape)))
        total = each.sum(dtype=np.float64)
        count = np.count_nonzero(flat >= 0) if reduction == "mean" else 1
        return Tensor(to_host_array(np.float32(total / count if count else np.nan)))

    @property
    def cache_dtype(self) -> str:
        """The default dtype of keys and values: the compute dtype; but a quantized model, which rounds anyway, keeps
        bfloat16 where the processor multiplies that faster."""
        return self.dtype if self.output_weight().quantized is None else default_dtype()

    def new_pool(self, blocks: int, dtype: str | None = None) -> BlockPool:
        """Return a pool of blocks for keys and values; dtype: "float32", "bfloat16" or "int8", by default `cache_dtype`."""
        c = self.config
        return BlockPool(blocks, c.layers, c.kv_heads, c.head_size, dtype or self.cache_dtype, self.device)

    def new_cache(self, batch: int, capacity: int, dtype: str | None = None) -> KVCache:
        """Return an empty cache for `batch` sequences of up to `capacity` positions (at most the context length), with its
        own pool."""
        capacity = min(capacity, self.config.context)
        pool = self.new_pool(batch * blocks_for(capacity), dtype)
        return KVCache.allocate_for(pool, batch, capacity, self.shift(capacity))

    def shift(self, tokens: int) -> int:
        """Return by how many rows of the rotation tables the positions of a sequence of so many tokens are shifted: longrope
        takes other frequencies for sequences beyond the original context, from their first token on. A cache keeps keys of
        one kind, so whoever lets a sequence grow beyond computes it again; `new_cache` decides by its capacity."""
        return shift(getattr(self.config, "rope_scaling", None), tokens)

    def rotary_tables(self) -> list[Rotary]:
        """Return the rotations that this model applies to queries and keys, each once."""
        found = {id(m.rotary): m.rotary for _, m in self.modules() if isinstance(m, Attention) and m.rotary is not None}
        return list(found.values())

    def locate(self, ids, cache: KVCache | None, starts: np.ndarray | None = None) -> tuple[np.ndarray, Positions]:
        """Check ids; return them as int32, with their positions. A cache makes room for them."""
        ids = np.asarray(ids)
        if ids.ndim != 2 or ids.dtype.kind not in "iu":
            raise Error("model", expected="integer ids (B, T)", got=f"{ids.dtype} {ids.shape}")
        if ids.shape[1] > self.config.context:
            raise Error("model", expected=f"at most {self.config.context} positions", got=ids.shape[1])
        vocab = self.config.vocab_size
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:  # before the cast to 32 bits
            raise Error("model", expected=f"ids in [0, {vocab})", got=f"{ids.min()} to {ids.max()}")
        pos = Positions.of(ids, cache, self.shift) if starts is None else Positions.packed(starts, self.shift)
        if starts is not None and (cache is not None or pos.positions is None or pos.positions.shape != ids.shape):
            raise Error("model", expected=f"starts of the shape of ids {ids.shape} and no cache")
        return np.ascontiguousarray(ids, np.int32), pos

    def quantize(self, kind: str | None) -> None:
        """Keep matrices quantized in memory, the token embedding among them; they are frozen from then on. kind: "int8"
        (blocks of 32 with a scale: Q8_0), "int4" (with a scale and a minimum: Q4_1), or None: matrices that are quantized
        in the model's file stay as they are there; "none" lets them become float32. A mixture's router, and matrices whose
        row length is not a multiple of 32, stay as they are."""
        if kind not in (None, "none", "int8", "int4"):
            raise Error("quantize", expected="None, 'none', 'int8' or 'int4'", got=repr(kind))
        for path, module in self.modules() if kind != "none" else ():
            if isinstance(module, (nn.Linear, nn.Embedding)) and not path.endswith("router"):
                module.weight = _quantize_weight(module.weight, kind)
            elif isinstance(module, nn.RMSNorm):
                module.deferred = module.weight.shape == (self.config.width,)

    # ---- in words ----

    def described(self) -> str:
        """Say in a line what this model is: its architecture, its size, how its weights are stored, and what it computes in."""
        c, n, stored = self.config, self.num_parameters, Counter[str]()
        for p in self.parameters():
            stored[stored_type(p.source)] += p.size
        types = "+".join(kind for kind, size in stored.most_common() if size >= 0.02 * n)
        size = f"{n / 1e6:.1f}M" if n >= 1e5 else f"{n:,}"
        said = f"{type(self).__name__}, {size} parameters, {c.layers} layers, width {c.width}, context {c.context}"
        adapters = f", adapters: {'; '.join(self.runs)}" if self.runs else ""
        return f"{said}, stored as {types}, computes in {self.dtype}{adapters}"

    def __repr__(self) -> str:
        return f"<{self.described()}>"

    # ---- files ----

    @classmethod
    def from_hf(cls: type[M], config: Mapping, weights: Mapping[str, np.ndarray], dtype: str = "float32") -> M:
        """Build a model from the Hugging Face format: config.json, and tensors by name, which are read on first use.
        ValueError, one line, for what does not fit."""
        c = cls.config_class.from_hf(config)
        names.check_format(weights)
        layout = list(cls.layout(c))
        tensors, notes = names.of_text(weights, cls.hf_base, layout)
        head, embedding = tensors.get(cls.hf_head), tensors.get(layout[0][1][0].hf)
        if c.tied and head is not None and embedding is not None:
            if names.equal(head, embedding):
                del tensors[cls.hf_head]
            else:
                c = dataclasses.replace(c, **{"tied": False})
                layout = list(cls.layout(c))
                notes.append(
                    f"{cls.hf_head} is used, which differs from the token embedding that config.json says it is "
                    "(tie_word_embeddings)"
                )
        stored = stored_in_hf(layout, tensors)
        notes += c.notes_on_tensors(tensors)
        notes += names.check_leftovers(tensors, layout, c.model_type)
        model = cls._from_stored(c, stored, dtype)
        model.notes = (*cls.config_class.hf_notes(config), *notes)
        return model

    @classmethod
    def from_gguf(cls: type[M], file: GGUFFile, dtype: str = "float32") -> M:
        """Build a model from a GGUF file of this `general.architecture`. ValueError, one line, for what does not fit."""
        c = cls.config_class.from_gguf(file)
        return cls._from_stored(c, stored_in_gguf(cls.layout(c), file), dtype)

    @classmethod
    def _from_stored(cls: type[M], config: Config, stored: dict[str, Stored], dtype: str) -> M:
        model = cls(config, dtype, seed=None)
        model.load_state_dict(stored)
        return model

    def parts(self) -> Iterator[tuple[Part, PartOfModel]]:
        """Yield the tensors of files that the parameters are made of, with their values."""
        parameters = dict(self.named_parameters())
        for name, parts in self.layout(self.config):
            for part, start, end in rows_of_parts(parts):
                yield part, PartOfModel(parameters[name], part.shape, start, end)

    def gguf_rope_factors(self) -> dict[str, np.ndarray]:
        """Return the tensors of GGUF that this model's rotations need, by name."""
        return {}

    def to_hf(self) -> dict[str, np.ndarray]:
        """Return all tensors of the Hugging Face format, float32."""
        return {part.hf: part.to_hf(np.asarray(values)) for part, values in self.parts()}


@dataclass(frozen=True)
class PartOfModel:
    """Rows of a parameter, read (`numpy.asarray`) only when they are needed, so that not all weights exist twice."""

    parameter: nn.Parameter
    shape: tuple[int, ...]
    start: int
    end: int
    dtype: ClassVar[np.dtype] = np.dtype(np.float32)

    def piece(self) -> Piece | None:
        """Return the stored piece that these rows come from, as long as they are unchanged, else None."""
        source, row = self.parameter.source, 0
        for piece in source.pieces if isinstance(source, Stored) else ():
            if (row, row + piece.rows) == (self.start, self.end):
                return piece
            row += piece.rows
        return None

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return self.parameter.stored()[self.start : self.end].astype(dtype or np.float32, copy=bool(copy))


_POSITIONS = 512  # of which logits exist at a time
_TYPES = {"int8": "Q8_0", "int4": "Q4_1"}


def _quantize_weight(weight: nn.Parameter, kind: str | None) -> nn.Parameter:
    """Return the weight as `CausalLM.quantize` keeps it."""
    source = weight.source
    if kind is None:
        if not isinstance(source, Stored) or not all(p.blocks and p.is_quantized for p in source.pieces):
            return weight
        pieces = source.pieces
        return nn.QuantizedWeight(
            source,
            lambda: [(p.type, np.ascontiguousarray(p.blocks())) for p in pieces],  # type: ignore[misc]
            lambda: [p.done() for p in pieces],
        )
    if len(weight.shape) != 2 or weight.shape[1] % 32:
        return weight
    name = _TYPES[kind]
    # Rounding is final: from now on the weight is what the blocks say.
    blocks = encode(weight.stored().astype(np.float32, copy=False), name)
    return nn.QuantizedWeight(Encoded(blocks, name, weight.shape), lambda: [(name, blocks)])


def initialise(model: nn.Module, seed: int | None, layers: int, residual: tuple[str, ...], std: float = 0.02) -> None:
    """Draw all matrices from N(0, std²), those that write to the residual stream from N(0, std²/2L), so that its size does
    not grow with depth (Radford et al. 2019). Vectors keep their ones and zeros. The same seed gives the same bits; without
    a seed the matrices stay zero, for weights that come from a file."""
    if seed is None:
        return
    rng = np.random.Generator(np.random.Philox(key=seed))
    for name, p in model.named_parameters():
        if p.ndim < 2:
            continue
        scale = std / math.sqrt(2 * layers) if name.endswith(residual) else std
        p.assign(rng.standard_normal(p.shape, np.float32) * np.float32(scale))
