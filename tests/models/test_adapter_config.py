"""Fields of PEFT's adapter_config.json: those that change the computation are used or refused by name."""

import dataclasses
import json

import numpy as np
import pytest

from llmcore import LanguageModel, Tokenizer, load, models
from llmcore.formats import safetensors
from llmcore.models import adapter_config, adapter_files
from support.tolerances import assert_close

TOKENIZER = Tokenizer.train(iter(["a"]), 257)
SIZES = {"vocab_size": 257, "context": 64, "width": 32, "layers": 3, "heads": 2, "ffn": 48}
# What PEFT 0.21.2 writes for a LoraConfig of the targets alone.
PLAIN = {
    "alora_invocation_tokens": None, "alpha_pattern": {}, "arrow_config": None, "auto_mapping": None,
    "base_model_name_or_path": None, "bias": "none", "corda_config": None, "ensure_weight_tying": False, "eva_config": None,
    "exclude_modules": None, "fan_in_fan_out": False, "inference_mode": True, "init_lora_weights": True, "kasa_config": None,
    "layer_replication": None, "layers_pattern": None, "layers_to_transform": None, "loftq_config": {}, "lora_alpha": 8,
    "lora_bias": False, "lora_dropout": 0.0, "lora_ga_config": None, "megatron_config": None, "megatron_core": "megatron.core",
    "modules_to_save": None, "monteclora_config": None, "peft_type": "LORA", "peft_version": "0.21.2", "qalora_group_size": 16,
    "r": 4, "rank_pattern": {}, "revision": None, "target_modules": ["q_proj"], "target_parameters": None,
    "task_type": "CAUSAL_LM", "trainable_token_indices": None, "use_bdlora": None, "use_dora": False, "use_qalora": False,
    "use_rslora": False, "velora_config": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    LanguageModel(models.Llama(models.LlamaConfig(**SIZES), seed=1), TOKENIZER, [256]).save(folder)
    return folder


def write(base, folder, layers=(0, 1, 2), rank=4, **change):
    """An adapter of q_proj in some layers, with these fields changed."""
    rng = np.random.default_rng(0)
    tensors = {}
    for i in layers:
        name = f"base_model.model.model.layers.{i}.self_attn.q_proj"
        tensors[f"{name}.lora_A.weight"] = rng.normal(size=(rank, 32)).astype(np.float32)
        tensors[f"{name}.lora_B.weight"] = rng.normal(size=(32, rank)).astype(np.float32)
    folder.mkdir()
    safetensors.save_file(tensors, folder / adapter_files.WEIGHTS, {"format": "pt"})
    config = PLAIN | {"base_model_name_or_path": str(base)} | change
    (folder / adapter_files.CONFIG).write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"init_lora_weights": "gaussian"},
        {"init_lora_weights": "eva", "eva_config": {"rho": 2.0}},
        {"init_lora_weights": False, "lora_some_day": None, "use_some_day": False, "later": []},
        {"target_modules": ["q_proj", "w1"], "task_type": "FEATURE_EXTRACTION", "velora_config": {"num_groups": 4}},
        {"target_modules": r".*\.q_proj"},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.v_proj"},
    ],
)
def test_what_says_nothing_about_the_result(base, tmp_path, change):
    plain, other = load(write(base, tmp_path / "a")), load(write(base, tmp_path / "b", **change))
    ids = np.arange(9)[None]
    np.testing.assert_array_equal(other.model(ids).numpy(), plain.model(ids).numpy())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        *(
            ({"init_lora_weights": how}, f"PEFT converts one .* got init_lora_weights '{how}', which changed the base")
            for how in ("pissa", "pissa_niter_4", "PiSSA", "olora", "corda", "loftq", "lora_ga")
        ),
        ({"init_lora_weights": "some_day"}, "init_lora_weights one of .*, got 'some_day'"),
        ({"init_lora_weights": [1]}, r"init_lora_weights one of .*, got \[1\]"),
        ({"alora_invocation_tokens": [5, 7]}, r"no alora_invocation_tokens, which is not supported .*, got \[5, 7\]"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "no layer_replication, which is not supported"),
        ({"arrow_config": {"top_k": 3}}, "no arrow_config, which is not supported"),
        ({"use_bdlora": {"nblocks": 2}}, "no use_bdlora, which is not supported"),
        ({"monteclora_config": {"x": 1}}, "no monteclora_config, which is not supported"),
        ({"kasa_config": {"x": 1}}, "no kasa_config, which is not supported"),
        ({"use_qalora": True}, "no use_qalora, which is not supported"),
        ({"megatron_config": {"x": 1}}, "no megatron_config, which is not supported"),
        ({"target_parameters": ["experts.w"]}, "no target_parameters, which is not supported"),
        ({"trainable_token_indices": [3]}, "no trainable_token_indices, which is not supported"),
        ({"modules_to_save": ["lm_head"]}, "expected tensors of lm_head, as modules_to_save says, got none"),
        ({"modules_to_save": "lm_head"}, "modules_to_save a list of names, got 'lm_head'"),
        ({"use_dora": True}, r"expected lora_magnitude_vector \(32\), as use_dora says, got none"),
        ({"lora_bias": True}, "expected lora_bias false, got True"),
        ({"bias": "some"}, "expected bias none, all or lora_only, got 'some'"),
        ({"lora_some_day": {"x": 1}}, "no lora_some_day, which is unknown"),
        ({"lora_alpha": 10**400}, "expected lora_alpha a number, got 1000"),
        ({"alpha_pattern": {"q_proj": float("nan")}}, "alpha_pattern an object of numbers, got nan"),
        ({"r": "4"}, "expected r a number, got '4'"),
        ({"r": 8}, "q_proj: expected rank 8.*, as adapter_config.json says, got 4"),
        ({"rank_pattern": {"layers.1.self_attn.q_proj": 2}}, r"layers.1.self_attn.q_proj: expected rank 2.*, got 4"),
        ({"rank_pattern": [2]}, "rank_pattern an object of numbers"),
        ({"target_modules": 3}, "target_modules a list of names or an expression, got 3"),
        ({"target_modules": ["q_proj", "v_proj"]}, "layers.0.self_attn.v_proj: expected lora_A and lora_B, as target_modules says, got neither"),
        ({"target_modules": "("}, "expected a regular expression for target_modules"),
        ({"layers_to_transform": "x"}, "layers_to_transform one or a list of int"),
        ({"layers_pattern": 4}, "layers_pattern one or a list of str"),
    ],
)  # fmt: skip
def test_what_changes_the_computation_is_named(base, tmp_path, change, message):
    with pytest.raises(ValueError, match=message) as error:
        load(write(base, tmp_path / "adapter", **change))
    assert "\n" not in str(error.value)
    assert "adapter_" in str(error.value)


