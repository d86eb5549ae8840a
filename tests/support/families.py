"""A small model of every family as transformers saves it: weights drawn at random, a tokenizer of the family's own kind,
trained by `tokenizers` or `sentencepiece`, and the family's control tokens."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from llmcore.tokenizer.patterns import stages_of

PARTS = [
    "the ", "cat ", "sat ", "mat", "And ", "don't ", "IT'S ", " ", "  ", "   ", "\n", "\n\n", "\t", "1", "23", "4567", "1234567",
    "!", "?!", "...", "$+", "<=>", "é", "Ünï ", "日本", "カナ", "한국어", "Привет ", "ไทย", "😀", "_", "-", "(x)", "/", "²", "。",
    "…", "def f(x):\n    return x", "\u00a0", ". ", ", ",
]  # fmt: skip
SPELLED = ["[/INST]", "<|end|>", "<s>"]  # in texts, but not in what tokenizers learn from
LLAMA3 = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>"]
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
CHAT_ENDS = ["<|im_end|>", "<|endoftext|>"]  # llama.cpp ends at both, whatever files say
GEMMA = ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]
DEEPSEEK = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"]


def some_text(rng: random.Random, most: int = 14) -> str:
    return "".join(rng.choices(PARTS + SPELLED, k=rng.randint(1, most)))


def corpus() -> list[str]:
    rng = random.Random(7)
    return ["".join(rng.choices(PARTS, k=40)) for _ in range(250)]


def byte_level(pattern: str, specials: list[str], added: list[str] = [], nfc: bool = False, whole: bool = False):  # noqa: B006
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(ignore_merges=whole))
    if nfc:
        made.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(stage), "isolated") for stage in stages_of(pattern)]
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([*splits, last])
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(corpus(), trainer)
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in specials])
    made.add_tokens([AddedToken(text, normalized=True) for text in added])
    return made


def pieces(prefix: bool, specials: list[str], trained: bool = False, strips: bool = False):
    """SentencePiece's kind, converted as transformers does, or trained by `tokenizers`. strips: as Phi-3 has it."""
    from tokenizers import AddedToken, Tokenizer

    document = json.loads((_trained_pieces() if trained else _converted_pieces(prefix)).to_str())
    replace: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    prepend = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    back = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    document |= {
        "pre_tokenizer": None,
        "normalizer": {"type": "Sequence", "normalizers": [*prepend, replace]},
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "ByteFallback"}, {"type": "Fuse"}, *strip]},
        "added_tokens": [
            {"id": id, "content": text, **flags, "rstrip": strips and text == "</s>"}
            for id, text in enumerate(["<unk>", "<s>", "</s>"])
        ],
    }
    made = Tokenizer.from_str(json.dumps(document))
    for text in specials:
        stripping = strips and text != "<|endoftext|>"
        made.add_special_tokens([AddedToken(text, special=True, normalized=False, rstrip=stripping)])
    return made


def _trained_pieces():
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Split(Regex(r"(?<=\S)(?=▁)|\n"), "isolated")
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=800, special_tokens=first, show_progress=False))
    return made


def _converted_pieces(prefix: bool):
    import sentencepiece
    from tokenizers import Tokenizer, models

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(line for text in corpus() for line in text.split("\n") if line),
        model_writer=model, vocab_size=600, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=prefix, character_coverage=1.0, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2, num_threads=1,
    )  # fmt: skip
    p = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = {p.id_to_piece(id): id for id in range(p.get_piece_size())}
    normal = {text for text, id in ids.items() if not (p.is_control(id) or p.is_unknown(id) or p.is_byte(id))}
    pairs = [
        (-p.get_score(ids[text]), text[:cut], text[cut:])
        for text in normal
        for cut in range(1, len(text))
        if text[:cut] in normal and text[cut:] in normal
    ]
    merges = [pair[1:] for pair in sorted(pairs)]
    return Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))


class Family(NamedTuple):
    """config: the class of transformers, and what is special about it; ends: of a text or a turn; begin: before a text."""

    tokenizer: Callable[[], Any]
    config: str
    settings: dict[str, Any]
    ends: list[str]
    begin: str | None = None


SIZES = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 96, "max_position_embeddings": 256,
}  # fmt: skip
HEADS = SIZES | {"head_dim": 32}
GEMMAS = SIZES | {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 128}
NEOX = {name: SIZES[name] for name in SIZES if name != "num_key_value_heads"}
ROPE3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "rope_theta": 5e5}
ROPE3 |= {"original_max_position_embeddings": 64}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True}
PHI3 = ["<|endoftext|>", "<|user|>", "<|assistant|>", "<|end|>"]

