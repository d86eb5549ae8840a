"""The models that torch trains beside llmcore, and decodes with, in torch alone: nanoGPT's GPT-2, and a Llama.

    python -m benchmarks.gpu.torch_models      # compiles both, so that the benchmarks find in torch's cache what takes longest

Autocast to bfloat16 with float32 weights, scaled_dot_product_attention, fused AdamW, gradients clipped to a norm of 1. All
parameters have llmcore's names.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

LR, BETAS, EPS, DECAY, CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0
# The vocabulary is that of nanoGPT: padded to a multiple of 128, which is faster for torch.
SIZES = {
    "gpt2": {"vocab_size": 50304, "context": 1024, "width": 768, "layers": 12, "heads": 12},
    "llama": {"vocab_size": 32000, "context": 1024, "width": 1024, "layers": 24, "heads": 16},
}
ROWS = {"gpt2": 32, "llama": 16}
TINY = {"vocab_size": 96, "context": 16, "width": 64, "layers": 2, "heads": 2}


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, bias: bool):
        super().__init__()
        self.size, self.kv_heads = width // heads, kv_heads
        self.widths = [width, kv_heads * self.size, kv_heads * self.size]
        self.qkv, self.out = nn.Linear(width, sum(self.widths), bias), nn.Linear(width, width, bias)

    def forward(self, x, turned=None, cache=None):
        B, T, C = x.shape
        q, k, v = (t.view(B, T, -1, self.size).transpose(1, 2) for t in self.qkv(x).split(self.widths, -1))
        if turned is not None:
            q, k = rotated(q, *turned), rotated(k, *turned)
        if cache is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != self.kv_heads)
        else:  # of one position: the heads that share keys are rows of one product
            y = F.scaled_dot_product_attention(q.reshape(B, self.kv_heads, -1, self.size), *cache.put(k, v))
            y = y.reshape(B, -1, T, self.size)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


def rotated(x, cos, sin):
    half = torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)
    return (x * cos + half * sin).to(x.dtype)


class GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attention = Attention(width, heads, kv_heads, bias=True)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, turned, cache=None):
        x = x + self.attention(self.norm1(x), None, cache)
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))


class SwiGLU(nn.Module):
    def __init__(self, width: int, ffn: int):
        super().__init__()
        self.gate_up, self.down = nn.Linear(width, 2 * ffn, bias=False), nn.Linear(ffn, width, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.attention = Attention(width, heads, kv_heads, bias=False)
        self.mlp = SwiGLU(width, -(-8 * width // (3 * 64)) * 64)

    def forward(self, x, turned, cache=None):
        x = x + self.attention(self.norm1(x), turned, cache)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """ids and targets (B, T) -> mean loss."""

    def __init__(
        self,
        kind: str,
        vocab_size: int,
        context: int,
        width: int,
        layers: int,
        heads: int,
        kv_heads: int | None = None,
        rope_base: float = 10000.0,
    ):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width) if kind == "gpt2" else None
        block = GPT2Block if kind == "gpt2" else LlamaBlock
        self.blocks = nn.ModuleList(block(width, heads, kv_heads or heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-5) if kind == "gpt2" else nn.RMSNorm(width, 1e-5)
        size = width // heads
        angle = torch.arange(context)[:, None] * rope_base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.cat((angle, angle), dim=1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, ids, targets):
        return F.cross_entropy(self.logits(ids).flatten(0, 1).float(), targets.flatten())

    def logits(self, ids):
        x, T = self.tokens(ids), ids.shape[1]
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        for block in self.blocks:
            x = block(x, (self.cos[:T], self.sin[:T]))
        return F.linear(self.norm(x), self.tokens.weight)


def loaded(model: Model, weights: dict[str, np.ndarray]) -> Model:
    """Load weights by llmcore's names."""
    model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
    return model


# ---- training ----