def test_some_layers_only(base, tmp_path):
    """The tensors of the layers that PEFT would choose, no fewer."""
    for i, some in enumerate(
        ({"layers_to_transform": [0, 2]}, {"layers_to_transform": [0, 2], "layers_pattern": "layers"})
    ):
        load(write(base, tmp_path / f"some {i}", layers=(0, 2), **some))
        with pytest.raises(ValueError, match=r"layers.2.self_attn.q_proj: expected lora_A and lora_B"):
            load(write(base, tmp_path / f"fewer {i}", layers=(0,), **some))
    load(write(base, tmp_path / "one", layers=(1,), layers_to_transform=1))


def test_a_pickled_adapter_is_refused(base, tmp_path):
    folder = write(base, tmp_path / "adapter")
    (folder / adapter_files.WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(
        ValueError,
        match=r"adapter_model.safetensors .load the adapter with PEFT and save it again., got .*bin, which is pickled",
    ):
        load(folder)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_every_field_of_peft_is_known():
    peft = pytest.importorskip("peft")
    known = adapter_config.USED | adapter_config.NO_MATTER | adapter_config.UNSUPPORTED
    assert {f.name for f in dataclasses.fields(peft.LoraConfig)} - known == set()


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]},
        {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["layers.1.self_attn.v_proj"]},
        {"target_modules": "all-linear", "rank_pattern": {"o_proj": 3}, "alpha_pattern": {"o_proj": 5}},
        {"target_modules": r".*\.(gate|up)_proj", "init_lora_weights": "orthogonal"},
    ],
)
def test_logits_of_peft(base, tmp_path, options):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager")
    theirs = peft.get_peft_model(plain, peft.LoraConfig(**{"r": 4, "init_lora_weights": False} | options)).eval()
    theirs.save_pretrained(tmp_path / "adapter")
    ids = np.arange(9)[None]
    got = load(base, "float32").with_adapter(tmp_path / "adapter").model(ids).numpy()
    assert_close(got, theirs(torch.tensor(ids)).logits.detach().numpy(), "float32", factor=4)
