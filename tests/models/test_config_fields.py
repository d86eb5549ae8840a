"""Fields of config.json: used, without effect, refused by name, or named in a note."""

import numpy as np
import pytest

from llmcore import models
from llmcore.models import config_fields
from support.small_models import CONFIGS

PLAIN = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48,
    "max_position_embeddings": 64, "rms_norm_eps": 1e-6, "num_key_value_heads": 2,
}  # fmt: skip


def config_class(kind):
    return models.ARCHITECTURES[kind].config_class


@pytest.mark.parametrize("name", CONFIGS)
def test_what_we_write_is_known(name):
    c = CONFIGS[name]
    notes = c.hf_notes(c.to_hf())
    assert [n for n in notes if "config.json" in n] == []


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("llama", "clip_qkv", 8.0),
        ("llama", "attn_logit_softcapping", 50.0),
        ("llama", "final_logit_softcapping", 30.0),
        ("llama", "residual_multiplier", 0.22),
        ("llama", "embedding_multiplier", 12.0),
        ("llama", "logits_scaling", 8.0),
        ("llama", "logit_scale", 0.0625),
        ("llama", "num_local_experts", 8),
        ("llama", "use_qk_norm", True),
        ("llama", "is_encoder_decoder", True),
        ("llama", "attention_bias", True),
        ("llama", "mlp_bias", True),
        ("llama", "layer_types", ["full_attention", "sliding_attention"]),
        ("llama", "no_rope_layers", [1, 0]),
        ("mistral", "layer_types", ["full_attention", "sliding_attention"]),
        ("phi3", "mlp_bias", True),
        ("qwen2", "mlp_bias", True),
        ("qwen3", "num_experts", 64),
        ("qwen3", "use_sliding_window", True),
        ("olmo2", "clip_qkv", 8.0),
        ("smollm3", "logit_scale", 0.5),
    ],
)
def test_what_others_compute_by_is_refused(kind, field, value):
    more = {"sliding_window": 16, "max_window_layers": 1} if kind == "qwen3" else {}
    with pytest.raises(ValueError, match=rf"\[config.json\] expected {field} .*for {kind}, got ") as error:
        config_class(kind).from_hf({**PLAIN, **more, field: value})
    assert "\n" not in str(error.value)


def test_what_changes_nothing_is_read_in_silence():
    """What tools write: other tasks' heads, generation's defaults, training; and values that are the usual ones."""
    harmless = {
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "torch_dtype": "bfloat16", "transformers_version": "4.31.0",
        "pretraining_tp": 2, "attention_dropout": 0.1, "initializer_range": 0.02, "use_cache": True, "_name_or_path": "x",
        "bos_token_id": 1, "eos_token_id": [2, 3], "pad_token_id": 0, "id2label": {"0": "LABEL_0"}, "temperature": 0.7,
        "residual_multiplier": 1.0, "clip_qkv": None, "layer_types": ["full_attention"] * 2, "later": None, "later_too": False,
        "and_this": [], "unsloth_version": "2025.1", "_some_private": 3,
    }  # fmt: skip
    c = config_class("llama")
    assert c.from_hf({**PLAIN, **harmless}) == c.from_hf(PLAIN)
    assert c.hf_notes({**PLAIN, **harmless}) == []


def test_what_is_unknown_is_noted():
    c = config_class("llama")
    unknown = {"b_field_of_tomorrow": 3, "a_field": {"x": 1}}
    assert c.from_hf({**PLAIN, **unknown}) == c.from_hf(PLAIN)
    assert c.hf_notes({**PLAIN, **unknown}) == ["config.json: unknown here and not used: a_field, b_field_of_tomorrow"]
    (note,) = c.hf_notes({**PLAIN, **{f"field_{i:02}": 1 for i in range(20)}})
    assert note.endswith("field_11 and 8 more")


@pytest.mark.parametrize("kind", ["llama", "gemma3_text", "smollm3"])
def test_layers_beyond_count_are_refused(kind):
    for count, message in (
        (10**12, "at most 65536 layers, got 1000000000000"),
        (10**300, "num_hidden_layers of at most 64 bits"),
    ):
        with pytest.raises(ValueError, match=rf"\[config.json\] expected {message}"):
            config_class(kind).from_hf({**PLAIN, "num_hidden_layers": count, "head_dim": 16, "sliding_window": 8})


def test_windows():
    """Mistral has one of 4096 if its file says nothing, as in transformers; Qwen's begins at max_window_layers."""
    mistral = config_class("mistral")
    assert mistral.from_hf(PLAIN).window == 4096
    assert mistral.from_hf({**PLAIN, "sliding_window": None}).window is None
    assert mistral.from_hf({**PLAIN, "sliding_window": 16, "layer_types": ["sliding_attention"] * 2}).window == 16
    for kind in ("qwen2", "qwen3"):
        c, window = config_class(kind), {"use_sliding_window": True, "sliding_window": 16}
        assert c.from_hf({**PLAIN, **window, "max_window_layers": 2}) == c.from_hf(PLAIN)
        assert c.from_hf({**PLAIN, "use_sliding_window": True, "sliding_window": None}) == c.from_hf(PLAIN)
        for some in (
            {"max_window_layers": 1},
            {"max_window_layers": 2, "layer_types": ["full_attention", "sliding_attention"]},
        ):
            with pytest.raises(ValueError, match="expected use_sliding_window False"):
                c.from_hf({**PLAIN, **window, **some})
    experts = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    with pytest.raises(ValueError, match="expected use_sliding_window False"):  # all layers have it there
        config_class("qwen3_moe").from_hf({**PLAIN, **experts, **window, "max_window_layers": 2})


def test_frequencies_in_a_file_that_are_others():
    """Older files hold inv_freq, base^(-2i / size), which transformers does not read; a note says where it differs."""
    c = config_class("llama").from_hf(PLAIN)
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    right = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    for same in (right.astype(np.float32), right.astype(np.float16)):
        assert c.notes_on_tensors({name: same}) == []
    (note,) = c.notes_on_tensors({name: 1e6 ** (-np.arange(0, 16, 2) / 16)})
    assert note == f"{name} is not what config.json says (rope_theta 10000), which is used, as transformers does"


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", models.ARCHITECTURES)
def test_every_field_of_transformers_is_known(kind):
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoConfig.for_model(kind).to_dict()
    known = config_class(kind).hf_fields() | config_fields.NO_MATTER | config_fields.FOREIGN.keys()
    assert theirs.keys() - known == set()
