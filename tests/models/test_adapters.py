"""LoRA on every architecture: what it computes, its gradients, merging, PEFT's files, quantized bases."""

import dataclasses
import json

import numpy as np
import pytest

import llmcore
from llmcore import models, nn
from llmcore.formats import safetensors
from llmcore.generate import LanguageModel, load
from llmcore.models import adapter_files, adapters
from support.small_models import CONFIGS
from support.tolerances import assert_close

TOKENIZER = llmcore.Tokenizer.train(iter(["some text"]), 260, pattern="gpt2")


def build(name, factor=3.0, **sizes):
    """Of larger weights than it would begin with, so that every part counts."""
    config = dataclasses.replace(CONFIGS[name], **sizes)
    model = models.ARCHITECTURES[config.model_type](config, "float32", seed=1)
    rng = np.random.default_rng(2)
    for p in model.parameters():
        p.assign(
            np.asarray(p.stored(), np.float32) * np.float32(factor)
            + rng.normal(0, 0.02 * factor, p.shape).astype(np.float32)
        )
    return model


def stir(model, seed=3, size=0.1):
    """Adapters that do something."""
    rng = np.random.default_rng(seed)
    for p in model.trainable().values():
        p.assign(rng.normal(0, size, p.shape).astype(np.float32))


def some_ids(seed, *shape):
    return np.random.default_rng(seed).integers(1, 99, shape)


@pytest.mark.parametrize("name", CONFIGS)
def test_new_adapters_change_nothing_and_merged_ones_all(name):
    model, ids = build(name), some_ids(0, 2, 13)
    plain = model(ids).numpy().copy()
    adapters.attach_lora(model, adapters.LoRAConfig(rank=4))
    assert all(".lora." in n for n in model.trainable())
    np.testing.assert_array_equal(model(ids).numpy(), plain)
    stir(model)
    changed = model(ids).numpy().copy()
    assert np.abs(changed - plain).max() > 0.05
    twin = model.shared_copy()
    adapters.merge(twin)
    assert_close(twin(ids).numpy(), changed, "float32", factor=10)
    assert not adapters.has_lora(twin)
    assert all(p.requires_grad for p in twin.parameters())
    np.testing.assert_array_equal(model(ids).numpy(), changed)  # the other one still has its own


@pytest.mark.parametrize("name", CONFIGS)
def test_gradients_are_those_of_the_whole_weight(name):
    """∂L/∂b = s · ∂L/∂W · aᵀ and ∂L/∂a = s · bᵀ · ∂L/∂W, with ∂L/∂W of the merged model."""
    model, ids = build(name), some_ids(1, 2, 13)
    adapters.attach_lora(model, adapters.LoRAConfig(rank=3, alpha=5.0))
    stir(model, size=0.03)
    merged = model.shared_copy()
    adapters.merge(merged)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    merged.loss(ids[:, :-1], ids[:, 1:]).backward()
    whole = dict(merged.modules())
    checked = 0
    for path, module in model.modules():
        if not isinstance(module, nn.Linear) or module.lora is None:
            continue
        grad = whole[path].weight.grad
        for low in module.lora.parts if grad is not None else ():
            dw = grad.numpy()[low.start : low.end].astype(np.float64) * low.scale
            a, b = low.a.array.numpy(), low.b.array.numpy()
            for mine, wanted in ((low.b, dw @ a.T), (low.a, b.T @ dw)):
                size = max(float(np.abs(wanted).max()), 1e-6)
                np.testing.assert_allclose(mine.grad.numpy() / size, wanted / size, atol=1e-3)  # two float32 chains
                checked += 1
    assert checked >= 4 * CONFIGS[name].layers
    for n, p in model.named_parameters():
        assert p.requires_grad or p.grad is None, n


def test_targets():
    for targets, names in (
        (["q_proj", "v_proj"], {"q_proj", "v_proj"}),
        (r".*\.layers\.1\.self_attn\.[kv]_proj", {"k_proj", "v_proj"}),
        (["model.layers.2.mlp.down_proj"], {"down_proj"}),
    ):
        model = build("llama")
        adapters.attach_lora(model, adapters.LoRAConfig(targets=targets))
        assert {s.name.split(".")[-1] for s in adapters.sites(model) if s.adapters()} == names
        stir(model)
        twin, ids = model.shared_copy(), some_ids(0, 1, 9)
        adapters.merge(twin)
        assert_close(twin(ids).numpy(), model(ids).numpy(), "float32", factor=10)
    with pytest.raises(
        ValueError, match=r"\[lora\] expected targets among down_proj, embed_tokens, gate_proj, .* got \['w1'\]"
    ):
        adapters.attach_lora(build("llama"), adapters.LoRAConfig(targets=["w1"]))
    with pytest.raises(ValueError, match=r"\[lora\] expected targets among down_proj, .* got \['q_proj', 'v_porj'\]"):
        adapters.attach_lora(build("llama"), adapters.LoRAConfig(targets=["q_proj", "v_porj"]))


