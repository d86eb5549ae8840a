"""The settings of a run: one dataclass per stage, with the same names in Python, YAML files and command-line flags."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from llmcore import _device
from llmcore._fields import checked, either, one_of, option
from llmcore.errors import Error, MissingFileError
from llmcore.generate.chat.names import LEARN
from llmcore.losses.names import DPO_LOSSES, GRPO_LOSSES, REFERENCE_FREE_LOSSES
from llmcore.train.schedule import SCHEDULES

OPTIMIZERS = ("adamw", "muon", "lion", "sgd")
PAIR_LOSSES = (*DPO_LOSSES, *REFERENCE_FREE_LOSSES)

_LEARN = (
    f"What is learned of {{}}: {either(LEARN)} (what the chat template says is generated); by default marked where the template "
    "has such marks, else all-turns."
)
_LR = "Peak learning rate; 0: {} for a model 4096 wide, more for narrower ones, and ten times as much with LoRA."


@dataclass
class LoopConfig:
    """The settings that all stages share: where to write, how long, how fast, how often."""

    default_warmup: ClassVar[int] = 50
    at_least_one: ClassVar[tuple[str, ...]] = ("steps", "batch_size", "accumulation", "keep")

    out: str = option("run", "Directory of the run: model, tokenizer, log and checkpoints.")
    steps: int = option(1000, "Number of parameter updates.")
    batch_size: int = option(16, "Sequences per micro-batch.")
    accumulation: int = option(1, "Micro-batches per update; gradients are normalised by the number of tokens.")
    lr: float = option(1e-3, "Peak learning rate.")
    min_lr_ratio: float = option(0.1, "Final learning rate as a fraction of the peak.")
    warmup: int | None = option(
        None,
        "Updates of linear warm-up before the schedule; by default 50 for pretraining, 5 for training with rewards, else 10, "
        "but at most half of the run.",
    )
    schedule: str = option("cosine", f"Learning-rate schedule: {either(SCHEDULES)} (warm-up, stable, decay).")
    decay: float = option(0.2, "Fraction of all updates in which wsd decays, at the end of the run.")
    optimizer: str = option(
        "adamw", "Optimizer: adamw, muon (for the matrices in the blocks, adamw for the rest), lion or sgd."
    )
    weight_decay: float = option(0.1, "Weight decay of matrices; multiplied by the learning rate.")
    beta1: float = option(0.9, "First beta of AdamW and Lion.")
    beta2: float = option(0.95, "Second beta of AdamW and Lion.")
    momentum: float = option(0.95, "Momentum of Muon and SGD.")
    ema: float = option(
        0.0,
        "Decay of an exponential moving average of the weights (such as 0.999), which is evaluated and saved instead of them; "
        "0 disables it.",
    )
    recompute: bool = option(
        False, "Keep only the input of each block and recompute the rest for gradients: less memory, more time."
    )
    grad_clip: float = option(1.0, "Maximum global gradient norm; 0 disables clipping.")
    max_minutes: float = option(
        0.0,
        "Time limit in minutes, all sessions of a resumed run included; the learning rate decays to fit it. 0 disables it.",
    )
    seed: int = option(0, "Random seed of weights, batches and samples.")
    eval_every: int = option(200, "Updates between evaluations on held-out data; 0 evaluates at the end only.")
    save_every: int = option(200, "Updates between checkpoints; 0 saves at the end only.")
    save_minutes: float = option(
        1.0,
        "Minutes between checkpoints besides, or fifty times what one takes if that is longer; 0 saves none by time.",
    )
    keep: int = option(2, "Number of checkpoints to keep.")
    keep_best: bool = option(False, "Also keep the model with the lowest held-out loss, in best/.")
    log_to: list[str] = option([], "Also send the log to tensorboard or wandb.")
    sample_every: int = option(200, "Updates between printed samples; 0 prints none.")
    dtype: str | None = option(
        None, "Compute in float32 or bfloat16; by default whichever is faster on this processor."
    )
    device: str | None = option(None, "cpu or cuda; by default the value of LLMCORE_DEVICE, else cpu.")
    threads: int | None = option(
        None, "Number of threads; by default all that the process may use. Results do not depend on it."
    )

    def __post_init__(self):
        for f in dataclasses.fields(self):
            setattr(self, f.name, checked(f.name, getattr(self, f.name), f.type))
        self._derive()
        for name in (f.name for f in dataclasses.fields(self)):
            value = getattr(self, name)
            if name in self.at_least_one and value < 1:
                raise Error("config", expected=f"{name} >= 1", got=value)
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                if isinstance(value, float) and not math.isfinite(value):
                    raise Error("config", expected=f"{name} a finite number", got=value)
                if value < 0:
                    raise Error("config", expected=f"{name} >= 0", got=value)
                if isinstance(value, int) and value >= 2**63:
                    raise Error("config", expected=f"{name} below 2^63", got="a larger number")
        for name in ("beta1", "beta2", "momentum", "ema"):
            if getattr(self, name) >= 1:
                raise Error("config", expected=f"{name} < 1", got=getattr(self, name))
        if self.decay > 1:
            raise Error("config", expected="decay in [0, 1]", got=self.decay)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        one_of("schedule", self.schedule, SCHEDULES)
        for name in self.log_to:
            one_of("log_to", name, ("tensorboard", "wandb"))
        if self.min_lr_ratio > 1:
            raise Error("config", expected="min_lr_ratio <= 1", got=self.min_lr_ratio)
        if self.dtype not in (None, "float32", "bfloat16"):
            raise Error("config", expected="dtype 'float32' or 'bfloat16'", got=repr(self.dtype))
        if self.device is not None:
            self.device = _device.named(self.device)
        if self.threads is not None and not 1 <= self.threads <= 1024:
            raise Error("config", expected="threads from 1 to 1024", got=self.threads)

    def _derive(self) -> None:
        """Set the fields that follow from others."""

    def warmup_updates(self) -> int:
        """Return `warmup`, or its default for the present number of steps."""
        return min(self.default_warmup, self.steps // 2) if self.warmup is None else self.warmup

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]):
        """Return the configuration with these values. Raises ValueError for an unknown name."""
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                raise Error("config", expected=f"one of {', '.join(sorted(known))}", got=repr(name))
        return cls(**values)

    @classmethod
    def read_yaml(cls, path: str | os.PathLike) -> dict[str, Any]:
        """Return the names and values of a YAML file; dashes in names count as underscores."""
        import yaml

        try:
            with open(path, encoding="utf-8") as file:
                values = yaml.safe_load(file) or {}
        except FileNotFoundError:
            raise MissingFileError("config", expected="a YAML file", got=f"{path}, which does not exist") from None
        except RecursionError:
            raise Error("config", path, expected="YAML", got="one that is nested too deeply") from None
        except (yaml.YAMLError, ValueError, OSError) as e:  # ValueError: not UTF-8, a date or a number that cannot be
            raise Error("config", path, expected="YAML", got=" ".join(str(e).split())) from None
        if not isinstance(values, dict) or not all(isinstance(k, str) for k in values):
            raise Error("config", path, expected="names with values", got=type(values).__name__)
        return {k.replace("-", "_"): v for k, v in values.items()}


@dataclass
class PretrainConfig(LoopConfig):
    """Pretraining: a language model from raw text."""

    at_least_one: ClassVar[tuple[str, ...]] = (*LoopConfig.at_least_one, "layers", "width", "heads")

    data: str | list[str] = option(
        "python-docs",
        "Training text: python-docs; a file of text or of rows (JSONL, JSON, CSV, TSV, parquet); a folder or glob; a directory that `llmcore tokenize "
        "--out` wrote; or token ids, a .bin of nanoGPT or llm.c or a .npy.",
    )
    weights: list[float] = option(
        [], "Sampling weight of each --data, in any unit; by default all of them are read as one text."
    )
    isolate: bool = option(False, "Stop attention at document boundaries.")
    field: str = option("text", "JSONL field or column that holds the text.")
    separators: list[str] = option(
        [], "Texts that end documents within --data, such as <|endoftext|>; without, they are taken as letters."
    )
    validation_fraction: float = option(0.1, "Fraction of the text that is held out (of shards, at most 16 MB).")
    tokenizer: str | None = option(None, "Tokenizer to use (tokenizer.json); by default one is trained on the text.")
    token_dtype: str | None = option(
        None,
        "Type of the ids in a .bin without a header: uint16, uint32, int32 or int64; by default what its bytes and the vocabulary "
        "tell.",
    )
    vocab_size: int = option(4096, "Vocabulary size of the tokenizer that is trained.")
    pattern: str = option("cl100k", "Pattern by which that tokenizer splits text into pieces.")
    architecture: str = option("gpt2", "Architecture: gpt2 or llama.")
    context: int = option(256, "Context length in tokens.")
    depth: int = option(6, "Model size as one number: the options below that are 0 follow from it.")
    layers: int = option(0, "Number of transformer blocks; 0: depth.")
    width: int = option(0, "Width of the residual stream; 0: 64 x depth.")
    heads: int = option(0, "Number of attention heads; 0: width / 64.")
    lr: float = option(0.0, "Peak learning rate; 0: 1e-3 at depth 6, less for wider models.")
    batch_size: int = option(0, "Sequences per micro-batch; 0: 16, more for deeper models.")
    kv_heads: int | None = option(None, "Number of key/value heads (llama); by default the same as heads.")
    sample_prompts: list[str] = option(["The function returns", "If the file"], "Prompts for the samples.")
    sample_tokens: int = option(40, "Length of a sample in tokens.")
    watch: list[str] = option(
        [], 'Record the vectors of a group of words ("king queen") a hundred times, for `llmcore plot --words`.'
    )

    def _derive(self) -> None:
        if self.depth < 1:
            raise Error("config", expected="depth >= 1", got=self.depth)
        self.layers = self.layers or self.depth
        self.width = self.width or 64 * self.depth
        self.heads = self.heads or max(1, self.width // 64)
        # GPT-3's table for AdamW (Brown et al. 2020) has 6e-4 at width 768 and falls as fast; it is for larger batches.
        self.lr = self.lr or round(1e-3 * min(2.0, (384 / max(1, self.width)) ** 0.75), 6)
        # The useful batch size grows with what a model can learn (McCandlish et al. 2018).
        self.batch_size = self.batch_size or 16 * max(1, round(self.depth / 6))

    def __post_init__(self):
        super().__post_init__()
        if self.context < 1:
            raise Error("config", expected="context >= 1", got=self.context)
        if self.weights:
            count = 1 if isinstance(self.data, str) else len(self.data)
            if len(self.weights) != count or not all(w > 0 and math.isfinite(w) for w in self.weights):
                raise Error("config", expected=f"{count} weights > 0, one for each data", got=self.weights)
        if not all(group.split() for group in self.watch):
            raise Error("config", expected="words in every group to watch", got=self.watch)
        if self.kv_heads is not None and self.kv_heads < 1:
            raise Error("config", expected="kv_heads >= 1", got=self.kv_heads)
        one_of("architecture", self.architecture, ("gpt2", "llama"))
        if not 0 < self.validation_fraction < 1:
            raise Error("config", expected="validation_fraction in (0, 1)", got=self.validation_fraction)


@dataclass
class FinetuneConfig(LoopConfig):
    """The settings that all stages share which start from a model."""

    default_warmup: ClassVar[int] = 10
    at_least_one: ClassVar[tuple[str, ...]] = ("accumulation", "keep")  # 0 steps or rows: see defaults.py
    base_lr: ClassVar[float]  # of a model 4096 wide, all of whose weights are trained

    model: str = option("sft", "Starting model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option("python-qa", "Files of rows: JSONL, JSON, CSV, TSV or parquet.")
    epochs: float = option(
        0.0, "Passes over the data, if --steps is 0; 0: 3, more (up to 25) for fewer than 34 rows, fewer for many."
    )
    steps: int = option(0, "Number of parameter updates; 0: as many as the epochs take.")
    context: int = option(0, "Maximum tokens per row; longer rows are cut. 0: the model's context, at most 512.")
    validation_fraction: float | None = option(
        None,
        "Fraction of the rows that is held out, all that ask the same (or have the same `group`) together; by default 0.05 "
        "from 100 rows on.",
    )
    bad_rows: str = option("error", "What to do with a malformed row: error stops, skip drops and counts it.")
    columns: dict[str, str] | None = option(
        None, "Names of columns: prompt=question,completion=answer. Those of common data sets are known without."
    )
    chat_template: str | None = option(
        None,
        "Chat template: the name of one of the model's, or a .jinja file, which the model keeps; by default its own.",
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None, "Variables of the chat template, as JSON; a row's own chat_template_kwargs win."
    )
    sample_tokens: int = option(60, "Length of a sample in tokens.")
    lora_rank: int = option(0, "Train LoRA adapters of this rank and freeze the model; 0 trains all weights.")
    lora_alpha: float = option(16.0, "LoRA alpha: adapters are scaled by alpha / rank.")
    lora_dropout: float = option(0.0, "Dropout on the input of the adapters.")
    lora_targets: list[str] = option(
        ["all-linear"],
        "Layers that get adapters: endings of their names (such as q_proj, or embed_tokens), or all-linear.",
    )
    lora_dora: bool = option(False, "Learn the lengths of the weights' rows beside the adapters (DoRA).")
    lora_rslora: bool = option(False, "Scale adapters by alpha / √rank (rsLoRA).")
    lora_modules_to_save: list[str] = option(
        [], "Layers that are trained whole and saved with the adapters (such as embed_tokens lm_head)."
    )
    quantize: str = option(
        "none",
        "Quantize the frozen weights of a LoRA run in memory (QLoRA): int8, int4, or stored (as they are in the file).",
    )
    batch_size: int = option(0, "Rows per micro-batch; 0: 8, fewer of fewer than 128.")
    weight_decay: float = option(0.0, "Weight decay of matrices; multiplied by the learning rate.")

    def __post_init__(self):
        super().__post_init__()
        if self.validation_fraction is not None and self.validation_fraction >= 1:
            raise Error("config", expected="validation_fraction in [0, 1)", got=self.validation_fraction)
        one_of("bad_rows", self.bad_rows, ("error", "skip"))
        learn = getattr(self, "learn", None)
        if learn is not None:
            one_of("learn", learn, LEARN)
        one_of("quantize", self.quantize, ("none", "int8", "int4", "stored"))
        if self.quantize != "none" and not self.lora_rank:
            raise Error("config", expected="lora_rank with quantize: quantized weights are not trained")
        if (self.lora_dora or self.lora_rslora or self.lora_modules_to_save) and not self.lora_rank:
            raise Error("config", expected="lora_rank with lora_dora, lora_rslora or lora_modules_to_save", got=0)
        if not self.lora_alpha:
            raise Error("config", expected="lora_alpha > 0", got="0")
        if self.lora_dropout and self.recompute:
            raise Error("config", expected="lora_dropout 0 with recompute: what was dropped would differ")
        if self.lora_dropout >= 1:
            raise Error("config", expected="lora_dropout in [0, 1)", got=self.lora_dropout)


@dataclass
class SFTConfig(FinetuneConfig):
    """Supervised fine-tuning: a model that answers, from one that continues texts."""

    base_lr: ClassVar[float] = 2e-5

    model: str = option("run", "Starting model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option(
        "python-qa", "python-qa, or files of rows with messages, with prompt and completion, or with text."
    )
    learn: str | None = option(None, _LEARN.format("conversations"))
    packing: bool | None = option(
        None,
        "Pack several examples into one row; they do not attend to each other. By default where that leaves enough rows.",
    )
    out: str = option("sft", "Directory of the run: model, tokenizer, log and checkpoints.")
    lr: float = option(0.0, _LR.format("2e-5"))


@dataclass
class DPOConfig(FinetuneConfig):
    """Direct preference optimisation and related losses: a model that prefers better answers."""

    base_lr: ClassVar[float] = 1e-6

    model: str = option("sft", "Starting and reference model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option("prefer.jsonl", "Files of rows with prompt, chosen and rejected.")
    learn: str | None = option(None, _LEARN.format("the answers"))
    loss_type: str = option("sigmoid", f"Loss function: {either(PAIR_LOSSES)}; sigmoid is the original DPO.")
    beta: float = option(0.1, "Strength of the pull toward the starting model (beta).")
    label_smoothing: float = option(0.0, "Assumed fraction of mislabelled pairs (label smoothing).")
    gamma: float = option(0.5, "Margin of SimPO.")
    out: str = option("dpo", "Directory of the run: model, tokenizer, log and checkpoints.")
    batch_size: int = option(0, "Pairs per micro-batch; 0: 8, fewer of fewer than 128.")
    lr: float = option(0.0, _LR.format("1e-6"))

    def __post_init__(self):
        super().__post_init__()
        one_of("loss_type", self.loss_type, PAIR_LOSSES)
        if self.beta == 0:
            raise Error("config", expected="beta > 0", got="0")
        if self.label_smoothing >= 0.5:
            raise Error("config", expected="label_smoothing in [0, 0.5)", got=self.label_smoothing)


@dataclass
class KTOConfig(FinetuneConfig):
    """Kahneman-Tversky optimisation: a model that prefers better answers, from single answers labelled good or bad."""

    base_lr: ClassVar[float] = 1e-6

    model: str = option("sft", "Starting and reference model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option(
        "answers.jsonl",
        "Files of rows with prompt, completion and label, or pairs as for dpo.",
    )
    beta: float = option(0.1, "Strength of the pull toward the starting model (beta).")
    learn: str | None = option(None, _LEARN.format("the answers"))
    desirable_weight: float = option(1.0, "Weight of good answers.")
    undesirable_weight: float = option(1.0, "Weight of bad answers.")
    out: str = option("kto", "Directory of the run: model, tokenizer, log and checkpoints.")
    batch_size: int = option(0, "Answers per micro-batch; 0: 8, fewer of fewer than 128.")
    lr: float = option(0.0, _LR.format("1e-6"))

    def __post_init__(self):
        super().__post_init__()
        if self.beta == 0:
            raise Error("config", expected="beta > 0", got="0")


@dataclass
class RewardConfig(FinetuneConfig):
    """A reward model: how good an answer is, learned from pairs of answers of which one is preferred."""

    base_lr: ClassVar[float] = 1e-5

    model: str = option("sft", "Starting model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option(
        "prefer.jsonl",
        "Files of rows with prompt, chosen, rejected and optionally margin.",
    )
    centering: float = option(0.01, "Penalty that keeps the two rewards of a pair centred on zero.")
    out: str = option("reward", "Directory of the run: model, tokenizer, log and checkpoints.")
    batch_size: int = option(0, "Pairs per micro-batch; 0: 8, fewer of fewer than 128.")
    lr: float = option(0.0, _LR.format("1e-5"))


@dataclass
class PolicyConfig(FinetuneConfig):
    """The settings that the stages share in which a model writes answers and is rewarded."""

    base_lr: ClassVar[float] = 1e-6
    default_warmup: ClassVar[int] = 5
    at_least_one: ClassVar[tuple[str, ...]] = (*FinetuneConfig.at_least_one, "batch_size")

    model: str = option("sft", "Starting and reference model: a directory, a .gguf file or a pulled name.")
    data: str | list[str] = option("arithmetic", "arithmetic, python-qa, or files of rows with prompt.")
    rewards: list[str] = option(
        ["arithmetic"],
        "Reward function: arithmetic, valid_python, length, FILE.py:FUNCTION, or the directory of a reward model.",
    )
    reward_weights: list[float] = option([], "Weight of each reward; by default 1.")
    max_tokens: int = option(64, "Maximum tokens per answer.")
    temperature: float = option(1.0, "Sampling temperature of the answers.")
    top_p: float = option(1.0, "Nucleus (top-p) sampling of the answers; 1 disables it.")
    top_k: int = option(0, "Top-k sampling of the answers; 0 disables it.")
    bad_rows: str = option(
        "error", "What to do with a malformed row or a failing reward: error stops, skip drops and counts it."
    )
    lr: float = option(0.0, _LR.format("1e-6"))
    batch_size: int = option(8, "Answers per micro-batch.")
    accumulation: int = option(4, "Micro-batches per update.")

    @property
    def together(self) -> int:
        """Answers per update."""
        return self.batch_size * self.accumulation

    @property
    def prompts(self) -> int:
        """Prompts per update."""
        return self.together

    def __post_init__(self):
        super().__post_init__()
        if self.temperature == 0:
            raise Error("config", expected="temperature > 0", got="0: answers that are all the same teach nothing")
        if not 0 < self.top_p <= 1:
            raise Error("config", expected="top_p in (0, 1]", got=self.top_p)
        if not 0 < self.max_tokens < (self.context or math.inf):
            raise Error("config", expected="max_tokens from 1 to below context", got=self.max_tokens)
        if self.reward_weights and len(self.reward_weights) != len(self.rewards):
            raise Error(
                "config",
                expected=f"{len(self.rewards)} reward_weights, one for each reward",
                got=len(self.reward_weights),
            )


@dataclass
class GRPOConfig(PolicyConfig):
    """Group relative policy optimisation and related losses: a model is rewarded for its answers, each compared with the
    others to the same prompt."""

    group: int = option(8, "Answers per prompt.")
    updates: int = option(1, "Updates per batch of answers.")
    loss_type: str = option("dapo", f"Loss function: {either(GRPO_LOSSES)}.")
    beta: float = option(
        0.0, "KL penalty against the starting (reference) model; 0 disables it and keeps no reference copy."
    )
    epsilon: float = option(0.2, "Clipping range of the probability ratio of a token.")
    epsilon_high: float | None = option(None, "Upper clipping range; by default epsilon (cispo: 5).")
    out: str = option("grpo", "Directory of the run: model, tokenizer, log and checkpoints.")

    @property
    def prompts(self) -> int:
        return self.together // self.group

    def __post_init__(self):
        super().__post_init__()
        one_of("loss_type", self.loss_type, GRPO_LOSSES)
        if self.updates < 1:
            raise Error("config", expected="updates >= 1", got=self.updates)
        if self.group < 2 or self.together % self.group:
            raise Error(
                "config",
                expected=f"group of at least 2 that divides batch_size * accumulation = {self.together}",
                got=self.group,
            )


@dataclass
class PPOConfig(PolicyConfig):
    """Proximal policy optimisation: a model is rewarded for its answers and learns to predict the reward."""

    base_lr: ClassVar[float] = 3e-6

    updates: int = option(4, "Updates per batch of answers.")
    kl: float = option(0.05, "KL penalty per token against the starting (reference) model.")
    kl_estimator: str = option(
        "k1", "KL estimator: k1 (log p - log ref) or k3, which is never negative (Schulman 2020)."
    )
    clip: float = option(0.2, "Clipping range of the probability ratio of a token.")
    value_clip: float = option(0.2, "Clipping range of the change of a value.")
    value_weight: float = option(0.1, "Weight of the value loss.")
    gamma: float = option(1.0, "Discount factor per token.")
    lam: float = option(0.95, "Lambda of generalised advantage estimation: 0 trusts the values, 1 the rewards.")
    temperature: float = option(0.7, "Sampling temperature of the answers.")
    lr: float = option(0.0, _LR.format("3e-6"))
    out: str = option("ppo", "Directory of the run: model, tokenizer, log and checkpoints.")

    def __post_init__(self):
        super().__post_init__()
        if self.updates < 1:
            raise Error("config", expected="updates >= 1", got=self.updates)
        one_of("kl_estimator", self.kl_estimator, ("k1", "k3"))
        for name in ("gamma", "lam"):
            if getattr(self, name) > 1:
                raise Error("config", expected=f"{name} in [0, 1]", got=getattr(self, name))
