"""The settings of a run: one dataclass per stage, with the same names in Python, YAML files and command-line flags."""

from __future__ import annotations

import math
from dataclasses import MISSING, dataclass, fields
from typing import Any, ClassVar

from llmcore._fields import either, one_of, option, text_column
from llmcore.errors import Error
from llmcore.generate.chat.names import LEARN
from llmcore.losses.names import DPO_LOSSES, GRPO_LOSSES, REFERENCE_FREE_LOSSES
from llmcore.train.loop_config import LoopConfig

PAIR_LOSSES = (*DPO_LOSSES, *REFERENCE_FREE_LOSSES)

_LEARN = (
    f"What is learned of {{}}: {either(LEARN)} (what the chat template says is generated); by default marked where the template "
    "has such marks, else all-turns."
)
_LR = "Peak learning rate; 0: {} for a model 4096 wide, more for narrower ones, and ten times as much with LoRA."


@dataclass
class PretrainConfig(LoopConfig):
    """Pretraining: a language model from raw text."""

    at_least_one: ClassVar[tuple[str, ...]] = ("accumulation", "keep")  # what is 0 follows from the rest
    base_lr: ClassVar[float] = 2e-5  # of continued training, for a model 4096 wide
    new_model: ClassVar[tuple[str, ...]] = (
        *("tokenizer", "vocab_size", "pattern", "architecture", "depth", "layers", "width", "heads", "kv_heads"),
    )

    model: str | None = option(
        None,
        "Model that is trained on, with its tokenizer: a directory, a .gguf file or a pulled name; by default a new one of "
        "the sizes below.",
    )
    data: str | list[str] = option(
        "python-docs",
        "Training text: python-docs; a file of text or of rows (JSONL, JSON, CSV, TSV, parquet); a folder or glob; a directory that `llmcore tokenize "
        "--out` wrote; or token ids, a .bin of nanoGPT or llm.c or a .npy.",
    )
    weights: list[float] = option(
        [], "Sampling weight of each --data, in any unit; by default all of them are read as one text."
    )
    add_tokens: list[str] = option(
        [], "New tokens for --model, such as <|tool|>, found in the text; each begins as the mean of all others."
    )
    isolate: bool = option(False, "Stop attention at document boundaries.")
    columns: dict[str, str] | None = option(None, "Name of the column that holds the text: text=NAME.")
    separators: list[str] = option(
        [], "Texts that end documents within --data, such as <|endoftext|>; without, they are taken as letters."
    )
    validation_fraction: float | None = option(
        None, "Fraction of the text that is held out (of shards, at most 16 MB); by default 0.1."
    )
    validation: str | list[str] | None = option(
        None, "Held-out text in place of a fraction of the data, whatever --data can be; each has its own figure."
    )
    tokenizer: str | None = option(None, "Tokenizer to use (tokenizer.json); by default one is trained on the text.")
    token_dtype: str | None = option(
        None,
        "Type of the ids in a .bin without a header: uint16, uint32, int32 or int64; by default what its bytes and the vocabulary "
        "tell.",
    )
    vocab_size: int = option(0, "Vocabulary size of the tokenizer that is trained; 0: 4096.")
    pattern: str | None = option(None, "Pattern by which that tokenizer splits text into pieces; by default cl100k.")
    architecture: str | None = option(None, "Architecture: gpt2 (the default) or llama.")
    context: int = option(0, "Context length in tokens; 0: 256, or with --model the model's, at most 512.")
    depth: int = option(0, "Model size as one number, from which the options below follow that are 0; 0: 6.")
    layers: int = option(0, "Number of transformer blocks; 0: depth.")
    width: int = option(0, "Width of the residual stream; 0: 64 x depth.")
    heads: int = option(0, "Number of attention heads; 0: width / 64.")
    steps: int = option(
        0, "Number of parameter updates; 0: 1000, or with --model about 3 passes over the text, if that is fewer."
    )
    lr: float = option(
        0.0,
        "Peak learning rate; 0: 1e-3 at depth 6, less for wider models; with --model 2e-5 for one 4096 wide, more for "
        "narrower ones.",
    )
    batch_size: int = option(0, "Sequences per micro-batch; 0: 16, more for deeper models; with --model at most 8.")
    kv_heads: int | None = option(None, "Number of key/value heads (llama); by default the same as heads.")
    sample_prompts: list[str] = option(["The function returns", "If the file"], "Prompts for the samples.")
    sample_tokens: int = option(40, "Length of a sample in tokens.")
    watch: list[str] = option(
        [], 'Record the vectors of a group of words ("king queen") a hundred times, for `llmcore plot --words`.'
    )

    @property
    def field(self) -> str:
        """The name of the column that holds the text."""
        return text_column(self.columns)

    def _derive(self) -> None:
        if self.validation is None and self.validation_fraction is None:
            self.validation_fraction = 0.1
        if self.model is not None:
            for name in self.new_model:
                if value := getattr(self, name):
                    raise Error("config", expected=f"no {name} beside model, which has its own", got=value)
            return
        if self.add_tokens:
            raise Error("config", expected="a model with add_tokens", got="none")
        self.architecture, self.pattern = self.architecture or "gpt2", self.pattern or "cl100k"
        self.vocab_size, self.context = self.vocab_size or 4096, self.context or 256
        self.depth, self.steps = self.depth or 6, self.steps or 1000
        self.layers = self.layers or self.depth
        self.width = self.width or 64 * self.depth
        self.heads = self.heads or max(1, self.width // 64)
        # GPT-3's table for AdamW (Brown et al. 2020) has 6e-4 at width 768 and falls as fast; it is for larger batches.
        self.lr = self.lr or round(1e-3 * min(2.0, (384 / max(1, self.width)) ** 0.75), 6)
        # The useful batch size grows with what a model can learn (McCandlish et al. 2018).
        self.batch_size = self.batch_size or 16 * max(1, round(self.depth / 6))

    def __post_init__(self):
        super().__post_init__()
        if self.weights:
            count = 1 if isinstance(self.data, str) else len(self.data)
            if len(self.weights) != count or not all(w > 0 and math.isfinite(w) for w in self.weights):
                raise Error("config", expected=f"{count} weights > 0, one for each data", got=self.weights)
        if not all(group.split() for group in self.watch):
            raise Error("config", expected="words in every group to watch", got=self.watch)
        if self.kv_heads is not None and self.kv_heads < 1:
            raise Error("config", expected="kv_heads >= 1", got=self.kv_heads)
        if self.architecture is not None:
            one_of("architecture", self.architecture, ("gpt2", "llama"))
        one_held_out(self.validation, self.validation_fraction)
        if self.validation:
            self.validation_fraction = None
        if self.validation_fraction is not None and not 0 < self.validation_fraction < 1:
            raise Error("config", expected="validation_fraction in (0, 1)", got=self.validation_fraction)


def one_held_out(validation: str | list[str] | None, fraction: float | None) -> None:
    """Raise ValueError where both say what is held out."""
    if validation is not None and not validation:
        raise Error("config", expected="validation a file", got="none")
    if validation is not None and fraction:  # 0 holds out none of the data
        raise Error(
            "config", expected="validation or validation_fraction", got="both: one of them says what is held out"
        )


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
    validation: str | list[str] | None = option(
        None, "Held-out rows, in files of the same kind as the data, in place of a fraction of it."
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
    add_tokens: list[str] = option(
        [],
        "New control tokens, such as <|tool|>; each begins as the mean of all others. With adapters, the embedding is saved whole.",
    )
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
        one_held_out(self.validation, self.validation_fraction)
        if self.validation_fraction is not None and self.validation_fraction >= 1:
            raise Error("config", expected="validation_fraction in [0, 1)", got=self.validation_fraction)
        one_of("bad_rows", self.bad_rows, ("error", "skip"))
        learn = getattr(self, "learn", None)
        if learn is not None:
            one_of("learn", learn, LEARN)
        one_of("quantize", self.quantize, ("none", "int8", "int4", "stored"))
        if self.quantize != "none" and not self.lora_rank:
            raise Error("config", expected="lora_rank with quantize: quantized weights are not trained")
        for f in () if self.lora_rank else fields(FinetuneConfig):
            usual = f.default if f.default_factory is MISSING else f.default_factory()
            if f.name.startswith("lora_") and getattr(self, f.name) != usual:
                raise Error("config", expected=f"lora_rank with {f.name}: it says how adapters are trained", got=0)
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
