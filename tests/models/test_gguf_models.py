"""A model out of a GGUF file is the model that went in; what does not fit is named."""

import numpy as np
import pytest

import llmcore
from llmcore import models
from support.gguf_files import gguf, vocabulary_metadata

WIDTH, LAYERS, HEADS, KV_HEADS, FFN, CONTEXT = 32, 2, 4, 2, 64, 64


@pytest.fixture(scope="module")
def tokenizer():
    return llmcore.Tokenizer.train(iter(["ab abc abcd, and the cat sat on the mat"]), 280, pattern="gpt2")


def llama(tokenizer, tied: bool) -> models.Llama:
    c = models.LlamaConfig(
        tokenizer.vocab_size, CONTEXT, WIDTH, LAYERS, HEADS, KV_HEADS, FFN, rope_base=5000.0, eps=1e-5, tied=tied
    )
    return models.Llama(c, seed=3)


def fields(tokenizer) -> dict:
    return {
        "general.architecture": "llama",
        "llama.context_length": np.uint32(CONTEXT),
        "llama.embedding_length": np.uint32(WIDTH),
        "llama.block_count": np.uint32(LAYERS),
        "llama.feed_forward_length": np.uint32(FFN),
        "llama.attention.head_count": np.uint32(HEADS),
        "llama.attention.head_count_kv": np.uint32(KV_HEADS),
        "llama.attention.layer_norm_rms_epsilon": np.float32(1e-5),
        "llama.rope.freq_base": np.float32(5000.0),
        "llama.rope.dimension_count": np.uint32(WIDTH // HEADS),
        "tokenizer.ggml.eos_token_id": np.uint32(tokenizer.end_of_text),
        **vocabulary_metadata(tokenizer, "gpt-2"),
    }


NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(model: models.Llama) -> list:
    """As a converter writes them, float32."""
    out = []
    for hf, w in model.to_hf().items():
        name = hf.removesuffix(".weight").replace("model.layers.", "blk.")
        for theirs, ours in NAMES.items():
            name = name.replace(theirs, ours)
        heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(name.rpartition(".")[2])
        if heads:
            w = w.reshape(heads, 2, w.shape[0] // heads // 2, w.shape[1]).swapaxes(1, 2).reshape(w.shape)
        out.append((f"{name}.weight", w.shape, 0, np.ascontiguousarray(w, "<f4").tobytes()))
    return out


def load(tmp_path, metadata, tensors):
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf(metadata, tensors))
    return llmcore.load(path, dtype="float32")


@pytest.mark.parametrize("tied", [True, False])
def test_same_model(tmp_path, tokenizer, tied):
    model = llama(tokenizer, tied)
    lm = load(tmp_path, fields(tokenizer), tensors(model))
    ids = np.random.default_rng(0).integers(0, tokenizer.vocab_size, (2, 20))
    assert np.array_equal(lm.model(ids).numpy(), model(ids).numpy())
    assert lm.end_ids == (tokenizer.end_of_text,)
    again = llmcore.load(lm.save(tmp_path / "saved"), dtype="float32")
    assert np.array_equal(again.model(ids).numpy(), model(ids).numpy())
    assert again.generate("the cat", max_tokens=5, seed=1).tokens == lm.generate("the cat", max_tokens=5, seed=1).tokens


def test_any_of_several_tokens_ends_a_completion(tmp_path, tokenizer):
    model = llama(tokenizer, tied=True)
    lm = load(tmp_path, fields(tokenizer), tensors(model))
    whole = lm.generate("the cat", max_tokens=8, temperature=0, ignore_eos=True).tokens
    lm.end_ids = (whole[3], tokenizer.end_of_text)
    ended = lm.generate("the cat", max_tokens=8, temperature=0)
    assert ended.tokens == whole[: whole.index(whole[3])]
    assert ended.finish_reason == "stop"
    assert llmcore.load(lm.save(tmp_path / "several")).end_ids == lm.end_ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"general.architecture": "mamba"}, "expected general.architecture one of .*llama.*, got 'mamba'"),
        (
            {"llama.block_count": np.uint32(3)},
            r"expected a tensor blk.2.attn_norm.weight \(32,\), got none",
        ),
        (
            {"llama.block_count": np.uint32(1)},
            "expected the tensors of this architecture only, got blk.1.attn_k.weight",
        ),
        ({"llama.block_count": "two"}, r"\[gguf\] expected llama.block_count of type int, got 'two'"),
        ({"llama.attention.head_count": np.uint32(0)}, "heads a positive integer|rope.dimension_count"),
        (
            {"llama.rope.scaling.type": "ntk"},
            "expected llama.rope.scaling.type none, linear, yarn or longrope, got 'ntk'",
        ),
        ({"llama.expert_count": np.uint32(8)}, "expected llama.expert_count 0, got 8"),
        ({"llama.rope.dimension_count": np.uint32(4)}, "expected llama.rope.dimension_count 8"),
        ({"tokenizer.ggml.eos_token_id": "end"}, "expected tokenizer.ggml.eos_token_id an id or a list of ids"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, tokenizer, change, message):
    with pytest.raises(ValueError, match=rf"\[load\] .*model.gguf: .*({message})"):
        load(tmp_path, fields(tokenizer) | change, tensors(llama(tokenizer, tied=True)))


def test_a_missing_field_is_named(tmp_path, tokenizer):
    metadata = fields(tokenizer)
    del metadata["llama.context_length"]
    with pytest.raises(ValueError, match=r"expected llama\.context_length of type int, got None"):
        load(tmp_path, metadata, tensors(llama(tokenizer, tied=True)))
