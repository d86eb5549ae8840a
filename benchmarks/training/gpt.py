"""One GPT, trained by llmcore and by torch: the same weights, batches, arithmetic and updates.

Learned positions, layer norm, GELU (tanh), tied output layer, products in the dtype asked for with float32 master weights
and float32 logits, AdamW with gradients clipped to a norm of 1.
"""

from __future__ import annotations

import numpy as np

from llmcore import autograd, models, optim

# The rate is small: without a warm-up a hard batch throws both libraries off course, each its own way.
LR, BETAS, EPS, DECAY, CLIP = 1e-4, (0.9, 0.95), 1e-8, 0.1, 1.0


def initial_weights(config: models.GPT2Config, seed: int = 0) -> dict[str, np.ndarray]:
    """By llmcore's names, which the torch model has too."""
    return {name: w.copy() for name, w in models.GPT2(config, "float32", seed).state_dict().items()}


def trainer(library: str, config: models.GPT2Config, weights: dict[str, np.ndarray], dtype: str):
    """An object with step(inputs, targets) -> loss before the update; ids are (B, T) int32."""
    if library == "llmcore":
        return LlmcoreTrainer(config, weights, dtype)
    return TorchTrainer(config, weights, dtype, compiled=library == "torch compiled")


class LlmcoreTrainer:
    """What the loop of llmcore.train does at every step."""

    def __init__(self, config, weights, dtype):
        self.model = models.GPT2(config, dtype)
        self.model.load_state_dict(weights)
        self.optimizer = optim.AdamW(self.model.named_parameters(), LR, BETAS, EPS, DECAY)

    def step(self, inputs: np.ndarray, targets: np.ndarray, lr: float = LR) -> float:
        self.model.zero_grad()
        loss = self.model.loss(inputs, targets)
        loss.backward()
        norm = optim.global_norm(self.model.parameters())
        self.optimizer.step(grad_scale=min(1.0, CLIP / norm), lr=lr)
        return loss.item()

    def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Summed over all targets that are not -1."""
        with autograd.no_grad():
            return self.model.loss(inputs, targets, "sum").item()


class TorchTrainer:
    """The usual way in torch: autocast (for bfloat16), scaled_dot_product_attention, fused AdamW."""

    def __init__(self, config, weights, dtype, compiled: bool):
        import torch

        self.torch = torch
        self.half = dtype == "bfloat16"
        sizes = ("vocab_size", "context", "width", "layers", "heads", "eps")
        self.model = torch_gpt(**{name: getattr(config, name) for name in sizes})
        self.model.load_state_dict({_torch_name(k): torch.from_numpy(w.copy()) for k, w in weights.items()})
        groups = [
            {"params": [p for p in self.model.parameters() if p.ndim >= 2], "weight_decay": DECAY},
            {"params": [p for p in self.model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=LR, betas=BETAS, eps=EPS, fused=True)
        self.forward = torch.compile(self.model, dynamic=False) if compiled else self.model

    def step(self, inputs: np.ndarray, targets: np.ndarray, lr: float = LR) -> float:
        torch = self.torch
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        x, y = (torch.from_numpy(a.astype(np.int64)) for a in (inputs, targets))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            loss = self.forward(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return loss.item()

    def nats(self, inputs: np.ndarray, targets: np.ndarray) -> float:
        """Summed over all targets that are not -1."""
        torch = self.torch
        x, y = (torch.from_numpy(a.astype(np.int64)) for a in (inputs, targets))
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.half):
            return self.model(x, y).item() * int((targets != -1).sum())


def _torch_name(name: str) -> str:
    return name.replace("attention.qkv", "qkv").replace("attention.out", "attention_out")


def torch_gpt(vocab_size: int, context: int, width: int, layers: int, heads: int, eps: float):
    """A torch module; for its parameters' names see `_torch_name`."""
    from torch import arange, nn
    from torch.nn import functional as F

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1 = nn.LayerNorm(width, eps)
            self.qkv = nn.Linear(width, 3 * width)
            self.attention_out = nn.Linear(width, width)
            self.norm2 = nn.LayerNorm(width, eps)
            self.mlp_in = nn.Linear(width, 4 * width)
            self.mlp_out = nn.Linear(4 * width, width)

        def forward(self, x):
            B, T, _ = x.shape
            q, k, v = self.qkv(self.norm1(x)).view(B, T, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.attention_out(y.transpose(1, 2).reshape(B, T, width))
            return x + self.mlp_out(F.gelu(self.mlp_in(self.norm2(x)), approximate="tanh"))

    class GPT(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(vocab_size, width)
            self.positions = nn.Embedding(context, width)
            self.blocks = nn.ModuleList(Block() for _ in range(layers))
            self.norm = nn.LayerNorm(width, eps)

        def forward(self, ids, targets):
            x = self.tokens(ids) + self.positions(arange(ids.shape[1]))
            for block in self.blocks:
                x = block(x)
            logits = F.linear(self.norm(x), self.tokens.weight)
            return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-1)

    return GPT()
