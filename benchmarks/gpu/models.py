"""The GPU's rows of whole models: training steps beside torch.compile, decoding beside transformers and torch alone."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import numpy as np
import torch

from benchmarks.generation.generate import Llmcore
from benchmarks.gpu.timing import Row, difference, where
from benchmarks.gpu.torch_models import BETAS, CLIP, DECAY, LR, ROWS, SIZES, TINY, Decoder, Model, TorchTraining, loaded
from llmcore import models
from llmcore.bench.model import _weight_bytes
from llmcore.generate import Engine
from llmcore.models import DecodeStep
from llmcore.train import PretrainConfig, Report, loop
from llmcore.train.distributed.group import SingleProcess
from llmcore.train.stage import Stage

# Of the loss at every step: products summed in different orders, amplified by every update.
AGREEMENT = 0.01
STEPS = 3  # updates of a turn
PROMPT, WRITTEN = 16, 32  # tokens

TRAINED = {
    "gpt2": ("GPT-2 124M", models.GPT2, models.GPT2Config, 1.0, 0.45),
    "llama": ("Llama 350M", models.Llama, models.LlamaConfig, 1.0, None),
}
SMOLLM2 = models.LlamaConfig(vocab_size=49152, context=2048, width=576, layers=30, heads=9, kv_heads=3, ffn=1536,
                             rope_base=100000.0)  # fmt: skip
DECODED = {"SmolLM2-135M (random weights)": (models.Llama, SMOLLM2), "GPT-2 124M (random weights)":
           (models.GPT2, models.GPT2Config())}  # fmt: skip
SMALL = {
    models.Llama: models.LlamaConfig(vocab_size=96, context=96, width=64, layers=2, heads=4, kv_heads=2),
    models.GPT2: models.GPT2Config(vocab_size=96, context=96, width=64, layers=2, heads=2),
}


def rows() -> Iterator[tuple[str, Callable[[], Row]]]:
    """(name, what makes the row)"""
    for kind, (name, *_) in TRAINED.items():
        B, T = (2, TINY["context"]) if where.tiny else (ROWS[kind], SIZES[kind]["context"])
        yield f"training step {name}, B={B} T={T}", lambda k=kind, n=B: training(k, n)
    for compiled in (False, True) if importlib.util.find_spec("transformers") and not where.tiny else (False,):
        for name, (model, config) in DECODED.items():
            for batch in (1, 3) if where.tiny else (1, 64):
                yield (
                    f"decode {name}, batch {batch}{', beside compiled transformers' if compiled else ''}",
                    lambda m=model, c=config, b=batch, x=compiled: decoding(m, c, b, x),
                )


# ---- training ----


class Batches(Stage):
    """What `llmcore pretrain` does at every update, of batches that lie in memory."""

    name = "benchmark"

    def __init__(self, model, made: list):
        self.model, self._made = model, made

    def batches(self, step):
        return [self._made[step % len(self._made)]]

    def tokens(self, batch):
        return batch[0].size

    def loss(self, batch):
        return self.model.loss(*batch, "sum"), batch[1].size


def training(kind: str, B: int) -> Row:
    """An update is forward, backward, the gradients' norm, clipping and AdamW. Operations: a multiply-add is two;
    6 for each number of a matrix (the output layer counts, the lookup of embeddings does not), and for attention
    6 L T C per token: causal, so T / 2 keys, two products forward, twice as much backward."""
    _, make, config_class, asked, share = TRAINED[kind]
    sizes = TINY if where.tiny else SIZES[kind]
    T, V = sizes["context"], sizes["vocab_size"]
    model = make(config_class(**sizes), "bfloat16", 0)
    rng = np.random.default_rng(0)
    made = [tuple(rng.integers(0, V, (B, T), np.int32) for _ in range(2)) for _ in range(4)]
    config = PretrainConfig(out="unused", steps=1 << 30, lr=LR, warmup=0, schedule="constant", batch_size=B, context=T,
                            beta1=BETAS[0], beta2=BETAS[1], weight_decay=DECAY, grad_clip=CLIP)  # fmt: skip
    torch_made = [tuple(torch.from_numpy(a.astype(np.int64)) for a in batch) for batch in made]
    if where.torch_device == "cuda":
        torch_made = [tuple(t.pin_memory() for t in batch) for batch in torch_made]
    theirs = TorchTraining(kind, sizes, where.torch_device, not where.tiny, model.state_dict())
    stage = Batches(model, made)
    run = loop.Run(stage, config, Report(), SingleProcess())
    done = {"llmcore": 0, "torch": 0}

    def own_step() -> float:
        row = run.update(done["llmcore"], 0, stage.batches)
        done["llmcore"] += 1
        return row["train/loss"]

    def their_step() -> torch.Tensor:
        loss = theirs.step(*torch_made[done["torch"] % len(torch_made)])
        done["torch"] += 1
        return loss

    def check(row: Row) -> float:
        apart = 0.0
        for step in range(4):
            a = own_step()
            b = row.of("torch compiled", lambda: their_step().item()) if "torch compiled" in row.sides else None
            if b is not None:
                apart = max(apart, abs(a - b) / b)
                assert apart < AGREEMENT, f"losses of step {step} are {a:.4f} and {b:.4f}"
        return apart

    def several(step: Callable) -> Callable[[int], None]:
        def call(number):
            for _ in range(STEPS):
                step()

        return call

    flops = STEPS * B * T * model.training_flops(T)
    notes = {"tokens": B * T, "parameters": model.num_parameters}
    sides = {"llmcore": several(own_step), "torch compiled": several(their_step)}
    return Row(sides, "bfloat16", flops=flops, asked=asked, share=share, check=check, units=STEPS, notes=notes)


# ---- decoding ----


class Ours(Llmcore):
    """The engine of `LanguageModel.generate`, with a model without a tokenizer."""

    def __init__(self, model):
        self.lm = SimpleNamespace(model=model, engine=Engine(model, cache_bytes=1 << (24 if where.tiny else 31)))


class Theirs:
    """`generate` of transformers with its static cache, greedily and without an end; compiled: as it does by itself, else
    with disable_compile."""

    def __init__(self, model, compiled: bool):
        import transformers

        values = {k: v for k, v in model.config.to_hf().items() if k != "architectures"}
        config = transformers.AutoConfig.for_model(**values, bos_token_id=None, eos_token_id=None, pad_token_id=0)
        self.model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="sdpa").eval()
        found = self.model.load_state_dict({k: torch.tensor(v) for k, v in model.to_hf().items()}, strict=False)
        assert not found.unexpected_keys, f"transformers does not know {found.unexpected_keys}"
        assert set(found.missing_keys) <= {"lm_head.weight"}, f"transformers misses {found.missing_keys}"
        self.model.tie_weights()
        self.model.to(where.torch_device, torch.bfloat16)
        self.options = {"do_sample": False, "cache_implementation": "static", "disable_compile": not compiled}

    def logits(self, ids: np.ndarray) -> torch.Tensor:
        """Of the last position."""
        with torch.no_grad():
            return self.model(torch.tensor(ids, device=where.torch_device)).logits[:, -1].float()

    def seconds(self, prompts: np.ndarray, tokens: int) -> float:
        """For so many of every sequence, without the prefill and the first ones."""
        return max(self._run(prompts, tokens + 8) - self._run(prompts, 8), 1e-9)

    def _run(self, prompts: np.ndarray, tokens: int) -> float:
        ids = torch.tensor(prompts, device=where.torch_device)
        began = time.perf_counter()
        found = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, min_new_tokens=tokens, **self.options
        )
        assert found.cpu().shape[1] == prompts.shape[1] + tokens
        return time.perf_counter() - began


def torch_decoder(model, batch: int) -> Decoder:
    """Torch's model with the same weights in bfloat16."""
    config, kind = model.config, "gpt2" if isinstance(model, models.GPT2) else "llama"
    sizes = {name: getattr(config, name) for name in SIZES[kind]}
    if kind == "llama":
        sizes |= {"kv_heads": config.kv_heads, "rope_base": config.rope_base}
    theirs = loaded(Model(kind, **sizes), model.state_dict()).to(where.torch_device)
    for p in theirs.parameters():  # alone: the tables of rotation stay float32
        p.data = p.data.to(torch.bfloat16)
    return Decoder(theirs, batch, -(-(PROMPT + WRITTEN) // 64) * 64)


def decoding(make, config, batch: int, compiled: bool) -> Row:
    """Seconds of a step that writes a token of every sequence. The floor reads the weights once, and the keys and values
    of the sequences."""
    config = SMALL[make] if where.tiny else config
    model = make(config, "bfloat16", 0)
    ours, rng = Ours(model), np.random.default_rng(batch)

    def prompts() -> np.ndarray:
        return rng.integers(0, config.vocab_size, (batch, PROMPT), np.int64)

    def check(row: Row) -> float:
        """Compare the recorded step's logits after a prompt with every peer's, and run all sides."""
        ids = prompts()
        cache = model.new_cache(batch, PROMPT + 8)
        step, got = DecodeStep(model, cache), None
        for t in range(PROMPT):
            got = step(ids[:, t : t + 1].astype(np.int32))
        apart = 0.0
        for name in [name for name in peers if name in row.sides]:
            theirs = row.of(name, peers[name].logits, ids)
            if theirs is not None:
                # A float32 logit is a sum over the width of what dozens of blocks have rounded to bfloat16.
                apart = max(apart, difference(got.reshape([batch, -1]), theirs, "bfloat16", 4.0))
        for name, side in list(row.sides.items()):
            row.of(name, side, 0)
        return apart

    head = config.head_size * getattr(config, "kv_heads", config.heads)
    kept = 4 * config.layers * head * batch * (PROMPT + WRITTEN / 2)
    traffic = WRITTEN * (_weight_bytes(model) + kept)
    asked, share = (None, None) if compiled else (3.0, 0.5 if batch == 1 else None)
    named = f"transformers, static cache, {'compiled' if compiled else 'eager'}"
    row = Row({"llmcore": lambda i: ours.decode(prompts().tolist(), WRITTEN)}, "bfloat16", traffic=traffic, asked=asked,
              asked_of=named, share=share, check=check, clocked=True, units=WRITTEN)  # fmt: skip
    made: dict[str, Callable] = {named: lambda: Theirs(model, compiled)}
    if not compiled:
        made[f"torch, static cache, {'CUDA graph' if where.torch_device == 'cuda' else 'eager'}"] = lambda: (
            torch_decoder(model, batch)
        )
    peers = {}
    for name, start in made.items():
        row.sides[name] = lambda i, n=name: peers[n].seconds(prompts(), WRITTEN)
        peers[name] = row.of(name, start)
    return row