class TorchTraining:
    def __init__(
        self, kind: str, sizes: dict, device: str, compiled: bool, weights: dict[str, np.ndarray] | None = None
    ):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.device, self.model = device, Model(kind, **sizes)
        if weights is not None:
            loaded(self.model, weights)
        self.model.to(device)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
            {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model

    def step(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Train on ids and targets (B, T) in the host's memory; returns the loss before the update, without waiting for it."""
        ids, targets = (t.to(self.device, non_blocking=True) for t in (ids, targets))
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.forward(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


# ---- decoding ----


class Cache:
    """Of a layer: room for `length` keys and values, of which the steps before have written their positions."""

    def __init__(self, decoder: Decoder, B: int, heads: int, length: int, size: int):
        weight = decoder.model.tokens.weight
        self.decoder = decoder
        self.keys, self.values = (weight.new_zeros(B, heads, length, size) for _ in range(2))

    def put(self, k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """All keys, all values, and what is added to the scores: -inf for the positions that are still empty."""
        position = self.decoder.position
        return self.keys.index_copy_(2, position, k), self.values.index_copy_(2, position, v), self.decoder.mask


class Decoder:
    """Decodes greedily, one token of B sequences per step. Everything that changes between steps lies on the device, so that on a
    GPU a step is one CUDA graph."""

    def __init__(self, model: Model, B: int, length: int):
        self.model = model
        device, attention = model.cos.device, model.blocks[0].attention
        self.ids = torch.zeros(B, 1, dtype=torch.int64, device=device)
        self.position = torch.zeros(1, dtype=torch.int64, device=device)
        self.positions, self.seen = torch.arange(length, device=device), model.tokens.weight.new_zeros(1, 1, 1, length)
        self.caches = [Cache(self, B, attention.kv_heads, length, attention.size) for _ in model.blocks]
        self.graph = None
        if device.type == "cuda":  # as torch.cuda.graph's documentation has it: first some steps on another stream
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(3):
                    self._step()
            torch.cuda.current_stream().wait_stream(stream)
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self._step()

    @torch.no_grad()
    def _step(self) -> None:
        model, at = self.model, self.position
        self.mask = self.seen.masked_fill(self.positions > at, float("-inf"))
        x = model.tokens(self.ids)
        if model.positions is not None:
            x = x + model.positions(at)
        turned = model.cos[at], model.sin[at]
        for block, cache in zip(model.blocks, self.caches, strict=True):
            x = block(x, turned, cache)
        self.scores = F.linear(model.norm(x), model.tokens.weight)
        self.ids.copy_(self.scores.argmax(-1))
        self.position += 1

    def step(self) -> None:
        """Write the next token into `ids`."""
        self.graph.replay() if self.graph is not None else self._step()

    def read(self, prompt: np.ndarray) -> None:
        """(B, T): the text from its beginning, a position at a time."""
        self.position.zero_()
        for t in range(prompt.shape[1]):
            self.ids.copy_(torch.from_numpy(prompt[:, t : t + 1]))
            self.step()

    def logits(self, prompt: np.ndarray) -> torch.Tensor:
        """Return those of the last position."""
        self.read(prompt)
        return self.scores[:, -1].float()

    def seconds(self, prompt: np.ndarray, tokens: int) -> float:
        """For so many of every sequence; each is fetched when it is written, as a program needs it."""
        self.read(prompt)
        self.ids.tolist()
        began = time.perf_counter()
        for _ in range(tokens):
            self.step()
            self.ids.tolist()
        return time.perf_counter() - began


def keep_compiled() -> None:
    """Before anything is compiled: where its results lie for later processes."""
    folder = Path(tempfile.gettempdir(), f"llmcore-inductor-{os.getuid()}-gpu")
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small models, for a test of this file")
    args = parser.parse_args()
    keep_compiled()
    if args.tiny:
        torch.compiler.set_default_backend("aot_eager")  # no compiler of C++ or of GPU code
    for kind, sizes in SIZES.items():
        sizes = TINY if args.tiny else sizes
        began = time.perf_counter()
        training = TorchTraining(kind, sizes, args.device, compiled=True)
        ids = torch.zeros((2 if args.tiny else ROWS[kind], sizes["context"]), dtype=torch.int64)
        print(f"{kind}: loss {training.step(ids, ids).item():.3f}, {time.perf_counter() - began:.0f} s", flush=True)
        del training
        if args.device == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