def saved(tmp_path, name="llama", **options):
    """A base and an adapter of it, in files."""
    LanguageModel(build(name, vocab_size=260), TOKENIZER, [0]).save(tmp_path / "base")
    lm = load(tmp_path / "base", "float32")
    adapters.attach_lora(lm.model, adapters.LoRAConfig(**options))
    stir(lm.model)
    lm.save(tmp_path / "adapter")
    return lm


@pytest.mark.parametrize("name", ["llama", "gpt2", "pythia", "phi3"])
def test_an_adapter_in_files(name, tmp_path):
    lm, ids = saved(tmp_path, name, rank=5, alpha=3.5), some_ids(0, 2, 9)
    again = load(tmp_path / "adapter", "float32")
    np.testing.assert_array_equal(again.model(ids).numpy(), lm.model(ids).numpy())
    merged = again.merged()
    merged.save(tmp_path / "whole")
    whole = load(tmp_path / "whole", "float32")
    assert_close(whole.model(ids).numpy(), lm.model(ids).numpy(), "float32", factor=10)


def test_several_adapters_on_one_base(tmp_path):
    lm = saved(tmp_path)
    prompts = [[5, 9, 3], [8, 1]]
    stir(lm.model, 9)
    lm.save(tmp_path / "other")
    base = load(tmp_path / "base", "float32")
    plain = [str(c) for c in base.generate(prompts, 12, temperature=0, ignore_eos=True)]
    one, other = base.with_adapter(tmp_path / "adapter"), base.with_adapter(tmp_path / "other")
    assert one.model.tokens.weight is base.model.tokens.weight
    results = [[c.tokens for c in m.generate(prompts, 12, temperature=0, ignore_eos=True)] for m in (one, other)]
    assert results[0] != results[1]
    for m, got in ((one, results[0]), (other, results[1])):  # against the whole text at every step, without a cache
        for prompt, tokens in zip(prompts, got, strict=True):
            ids = list(prompt)
            for token in tokens:
                assert int(m.model(np.array([ids])).numpy()[0, -1].argmax()) == token
                ids.append(token)
    assert [str(c) for c in base.generate(prompts, 12, temperature=0, ignore_eos=True)] == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c, t: c.update(peft_type="IA3"), "expected peft_type LORA"),
        (lambda c, t: c.update(lora_alpha="x"), "expected lora_alpha a number, got 'x'"),
        (lambda c, t: c.update(alpha_pattern=[1]), r"expected alpha_pattern an object of numbers, got \[1\]"),
        (lambda c, t: c.update(alpha_pattern={"a": "b"}), "expected alpha_pattern an object of numbers"),
        (lambda c, t: c.update(alpha_pattern={"(": 2}), r"alpha_pattern: expected a regular expression, got '\('"),
        (lambda c, t: c.update(lora_dropout="x"), r"expected lora_dropout in \[0, 1\), got 'x'"),
        (lambda c, t: c.update(use_dora=True), r"expected lora_magnitude_vector \(\d+\), as use_dora says, got none"),
        (
            lambda c, t: c.update(modules_to_save=["lm_head"]),
            "expected tensors of lm_head, as modules_to_save says, got none",
        ),
        (lambda c, t: c.update(base_model_name_or_path=3), "expected the path or name of the base model .* got 3"),
        (lambda c, t: t.clear(), "q_proj: expected lora_A and lora_B, as target_modules says, got neither"),
        (lambda c, t: t.update({"base_model.model.x.lora_A.weight": np.zeros((2, 2), np.float32)}), "got 'base_model"),
        (lambda c, t: t.pop(min(t)), "expected lora_A and lora_B, got one of them"),
        (lambda c, t: t.update({min(t): np.zeros((8, 3), np.float32)}), r"expected lora_A \(rank, "),
    ],
)
def test_adapters_that_do_not_fit(tmp_path, change, message):
    saved(tmp_path)
    folder = tmp_path / "adapter"
    config = json.loads((folder / adapter_files.CONFIG).read_text())
    tensors = {k: np.array(v) for k, v in safetensors.load_file(folder / adapter_files.WEIGHTS)[0].items()}
    change(config, tensors)
    (folder / adapter_files.CONFIG).write_text(json.dumps(config))
    safetensors.save_file(tensors, folder / adapter_files.WEIGHTS, {})
    with pytest.raises(ValueError, match=message) as error:
        load(folder)
    assert "\n" not in str(error.value)