FAMILIES = {
    "gpt2": Family(
        lambda: byte_level("gpt2", CHATML[:1]),
        "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}, CHATML[:1],
    ),
    "llama2": Family(lambda: pieces(True, []), "LlamaConfig", SIZES, ["</s>"], "<s>"),
    "llama3": Family(
        lambda: byte_level("llama3", LLAMA3, whole=True),
        "LlamaConfig", SIZES | {"rope_parameters": ROPE3}, LLAMA3[1:], LLAMA3[0],
    ),
    "mistral": Family(
        lambda: pieces(True, ["[INST]", "[/INST]"], trained=True),
        "MistralConfig", SIZES | {"sliding_window": None}, ["</s>"], "<s>",
    ),
    "qwen2": Family(
        lambda: byte_level("qwen2", CHATML, ["<tool_call>"], nfc=True),
        "Qwen2Config", SIZES | {"tie_word_embeddings": True}, CHAT_ENDS,
    ),
    "qwen3": Family(lambda: byte_level("qwen2", CHATML, ["<think>"], nfc=True), "Qwen3Config", HEADS, CHAT_ENDS),
    "qwen3-moe": Family(
        lambda: byte_level("qwen2", CHATML, nfc=True), "Qwen3MoeConfig", HEADS | EXPERTS, CHAT_ENDS
    ),
    "gemma2": Family(lambda: pieces(False, GEMMA), "Gemma2Config", GEMMAS, ["<eos>", "<end_of_turn>"], "<bos>"),
    "gemma3": Family(
        lambda: pieces(False, GEMMA, trained=True), "Gemma3TextConfig", GEMMAS, ["<eos>", "<end_of_turn>"], "<bos>"
    ),
    "phi3": Family(
        lambda: pieces(True, PHI3, strips=True),
        "Phi3Config", SIZES | {"sliding_window": None}, ["<|endoftext|>", "<|end|>"],
    ),
    "olmo2": Family(lambda: byte_level("llama3", CHATML[:1], ["|||IP|||"]), "Olmo2Config", SIZES, CHATML[:1]),
    "pythia": Family(
        lambda: byte_level("gpt2", ["<|endoftext|>", "<|padding|>"], ["  ", "   "], nfc=True),
        "GPTNeoXConfig", NEOX, CHATML[:1],
    ),
    "smollm": Family(lambda: byte_level("smollm", CHATML), "LlamaConfig", SIZES, CHAT_ENDS),
    "smollm3": Family(lambda: byte_level("llama3", CHATML, ["<think>"]), "SmolLM3Config", SIZES, CHAT_ENDS),
    "deepseek": Family(
        lambda: byte_level("deepseek", DEEPSEEK), "LlamaConfig", SIZES, [DEEPSEEK[1]], DEEPSEEK[0]
    ),
}  # fmt: skip


def save_family(name: str, folder: Path):
    """Save a model of the family; return it, and its tokenizer of `tokenizers`."""
    import torch
    import transformers
    from tokenizers import processors

    family = FAMILIES[name]
    made = family.tokenizer()
    if family.begin:
        begin = (family.begin, made.token_to_id(family.begin))
        made.post_processor = processors.TemplateProcessing(single=f"{family.begin} $A", special_tokens=[begin])
    ends = [made.token_to_id(text) for text in family.ends]
    rows = -(-(made.get_vocab_size() + 3) // 8) * 8  # more than there are tokens, as in most models
    settings = {"pad_token_id": 0} | family.settings
    config = getattr(transformers, family.config)(vocab_size=rows, bos_token_id=ends[0], eos_token_id=ends, **settings)
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval().float()
    torch.manual_seed(1)
    with torch.no_grad():
        for path, p in model.named_parameters():
            drawn = torch.randn(p.shape)
            if p.ndim > 1:  # large enough that greedy text is not one token over and over
                drawn = drawn * (0.5 if "embed" in path or "wte" in path else 1.6 / p.shape[-1] ** 0.5)
            else:
                drawn = drawn * 0.1 + ("norm" in path and path.endswith("weight") and "gemma" not in name)
            p.copy_(drawn)
    model.save_pretrained(folder)
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, eos_token=family.ends[0]).save_pretrained(folder)
    return model, made
