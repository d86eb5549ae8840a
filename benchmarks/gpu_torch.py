"""The models that torch trains beside llmcore, in torch alone: nanoGPT's GPT-2, and a Llama.

    python benchmarks/gpu_torch.py      # compiles both, so that the benchmarks find in torch's cache what takes longest

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
    def __init__(self, width: int, heads: int, bias: bool):
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width, bias), nn.Linear(width, width, bias)

    def forward(self, x, turned=None):
        B, T, C = x.shape
        q, k, v = self.qkv(x).view(B, T, 3, self.heads, C // self.heads).permute(2, 0, 3, 1, 4)
        if turned is not None:
            q, k = rotated(q, *turned), rotated(k, *turned)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(y.transpose(1, 2).reshape(B, T, C))


def rotated(x, cos, sin):
    half = torch.cat((-x[..., x.shape[-1] // 2 :], x[..., : x.shape[-1] // 2]), dim=-1)
    return (x * cos + half * sin).to(x.dtype)


class GPT2Block(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-5), nn.LayerNorm(width, 1e-5)
        self.attention = Attention(width, heads, bias=True)
        self.mlp_in, self.mlp_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, turned):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))


class SwiGLU(nn.Module):
    def __init__(self, width: int, ffn: int):
        super().__init__()
        self.gate_up, self.down = nn.Linear(width, 2 * ffn, bias=False), nn.Linear(ffn, width, bias=False)

    def forward(self, x):
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.down(F.silu(gate) * up)


class LlamaBlock(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.RMSNorm(width, 1e-5), nn.RMSNorm(width, 1e-5)
        self.attention = Attention(width, heads, bias=False)
        self.mlp = SwiGLU(width, -(-8 * width // (3 * 64)) * 64)

    def forward(self, x, turned):
        x = x + self.attention(self.norm1(x), turned)
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    """ids and targets (B, T) -> mean loss."""

    def __init__(self, kind: str, vocab_size: int, context: int, width: int, layers: int, heads: int):
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, width)
        self.positions = nn.Embedding(context, width) if kind == "gpt2" else None
        block = GPT2Block if kind == "gpt2" else LlamaBlock
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(layers))
        self.norm = nn.LayerNorm(width, 1e-5) if kind == "gpt2" else nn.RMSNorm(width, 1e-5)
        size = width // heads
        angle = torch.arange(context)[:, None] * 10000.0 ** (-torch.arange(0, size, 2, dtype=torch.float64) / size)
        angle = torch.cat((angle, angle), dim=1)
        self.register_buffer("cos", angle.cos().float(), persistent=False)
        self.register_buffer("sin", angle.sin().float(), persistent=False)

    def forward(self, ids, targets):
        x, T = self.tokens(ids), ids.shape[1]
        if self.positions is not None:
            x = x + self.positions.weight[:T]
        for block in self.blocks:
            x = block(x, (self.cos[:T], self.sin[:T]))
        logits = F.linear(self.norm(x), self.tokens.weight)
        return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())


class TorchTraining:
    def __init__(
        self, kind: str, sizes: dict, device: str, compiled: bool, weights: dict[str, np.ndarray] | None = None
    ):
        torch.manual_seed(0)
        torch.set_float32_matmul_precision("high")
        self.device, self.model = device, Model(kind, **sizes)
        if weights is not None:
            self.model.load_state_dict({name: torch.from_numpy(w.copy()) for name, w in weights.items()})
        self.model.to(device)
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
            {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model

    def step(self, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Of (B, T) in the host's memory; the loss before the update, which nobody waits for."""
        ids, targets = (t.to(self.device, non_blocking=True) for t in (ids, targets))
        with torch.autocast(self.device, dtype=torch.bfloat16):
            loss = self.forward(ids, targets)
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.detach()


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