def test_an_adapter_of_an_adapter_is_refused(tmp_path):
    saved(tmp_path)
    path = tmp_path / "adapter" / adapter_files.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(path.parent)}))
    with pytest.raises(ValueError, match=r"expected a whole model \(in Python .*merged\(\).* got an adapter"):
        load(tmp_path / "adapter")
    for nothing in (None, "", " "):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": nothing}))
        with pytest.raises(ValueError, match=r"base_model_name_or_path: expected the path or name of the base model"):
            load(tmp_path / "adapter")


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1"])
@pytest.mark.parametrize("name", ["llama-untied", "gpt2"])
def test_quantized_bases(kind, name, tmp_path):
    """Gradients of adapters on blocks are near those on the float32 values of the same blocks: only what is multiplied
    with is rounded, to 8 bits."""
    sizes = {"vocab_size": 260, "width": 64, "ffn": 96} | ({} if name == "gpt2" else {"head_size": 16})
    LanguageModel(build(name, 1.0, **sizes), TOKENIZER, [0]).save(tmp_path / "m.gguf", kind)
    ids, grads, losses = some_ids(2, 2, 14), [], []
    for quantize in (None, "none"):
        model = load(tmp_path / "m.gguf", "float32", quantize).model
        adapters.attach_lora(model, adapters.LoRAConfig(rank=4))
        stir(model, size=0.03)
        loss = model.loss(ids[:, :-1], ids[:, 1:])
        loss.backward()
        losses.append(loss.item())
        grads.append({n: p.grad.numpy().copy() for n, p in model.trainable().items()})
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert grads[0].keys() == grads[1].keys()
    assert len(grads[0]) >= 16
    for n, g in grads[0].items():
        wanted = grads[1][n]
        assert np.linalg.norm(g - wanted) < 0.1 * np.linalg.norm(wanted), n


def test_merging_into_quantized_weights(tmp_path):
    sizes = {"vocab_size": 260, "width": 64, "ffn": 96, "head_size": 16}
    LanguageModel(build("llama", **sizes), TOKENIZER, [0]).save(tmp_path / "m.gguf", "Q8_0")
    lm = load(tmp_path / "m.gguf", "float32")
    adapters.attach_lora(lm.model, adapters.LoRAConfig())
    stir(lm.model)
    ids = some_ids(0, 1, 9)
    merged = lm.merged()
    assert_close(merged.model(ids).numpy(), lm.model(ids).numpy(), "bfloat16", factor=10)
    assert lm.model.blocks[0].attention.out.weight.quantized is not None


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["llama", "gpt2", "qwen2", "pythia", "olmo2"])
def test_peft_loads_ours_and_we_load_theirs(name, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    lm, ids = saved(tmp_path, name, rank=4, alpha=6.0), some_ids(0, 2, 9)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        assert_close(lm.model(ids).numpy(), theirs(torch.tensor(ids)).logits.numpy(), "float32", factor=4)
        for n, p in theirs.named_parameters():
            if "lora_" in n:
                p.copy_(torch.randn_like(p) * 0.2)
        theirs.save_pretrained(tmp_path / "theirs")
        wanted = theirs(torch.tensor(ids)).logits.numpy()
    got = load(tmp_path / "base", "float32").with_adapter(tmp_path / "theirs")
    assert_close(got.model(ids).numpy(), wanted, "float32", factor=4)


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
def test_patterns_and_stabilised_ranks_of_peft(tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    saved(tmp_path)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager")
    config = peft.LoraConfig(
        r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], rank_pattern={"layers.1.self_attn.q_proj": 2},
        alpha_pattern={"down_proj": 3}, use_rslora=True, init_lora_weights=False,
    )  # fmt: skip
    theirs = peft.get_peft_model(base, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    ids = some_ids(0, 2, 9)
    wanted = theirs(torch.tensor(ids)).logits.detach().numpy()
    lm = load(tmp_path / "base", "float32").with_adapter(tmp_path / "theirs")
    assert_close(lm.model(ids).numpy(), wanted, "float32", factor=4)
    lm.save(tmp_path / "again")
    again = load(tmp_path / "again", "float32")
    np.testing.assert_array_equal(again.model(ids).numpy(), lm.model(ids).numpy())
