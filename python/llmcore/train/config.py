"""What a run is told: one dataclass a stage, the same names in Python, YAML files and command-line flags."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore import _device
from llmcore.train.fields import checked, one_of, option


@dataclass
class LoopConfig:
    """What every stage has: where to write, how long, how fast, how often."""

    default_warmup: ClassVar[int] = 50
    out: str = option("run", "Directory of the run: model, tokenizer, log, checkpoints.")
    steps: int = option(1000, "Parameter updates.")
    batch_size: int = option(16, "Sequences in one micro-batch.")
    accumulation: int = option(1, "Micro-batches in one update; gradients are normalised by tokens.")
    lr: float = option(1e-3, "Peak learning rate.")
    min_lr_ratio: float = option(0.1, "Final learning rate as a part of the peak.")
    warmup: int | None = option(
        None,
        "Updates of linear warm-up before the schedule; by default 50 in pretraining, 5 with rewards, else 10, and at most "
        "half of a short run.",
    )
    schedule: str = option("cosine", "Of the learning rate: cosine, linear, constant, or wsd (constant, then down).")
    decay: float = option(0.2, "Last part of all updates, in which wsd comes down.")
    optimizer: str = option("adamw", "adamw, muon (of matrices inside the blocks; adamw of the rest), lion or sgd.")
    weight_decay: float = option(0.1, "Decay of matrices, a learning rate of 1.")
    beta1: float = option(0.9, "AdamW's and Lion's first beta.")
    beta2: float = option(0.95, "AdamW's and Lion's second beta.")
    momentum: float = option(0.95, "Muon's and SGD's momentum.")
    ema: float = option(0.0, "Keep, measure and save weights averaged with this decay (0.999); 0 is off.")
    recompute: bool = option(
        False, "Keep only what goes into each block and compute the rest again for gradients: memory for time."
    )
    grad_clip: float = option(1.0, "Largest global gradient norm; 0 is off.")
    max_minutes: float = option(
        0.0, "Minutes, of a resumed run all of its, after which training ends, its learning rate down; 0 is off."
    )
    seed: int = option(0, "Seed of weights, batches and samples.")
    eval_every: int = option(200, "Updates between evaluations on held-out text; 0 is at the end only.")
    save_every: int = option(200, "Updates between checkpoints; 0 is at the end only.")
    keep: int = option(2, "Checkpoints to keep.")
    keep_best: bool = option(False, "Keep the model of the lowest held-out loss in best/ too.")
    log_to: list[str] = option([], "tensorboard, wandb: where else the log goes.")
    sample_every: int = option(200, "Updates between samples of what the model writes; 0 is never.")
    dtype: str | None = option(None, "float32 or bfloat16 compute; by default what the processor is fast at.")
    device: str | None = option(None, "cpu or cuda; by default what LLMCORE_DEVICE says, else cpu.")
    threads: int | None = option(None, "Threads; by default all that the process may use. Results do not depend on it.")

    def __post_init__(self):
        for f in dataclasses.fields(self):
            setattr(self, f.name, checked(f.name, getattr(self, f.name), f.type))
        self._derive()
        positive = ("steps", "batch_size", "accumulation", "keep", "layers", "width", "heads")
        for name in (f.name for f in dataclasses.fields(self)):
            value = getattr(self, name)
            if name in positive and value < (0 if name == "steps" and hasattr(self, "epochs") else 1):
                raise ValueError(f"[config] expected {name} >= 1, got {value}")
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if isinstance(value, float) and not math.isfinite(value):
                    raise ValueError(f"[config] expected {name} a finite number, got {value}")
                if value < 0:
                    raise ValueError(f"[config] expected {name} >= 0, got {value}")
                if isinstance(value, int) and value >= 2**63:
                    raise ValueError(f"[config] expected {name} below 2^63, got a larger number")
        for name in ("beta1", "beta2", "momentum", "ema"):
            if getattr(self, name) >= 1:
                raise ValueError(f"[config] expected {name} < 1, got {getattr(self, name)}")
        if self.decay > 1:
            raise ValueError(f"[config] expected decay in [0, 1], got {self.decay}")
        one_of("optimizer", self.optimizer, ("adamw", "muon", "lion", "sgd"))
        one_of("schedule", self.schedule, ("cosine", "linear", "constant", "wsd"))
        for name in self.log_to:
            one_of("log_to", name, ("tensorboard", "wandb"))
        if self.min_lr_ratio > 1:
            raise ValueError(f"[config] expected min_lr_ratio <= 1, got {self.min_lr_ratio}")
        if self.dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"[config] expected dtype 'float32' or 'bfloat16', got {self.dtype!r}")
        if self.device is not None:
            self.device = _device.named(self.device)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise ValueError(f"[config] expected threads from 1 to 1024, got {self.threads}")

    def _derive(self) -> None:
        """Give what follows from other fields."""

    def warmup_updates(self) -> int:
        """`warmup`, or what it is by default for as many steps as there are now."""
        return min(self.default_warmup, self.steps // 2) if self.warmup is None else self.warmup

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]):
        """From names and values. ValueError names what is unknown."""
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise ValueError(f"[config] expected one of {', '.join(sorted(known))}, got {name!r}")
        return cls(**values)

    @classmethod
    def read_yaml(cls, path: str | os.PathLike) -> dict[str, Any]:
        """The names and values of a YAML file; dashes in names count as underscores."""
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except FileNotFoundError:
            raise FileNotFoundError(f"[config] expected a YAML file, got {path}, which is not there") from None
        except RecursionError:
            raise ValueError(f"[config] {path}: expected YAML, got one that is nested too deeply") from None
        except (yaml.YAMLError, ValueError, OSError) as e:  # ValueError: not UTF-8, a date or a number that cannot be
            raise ValueError(f"[config] {path}: expected YAML, got {' '.join(str(e).split())}") from None
        if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
            raise ValueError(f"[config] {path}: expected names with values, got {type(values).__name__}")
        return {k.replace("-", "_"): v for k, v in values.items()}


@dataclass
class PretrainConfig(LoopConfig):
    """A language model from raw text."""

    data: str | list[str] = option(
        "python-docs",
        "python-docs, or a text file, JSONL, parquet, folder or glob, a directory that `llmcore tokenize --out` made, or "
        "nanoGPT's or llm.c's .bin.",
    )
    weights: list[float] = option(
        [], "How often each of several --data comes, in any unit; by default they are one text."
    )
    isolate: bool = option(False, "Keep documents in a row apart: none sees another.")
    field: str = option("text", "The field of JSONL, or column of parquet, that holds the text.")
    validation_fraction: float = option(0.1, "Part of the text that is held out (of shards, at most 16 MB).")
    tokenizer: str | None = option(None, "A tokenizer.json to use; by default one is trained on the text.")
    vocab_size: int = option(4096, "Vocabulary of the tokenizer that is trained.")
    pattern: str = option("cl100k", "How that tokenizer cuts text into pieces.")
    architecture: str = option("gpt2", "gpt2 or llama.")
    context: int = option(256, "Tokens the model sees at once.")
    depth: int = option(6, "The size as one number: what is 0 below follows from it.")
    layers: int = option(0, "Transformer blocks; 0: depth.")
    width: int = option(0, "Size of the residual stream; 0: 64 x depth.")
    heads: int = option(0, "Attention heads; 0: width / 64.")
    lr: float = option(0.0, "Peak learning rate; 0: 1e-3 at depth 6, less for wider models.")
    batch_size: int = option(0, "Sequences in one micro-batch; 0: 16, more for deeper models.")
    kv_heads: int | None = option(None, "Key/value heads (llama); by default as many as heads.")
    sample_prompts: list[str] = option(["The function returns", "If the file"], "Prompts of the samples.")
    sample_tokens: int = option(40, "Length of a sample.")
    watch: list[str] = option(
        [], 'Words whose vectors are recorded a hundred times, for `llmcore plot --words`: a group ("king queen").'
    )

    def _derive(self) -> None:
        if self.depth < 1:
            raise ValueError(f"[config] expected depth >= 1, got {self.depth}")
        self.layers = self.layers or self.depth
        self.width = self.width or 64 * self.depth
        self.heads = self.heads or max(1, self.width // 64)
        # Of AdamW, GPT-3's table (Brown et al. 2020) gives 6e-4 at width 768 and falls as fast; it is for larger batches.
        self.lr = self.lr or round(1e-3 * min(2.0, (384 / max(1, self.width)) ** 0.75), 6)
        # The batch that pays grows with what a model can learn (McCandlish et al. 2018).
        self.batch_size = self.batch_size or 16 * max(1, round(self.depth / 6))

    def __post_init__(self):
        super().__post_init__()
        if self.context < 1:
            raise ValueError(f"[config] expected context >= 1, got {self.context}")
        if self.weights:
            count = 1 if isinstance(self.data, str) else len(self.data)
            if len(self.weights) != count or not all(w > 0 and math.isfinite(w) for w in self.weights):
                raise ValueError(f"[config] expected {count} weights > 0, one for each data, got {self.weights}")
        if not all(group.split() for group in self.watch):
            raise ValueError(f"[config] expected words in every group to watch, got {self.watch}")
        if self.kv_heads is not None and self.kv_heads < 1:
            raise ValueError(f"[config] expected kv_heads >= 1, got {self.kv_heads}")
        if self.architecture not in ("gpt2", "llama"):
            raise ValueError(f"[config] expected architecture 'gpt2' or 'llama', got {self.architecture!r}")
        if not 0 < self.validation_fraction < 1:
            raise ValueError(f"[config] expected validation_fraction in (0, 1), got {self.validation_fraction}")


@dataclass
class FinetuneConfig(LoopConfig):
    """What every stage has that begins with a model."""

    default_warmup: ClassVar[int] = 10

    model: str = option("sft", "The model to begin with: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option("python-qa", "JSONL or parquet.")
    epochs: float = option(1.0, "How often all rows are learned, where --steps says nothing.")
    steps: int = option(0, "Parameter updates; 0: as many as the epochs take.")
    context: int = option(0, "Longest row in tokens; longer ones are cut. 0: as the model's, at most 512.")
    validation_fraction: float = option(0.05, "Part of the rows that is held out (of groups, where rows have one).")
    bad_rows: str = option("error", "What a row that cannot be used is: an error, or something to skip and count.")
    sample_tokens: int = option(60, "Length of a sample.")
    lora_rank: int = option(0, "Train adapters of this rank (LoRA) and leave the model as it is; 0 trains all of it.")
    lora_alpha: float = option(16.0, "What adapters learn counts alpha / rank.")
    lora_dropout: float = option(0.0, "Part of what adapters read that is left out while they are trained.")
    lora_targets: list[str] = option(
        ["all-linear"], "Layers that get adapters, by the ends of their names (q_proj), or all-linear."
    )
    quantize: str = option(
        "none",
        "Keep the frozen weights of a LoRA run small in memory (QLoRA): int8, int4, or stored (as they are in the file).",
    )
    batch_size: int = option(8, "Rows in one micro-batch.")
    weight_decay: float = option(0.0, "Decay of matrices, a learning rate of 1.")

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.validation_fraction < 1:
            raise ValueError(f"[config] expected validation_fraction in [0, 1), got {self.validation_fraction}")
        if not self.steps and not self.epochs:
            raise ValueError("[config] expected steps or epochs > 0, got 0 of both")
        if self.bad_rows not in ("error", "skip"):
            raise ValueError(f"[config] expected bad_rows error or skip, got {self.bad_rows!r:.100}")
        if self.quantize not in ("none", "int8", "int4", "stored"):
            raise ValueError(f"[config] expected quantize none, int8, int4 or stored, got {self.quantize!r:.100}")
        if self.quantize != "none" and not self.lora_rank:
            raise ValueError("[config] expected lora_rank with quantize: quantized weights are not trained")
        if not self.lora_alpha:
            raise ValueError("[config] expected lora_alpha > 0, got 0")
        if self.lora_dropout and self.recompute:
            raise ValueError("[config] expected lora_dropout 0 with recompute: what was dropped would differ")
        if self.lora_dropout >= 1:
            raise ValueError(f"[config] expected lora_dropout in [0, 1), got {self.lora_dropout}")


@dataclass
class SFTConfig(FinetuneConfig):
    """A model that answers, from one that continues texts: supervised fine-tuning."""

    model: str = option("run", "The model to begin with: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option(
        "python-qa", "python-qa, or JSONL or parquet with messages, prompt and completion, or text."
    )
    packing: bool = option(True, "Put several examples in a row; they do not see each other.")
    out: str = option("sft", "Directory of the run: model, tokenizer, log, checkpoints.")
    lr: float = option(2e-5, "Peak learning rate (with LoRA, about ten times as much).")


@dataclass
class DPOConfig(FinetuneConfig):
    """A model that prefers better answers, from one that answers: direct preference optimisation and its relatives."""

    model: str = option("sft", "The model to begin with, and to stay near: a directory, .gguf file or pulled name.")
    data: str | list[str] = option("prefer.jsonl", "JSONL or parquet with prompt, chosen and rejected.")
    loss_type: str = option(
        "sigmoid",
        "sigmoid (DPO), hinge, ipo, robust, exo_pair, nca_pair, bco_pair, sppo_hard, apo_zero, apo_down, discopop, "
        "sigmoid_norm, simpo or orpo.",
    )
    beta: float = option(0.1, "How dear it is to leave the model to begin with.")
    label_smoothing: float = option(0.0, "How often a pair is thought to be the wrong way round.")
    gamma: float = option(0.5, "SimPO's margin.")
    out: str = option("dpo", "Directory of the run: model, tokenizer, log, checkpoints.")
    batch_size: int = option(8, "Pairs in one micro-batch.")
    lr: float = option(1e-6, "Peak learning rate (with LoRA, about ten times as much).")

    def __post_init__(self):
        super().__post_init__()
        if self.beta == 0:
            raise ValueError("[config] expected beta > 0, got 0")
        if self.label_smoothing >= 0.5:
            raise ValueError(f"[config] expected label_smoothing in [0, 0.5), got {self.label_smoothing}")


@dataclass
class KTOConfig(FinetuneConfig):
    """A model that prefers better answers, from single answers that are good or bad."""

    model: str = option("sft", "The model to begin with, and to stay near: a directory, .gguf file or pulled name.")
    data: str | list[str] = option("answers.jsonl", "JSONL or parquet with prompt, completion and label, or pairs.")
    beta: float = option(0.1, "How dear it is to leave the model to begin with.")
    desirable_weight: float = option(1.0, "What a good answer counts.")
    undesirable_weight: float = option(1.0, "What a bad answer counts.")
    out: str = option("kto", "Directory of the run: model, tokenizer, log, checkpoints.")
    batch_size: int = option(8, "Answers in one micro-batch.")
    lr: float = option(1e-6, "Peak learning rate (with LoRA, about ten times as much).")

    def __post_init__(self):
        super().__post_init__()
        if self.beta == 0:
            raise ValueError("[config] expected beta > 0, got 0")


@dataclass
class RewardConfig(FinetuneConfig):
    """A model that says how good an answer is, from pairs of which one is preferred."""

    model: str = option("sft", "The model to begin with: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option("prefer.jsonl", "JSONL or parquet with prompt, chosen, rejected, maybe margin.")
    centering: float = option(0.01, "What keeps the rewards of a pair around 0 together.")
    out: str = option("reward", "Directory of the run: model, tokenizer, log, checkpoints.")
    batch_size: int = option(8, "Pairs in one micro-batch.")
    lr: float = option(1e-5, "Peak learning rate (with LoRA, about ten times as much).")


@dataclass
class PolicyConfig(FinetuneConfig):
    """What the stages have in which a model writes and is rewarded."""

    default_warmup: ClassVar[int] = 5

    model: str = option("sft", "The model to begin with, and to stay near: a directory, .gguf file or pulled name.")
    data: str | list[str] = option("arithmetic", "arithmetic, python-qa, or JSONL or parquet with prompt.")
    rewards: list[str] = option(
        ["arithmetic"],
        "What an answer is worth: arithmetic, valid_python, length, FILE.py:FUNCTION, or the folder of a reward model.",
    )
    reward_weights: list[float] = option([], "What each reward counts; by default 1.")
    max_tokens: int = option(64, "Tokens of an answer at most.")
    temperature: float = option(1.0, "Of the answers that are drawn.")
    top_p: float = option(1.0, "Of the answers that are drawn; 1 is off.")
    top_k: int = option(0, "Of the answers that are drawn; 0 is off.")
    bad_rows: str = option("error", "What rows, and rewards that fail, are: an error, or something to skip and count.")
    lr: float = option(1e-6, "Peak learning rate (with LoRA, about ten times as much).")
    batch_size: int = option(8, "Answers in one micro-batch.")
    accumulation: int = option(4, "Micro-batches in one update.")

    @property
    def together(self) -> int:
        """Answers in one update."""
        return self.batch_size * self.accumulation

    def __post_init__(self):
        super().__post_init__()
        if self.temperature == 0:
            raise ValueError("[config] expected temperature > 0, got 0: answers that are all alike teach nothing")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"[config] expected top_p in (0, 1], got {self.top_p}")
        if not 0 < self.max_tokens < (self.context or math.inf):
            raise ValueError(f"[config] expected max_tokens from 1 to below context, got {self.max_tokens}")
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise ValueError(
                f"[config] expected {len(self.rewards)} reward_weights, one for each reward, got {len(self.reward_weights)}"
            )


@dataclass
class GRPOConfig(PolicyConfig):
    """A model that is rewarded for its answers, each against the others to the same prompt: group relative policy
    optimisation and its relatives."""

    group: int = option(8, "Answers to a prompt.")
    updates: int = option(1, "Updates from the same answers.")
    loss_type: str = option("dapo", "grpo, bnpo, dapo, dr_grpo, cispo or gspo.")
    beta: float = option(0.0, "How dear it is to leave the model to begin with; 0 keeps no copy of it.")
    epsilon: float = option(0.2, "How far a token's probability may move before the gain is cut.")
    epsilon_high: float | None = option(None, "The same upwards; by default epsilon (cispo: 5).")
    out: str = option("grpo", "Directory of the run: model, tokenizer, log, checkpoints.")

    def __post_init__(self):
        super().__post_init__()
        if self.loss_type not in ("grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo"):
            raise ValueError(
                f"[config] expected loss_type grpo, bnpo, dapo, dr_grpo, cispo or gspo, got {self.loss_type!r:.100}"
            )
        if self.updates < 1:
            raise ValueError(f"[config] expected updates >= 1, got {self.updates}")
        if self.group < 2 or self.together % self.group:
            raise ValueError(
                f"[config] expected group of at least 2 that divides batch_size * accumulation = {self.together}, got "
                f"{self.group}"
            )


@dataclass
class PPOConfig(PolicyConfig):
    """A model that is rewarded for its answers and learns to foresee the reward: proximal policy optimisation."""

    updates: int = option(4, "Updates from the same answers.")
    kl: float = option(0.05, "How dear it is to leave the model to begin with, a token.")
    kl_estimator: str = option("k1", "k1, log p - log ref, or k3, which is never negative (Schulman 2020).")
    clip: float = option(0.2, "How far a token's probability may move before the gain is cut.")
    value_clip: float = option(0.2, "How far a value may move at a time.")
    value_weight: float = option(0.1, "What the loss of the values counts.")
    gamma: float = option(1.0, "What a reward counts a token earlier.")
    lam: float = option(0.95, "Lambda of the generalised advantages: 0 trusts the values, 1 the rewards.")
    temperature: float = option(0.7, "Of the answers that are drawn.")
    lr: float = option(3e-6, "Peak learning rate (with LoRA, about ten times as much).")
    out: str = option("ppo", "Directory of the run: model, tokenizer, log, checkpoints.")

    def __post_init__(self):
        super().__post_init__()
        if self.updates < 1:
            raise ValueError(f"[config] expected updates >= 1, got {self.updates}")
        if self.kl_estimator not in ("k1", "k3"):
            raise ValueError(f"[config] expected kl_estimator k1 or k3, got {self.kl_estimator!r:.100}")
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                raise ValueError(f"[config] expected {name} in [0, 1], got {getattr(self, name)}")
