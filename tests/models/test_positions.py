"""Rotations as configs describe them: what scaling does to frequencies, to the context and to long texts, and back to files.
Frequencies are those of the formulas of transformers' modeling_rope_utils; logits are compared with its models."""

import json
import math

import numpy as np
import pytest

from llmcore import LanguageModel, Tokenizer, models
from llmcore.formats import safetensors
from llmcore.models import RopeScaling
from llmcore.models.rope import Rotary
from support.tolerances import assert_close

SIZES = {
    "vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1,
    "intermediate_size": 48, "rms_norm_eps": 1e-6, "tie_word_embeddings": True,
}  # fmt: skip
SHORT, LONG = [1.0, 1.5, 2.0, 1.25, 1.0, 1.0, 3.0, 2.5], [1.0, 2.0, 4.0, 3.5, 8.0, 6.0, 12.0, 16.0]
LONGROPE = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}
LLAMA3 = {
    "rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}  # fmt: skip
# What a config.json says, the context that it gives, and the kind of scaling.
CONFIGS = {
    "yarn-card": ("qwen2", 32, {"rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    "yarn-no-original": ("qwen2", 32, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0}}, 128),
    "yarn-scaled-already": ("llama", 128, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    "yarn-more-than-pretraining": ("qwen3", 40, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}}, 128),
    "yarn-mscale": ("llama", 128, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "beta_fast": 24, "beta_slow": 2, "mscale": 0.7, "mscale_all_dim": 1.3}}, 128),
    "yarn-own-attention": ("mistral", 128, {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, "attention_factor": 1.25, "truncate": False}, "sliding_window": None}, 128),
    "linear": ("llama", 32, {"rope_scaling": {"type": "linear", "factor": 4.0}}, 128),
    "linear-gemma3": ("gemma3_text", 128, {"rope_scaling": {"rope_type": "linear", "factor": 8.0}, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}, 128),
    "layer-types": ("gemma3_text", 128, {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 5e5}, "sliding_attention": {"rope_type": "default", "rope_theta": 5000.0}}, "head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}, 128),
    "llama3": ("llama", 128, {"rope_scaling": LLAMA3, "rope_theta": 500.0}, 128),
    "llama3-parameters": ("llama", 128, {"rope_parameters": {**LLAMA3, "rope_theta": 500.0}}, 128),
    "longrope": ("phi3", 128, {"rope_scaling": LONGROPE, "original_max_position_embeddings": 32, "sliding_window": None}, 128),
    "longrope-inside": ("llama", 128, {"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 32}}, 128),
    "longrope-partial": ("phi3", 128, {"rope_scaling": {**LONGROPE, "short_factor": SHORT[:6], "long_factor": LONG[:6]}, "partial_rotary_factor": 0.75, "original_max_position_embeddings": 32, "sliding_window": 50}, 128),
    "longrope-own-attention": ("phi3", 128, {"rope_scaling": {**LONGROPE, "attention_factor": 1.5, "factor": 4.0}, "original_max_position_embeddings": 32, "sliding_window": None}, 128),
    "longrope-su": ("phi3", 128, {"rope_scaling": {**LONGROPE, "type": "su"}, "original_max_position_embeddings": 32, "sliding_window": None}, 128),
    "partial": ("phi3", 64, {"rope_parameters": {"rope_type": "default", "rope_theta": 1000.0, "partial_rotary_factor": 0.5}, "sliding_window": None}, 64),
    "proportional": ("llama", 64, {"rope_parameters": {"rope_type": "proportional", "rope_theta": 1000.0, "partial_rotary_factor": 0.5, "factor": 2.0}}, 64),
    "both-the-same": ("llama", 32, {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 777.0}, "rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 777.0}, 64),
}  # fmt: skip


def described(name):
    """The class, its config and the context that is right."""
    kind, stated, more, context = CONFIGS[name]
    config = {**SIZES, "model_type": kind, "max_position_embeddings": stated, **more}
    return models.ARCHITECTURES[kind], config, context


@pytest.mark.parametrize("name", CONFIGS)
def test_the_context_and_back(name):
    model, config, context = described(name)
    c = model.config_class.from_hf(config)
    assert c.context == context
    assert model.config_class.from_hf(json.loads(json.dumps(c.to_hf()))) == c


def test_su_is_the_old_name_of_longrope():
    model, old, _ = described("longrope-su")
    new = old | {"rope_scaling": old["rope_scaling"] | {"type": "longrope"}}
    assert model.config_class.from_hf(old) == model.config_class.from_hf(new)


def test_frequencies():
    """The numbers of transformers 5.24 for heads of 16 dimensions and the base 10000 (its ROPE_INIT_FUNCTIONS)."""

    def frequencies(rope, stated=128, short=False):
        scaling = RopeScaling.from_hf({"original_max_position_embeddings": 32, **rope}, stated)
        return Rotary(16, 10000.0, stated, scaling).frequencies(short), scaling

    plain = 10000.0 ** (-np.arange(8) / 8)
    got, yarn = frequencies({"rope_type": "yarn", "factor": 4.0})
    # The ramp goes from floor(16 ln(32 / (32 · 2π)) / (2 ln 10000)) < 0, so 0, to ceil(1.41...) = 2.
    assert got == pytest.approx(plain * [1.0, 0.5 + 0.5 / 4, *[0.25] * 6])
    assert yarn.attention_factor == pytest.approx(1 + 0.1 * math.log(4))
    got, longrope = frequencies(LONGROPE)
    assert got == pytest.approx(plain / LONG)
    assert frequencies(LONGROPE, short=True)[0] == pytest.approx(plain / SHORT)
    assert longrope.attention_factor == pytest.approx(math.sqrt(1 + math.log(4) / math.log(32)))
    got, _ = frequencies({"rope_type": "proportional", "partial_rotary_factor": 0.25, "factor": 2.0})
    assert got == pytest.approx([*plain[:2] / 2, *[0.0] * 6])


def test_notes_say_what_limits_a_text():
    def notes(name):
        model, config, _ = described(name)
        return model.config_class.from_hf(config) and model.config_class.hf_notes(config)

    assert notes("llama3") == [] == notes("yarn-scaled-already")
    (note,) = notes("yarn-card")
    assert note == "positions: yarn, factor 4 over 32 tokens; the context is 128"
    (note,) = notes("longrope")
    assert "short factors in sequences of up to 32 tokens, long ones in longer ones" in note


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rope_scaling": {"type": "ntk-aware", "factor": 2.0}}, "rope_scaling of type default, linear, .*, got 'ntk-aware'"),
        ({"rope_scaling": {"type": ["yarn"]}}, "rope_scaling of type default"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotations do not change with every token .* up to 128 tokens.*, got 'dynamic'"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 1000.0}}, "rope_scaling of type linear without 'alpha', which is unknown, got 1000"),
        ({"rope_scaling": {"type": "linear"}}, "factor of type float, got None"),
        ({"rope_scaling": {"type": "linear", "factor": -1.0}}, "factor > 0"),
        ({"rope_scaling": [2.0]}, "rope_scaling an object, got"),
        ({"rope_scaling": {**LONGROPE, "long_factor": LONG[:7]}}, "long_factor of 8 numbers, got 7"),
        ({"rope_scaling": {**LONGROPE, "short_factor": [1.0, "2"]}}, "short_factor of numbers"),
        ({"rope_scaling": {**LONGROPE, "short_factor": [0.0] * 8}}, "short_factor of numbers above 0"),
        ({"rope_scaling": {**LONGROPE, "attention_factor": 0.0}}, "attention_factor > 0"),
        ({"rope_scaling": {**LONGROPE, "original_max_position_embeddings": 0}}, "original_context >= 1"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_parameters": {"rope_type": "linear", "factor": 4.0}}, "one 'factor' in rope_parameters and rope_scaling, got 4.0 and 2.0"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}}, "rope_parameters of the same values for all layers"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 1 for llama, got 0.5"),
    ],
)  # fmt: skip
def test_what_is_not_supported_is_named(change, message):
    config = {**SIZES, "max_position_embeddings": 128, **change}
    with pytest.raises(ValueError, match=message):
        models.LlamaConfig.from_hf(config)


def test_any_values_are_read_or_refused():
    """Random fields with random values: a config that is written and read the same, tables, or a ValueError."""
    values = [
        None,
        True,
        0,
        1,
        -1,
        2,
        4096,
        10**400,
        -(10**30),
        1e308,
        -1e308,
        math.inf,
        math.nan,
        1e-320,
        0.5,
        "",
        "x",
        [],
        {},
    ]
    values += [[1.0] * 8, ["a"], [[1]], {"a": 1}, [1e308] * 8, [math.nan] * 8, [10**400] * 8]
    names = "type factor original_max_position_embeddings attention_factor beta_fast beta_slow mscale mscale_all_dim truncate "
    names += "short_factor long_factor low_freq_factor high_freq_factor partial_rotary_factor rope_theta full_attention"
    rng, read = np.random.default_rng(7), 0
    for _ in range(600):
        rope = {
            **LLAMA3,
            **LONGROPE,
            "rope_type": rng.choice(["yarn", "linear", "llama3", "longrope", "proportional"]).item(),
        }
        del rope["type"]
        for _ in range(rng.integers(4)):
            rope[rng.choice(names.split()).item()] = values[rng.integers(len(values))]
        config = {**SIZES, "max_position_embeddings": 64, "rope_scaling": rope}
        try:
            c = models.LlamaConfig.from_hf(config)
        except ValueError:
            continue
        read += 1
        assert models.LlamaConfig.from_hf(c.to_hf()) == c
        models.Llama(c, seed=None).rotary_tables()[0].tables(4)
    assert read > 100


def longrope_model():
    model, config, _ = described("longrope")
    c = model.config_class.from_hf(config)
    made = model(c, seed=4)
    rng = np.random.default_rng(5)
    for _, p in made.named_parameters():
        p.assign(rng.normal(1.0 if p.ndim == 1 else 0.0, 0.3, p.shape))
    return made


def test_longrope_goes_by_the_length_of_a_sequence():
    """Sequences of up to 32 tokens turn by short factors, longer ones by long factors from their first token on; alone, in
    rows of several documents, and in caches."""
    model = longrope_model()
    c = model.config

    def by(factors):
        scaling = RopeScaling("longrope", 4.0, 1 << 20, attention_factor=c.rope_scaling.attention_factor,
                              short_factor=tuple(factors), long_factor=tuple(factors))  # fmt: skip
        other = models.Phi3(models.Phi3Config(**{**vars(c), "rope_scaling": scaling}), seed=None)
        other.load_state_dict(model.state_dict())
        return other

    short, long = by(SHORT), by(LONG)
    ids = np.random.default_rng(6).integers(0, 257, (2, 90))
    assert_close(model(ids[:, :32]).numpy(), short(ids[:, :32]).numpy(), "float32")
    assert_close(model(ids[:, :33]).numpy(), long(ids[:, :33]).numpy(), "float32")
    starts = np.array([[0] * 20 + [20] * 32 + [52] * 38, [0] * 33 + [33] * 57], np.int32)
    got = model.hidden(ids, starts=starts).numpy()
    for row, start, end, right in [
        (0, 0, 20, short),
        (0, 20, 52, short),
        (0, 52, 90, long),
        (1, 0, 33, long),
        (1, 33, 90, long),
    ]:
        assert_close(got[row, start:end], right.hidden(ids[row : row + 1, start:end]).numpy()[0], "float32")
    for capacity, right in ((32, short), (60, long)):
        cache = model.new_cache(2, capacity)
        got = [model(ids[:, :9], cache).numpy(), *[model(ids[:, t : t + 1], cache).numpy() for t in range(9, 32)]]
        assert_close(np.concatenate(got, 1), right(ids[:, :32]).numpy(), "float32")


@pytest.mark.parametrize("draft", [None, "lookup"])
def test_longrope_is_computed_again_when_a_text_outgrows_it(draft):
    """Every token is the likeliest of a whole pass over what is before it, in a batch and from the cache of prefixes too."""
    model = longrope_model()
    lm = LanguageModel(model, Tokenizer.train(iter(["a"]), 257))
    for prompt in ([5, 7, 9] * 3, [5, 7, 9] * 3, [4] * 31, [3] * 40):
        tokens = lm.generate(prompt, 40, temperature=0, ignore_eos=True, draft=draft).tokens
        seen = list(prompt)
        for token in tokens:
            assert token == int(model(np.array([seen])).numpy()[0, -1].argmax()), len(seen)
            seen.append(token)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    "name", [name for name in CONFIGS if name != "longrope-su"]
)  # transformers 5 refuses the old name
def test_logits_of_transformers(name, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    kind, config, context = described(name)
    theirs_config = transformers.AutoConfig.for_model(**config, bos_token_id=0, eos_token_id=0, pad_token_id=0)
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(theirs_config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(12.0) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
    theirs.save_pretrained(tmp_path / "theirs")
    weights, _ = safetensors.load_file(tmp_path / "theirs" / "model.safetensors")
    for file in (config, json.loads((tmp_path / "theirs" / "config.json").read_text())):
        ours = kind.from_hf(file, weights, "float32")
        safetensors.save_file(ours.to_hf(), tmp_path / "model.safetensors", {"format": "pt"})
        ends = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
        (tmp_path / "config.json").write_text(json.dumps(ours.config.to_hf() | ends))
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, attn_implementation="eager")
        for length in (32, 33, context):
            ids = np.random.default_rng(length).integers(1, 257, (1, length))
            expected = theirs(torch.tensor(ids)).logits.detach().numpy()
            got = ours(ids).numpy()
            assert_close(got, expected, "float32", factor=4)
            assert_close(again(torch.tensor(ids)).logits.detach().numpy(), expected, "float32", factor=4)
