"""Qwen3's mixtures of experts (Yang et al. 2025): a Qwen3 with many small feed-forward layers (experts) in each block, of
which a router picks a few for every token (Shazeer et al. 2017)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from llmcore import nn, ops
from llmcore._tensor import Tensor
from llmcore.models.config import setting
from llmcore.models.layers import GatedFeedForward
from llmcore.models.qwen3 import Qwen3, Qwen3Block, Qwen3Config
from llmcore.models.weights import Layout, Part


@dataclass(frozen=True)
class Qwen3MoEConfig(Qwen3Config):
    """Sizes of a Qwen3 mixture of experts. It has `experts` of size `expert_ffn`, of which a token uses
    `experts_used`; `normalised`: whether their weights add up to 1."""

    model_type: ClassVar[str] = "qwen3_moe"
    hf_class: ClassVar[str] = "Qwen3MoeForCausalLM"
    gguf_architecture: ClassVar[str | None] = "qwen3moe"
    fixed: ClassVar[Mapping[str, tuple]] = {
        **Qwen3Config.fixed,
        "decoder_sparse_step": (1,),
        "mlp_only_layers": ([], None),
    }
    gguf_fixed: ClassVar[Mapping[str, tuple]] = {}
    hf_more: ClassVar[tuple[str, ...]] = ("num_local_experts",)

    experts: int = setting(128, "num_experts", "expert_count")
    experts_used: int = setting(8, "num_experts_per_tok", "expert_used_count")
    expert_ffn: int = setting(768, "moe_intermediate_size", "expert_feed_forward_length")
    normalised: bool = setting(True, "norm_topk_prob", absent=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check_positive("experts", "experts_used", "expert_ffn")
        if self.experts_used > self.experts:
            self.fail(f"experts_used at most the {self.experts} experts", self.experts_used)

    @classmethod
    def from_hf(cls, config: Mapping):
        # Here all layers have the window, whatever max_window_layers says.
        return super().from_hf({**config, "max_window_layers": None})

    @classmethod
    def hf_values(cls, config: Mapping) -> dict[str, Any]:
        other = config.get("num_local_experts")  # as newer transformers write it
        return super().hf_values(config if other is None else {"num_experts": other, **config})

    def to_gguf(self) -> dict[str, Any]:
        if not self.normalised:
            self.fail("normalised weights of experts for GGUF, which does not say it", self.normalised)
        return super().to_gguf()


class MixtureOfExperts(nn.Module):
    """Σ over the k experts that the router finds most probable for a token: probability · expert(x)."""

    def __init__(self, c: Qwen3MoEConfig):
        self.used, self.normalised = c.experts_used, c.normalised
        self.router = nn.Linear(c.width, c.experts, bias=False)
        self.experts = [GatedFeedForward(c.width, c.expert_ffn) for _ in range(c.experts)]

    def pick(self, x: Tensor, chosen: np.ndarray) -> Tensor:
        """Pick elements of each row: x (M, E), chosen (M, k) -> (M, k)."""
        M, E = x.shape
        flat = np.arange(M, dtype=np.int32)[:, None] * np.int32(E) + chosen
        return ops.take(x.reshape(M * E, 1), flat.reshape(-1)).reshape(M, self.used)

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return residual + the mixture's output."""
        B, T, C = x.shape
        rows = x.reshape(B * T, C)
        scores = ops.linear(rows, self.router.weight, out_dtype="float32")
        chosen = most_probable(scores.numpy(), self.used)  # (B·T, k)
        # Normalising the probabilities of the chosen experts equals the softmax of the chosen scores.
        weights = ops.softmax(self.pick(scores, chosen)) if self.normalised else self.pick(ops.softmax(scores), chosen)
        # Every expert processes its tokens together: those of one expert are adjacent in `order`.
        flat = chosen.reshape(-1)
        order = np.argsort(flat, kind="stable")
        ends = np.cumsum(np.bincount(flat, minlength=len(self.experts)))
        tokens, results = (order // self.used).astype(np.int32), []
        for expert, start, end in zip(self.experts, [0, *ends[:-1]], ends, strict=True):
            if start < end:
                results.append(expert(ops.take(rows, tokens[start:end])))
        back = np.empty(len(order), np.int32)
        back[order] = np.arange(len(order), dtype=np.int32)
        outputs = ops.take(ops.concat(results, 0), back).reshape(B * T, self.used, C)
        return ops.add(ops.weighted_sum(outputs, weights).reshape(B, T, C), residual)


def most_probable(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the indices of the k highest scores of each row (M, k) int32, highest first, the lowest index first on ties."""
    return np.argsort(-scores, axis=1, kind="stable")[:, :k].astype(np.int32)


class Qwen3MoEBlock(Qwen3Block[Qwen3MoEConfig]):
    def make_mlp(self, c: Qwen3MoEConfig, layer: int) -> MixtureOfExperts:
        return MixtureOfExperts(c)


class Qwen3MoE(Qwen3[Qwen3MoEConfig]):
    """The model; parameters are drawn from `seed`."""

    config_class = Qwen3MoEConfig
    recordable = False  # which experts run depends on the tokens
    Block = Qwen3MoEBlock
    residual = ("attention.out.weight", ".down.weight")

    @classmethod
    def mlp_layout(cls, c: Qwen3MoEConfig, layer: int, hf: str, gguf: str) -> Layout:
        router = Part(f"{hf}.mlp.gate.weight", f"{gguf}.ffn_gate_inp.weight", (c.experts, c.width))
        yield "mlp.router.weight", [router]
        for e in range(c.experts):
            theirs, up, down = f"{hf}.mlp.experts.{e}", (c.expert_ffn, c.width), (c.width, c.expert_ffn)
            yield (
                f"mlp.experts.{e}.gate_up.weight",
                [
                    Part(f"{theirs}.{n}_proj.weight", f"{gguf}.ffn_{n}_exps.weight", up, gguf_index=e)
                    for n in ("gate", "up")
                ],
            )
            part = Part(f"{theirs}.down_proj.weight", f"{gguf}.ffn_down_exps.weight", down, gguf_index=e)
            yield f"mlp.experts.{e}.down.weight", [part]
