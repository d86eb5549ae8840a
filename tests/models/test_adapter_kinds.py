"""DoRA, rsLoRA, adapters of embeddings and output layers, and modules that are trained whole: what they compute, their
gradients, their files, and that PEFT agrees in both directions."""

import json

import numpy as np
import pytest

from llmcore import load, nn
from llmcore.formats import safetensors
from llmcore.generate import LanguageModel
from llmcore.models import adapter_files, adapters
from models.test_adapters import TOKENIZER, build, some_ids, stir
from support.tolerances import assert_close

EVERYWHERE = ["q_proj", "down_proj", "embed_tokens", "lm_head"]


def attached(name="llama", seed=3, **options):
    """A model whose adapters do something: magnitudes near those that they begin with, the rest anything."""
    model = build(name, vocab_size=260)
    adapters.attach_lora(model, adapters.LoRAConfig(**{"rank": 3, "alpha": 5.0} | options), seed)
    rng = np.random.default_rng(seed)
    for n, p in model.trainable().items():
        values = np.array(p.array.numpy())
        p.assign(values * rng.uniform(0.7, 1.4, p.shape).astype(np.float32) if n.endswith("magnitude")
                 else values + rng.normal(0, 0.05, p.shape).astype(np.float32))  # fmt: skip
    return model


def by_hand(model):
    """The same model with whole weights W + s b a whose rows (an embedding's columns) are given their lengths."""
    whole = model.shared_copy()
    if whole.head is None:
        adapters.untie(whole)
    layers = dict(whole.modules())
    for path, module in model.modules():
        if not isinstance(module, (nn.Linear, nn.Embedding)) or module.lora is None:
            continue
        w = np.array(module.weight.stored(), np.float64)
        for low in module.lora.every:
            a, b = low.a.array.numpy().astype(np.float64), low.b.array.numpy().astype(np.float64)
            factor = low.alpha / (np.sqrt(low.rank) if low.stabilised else low.rank)
            if isinstance(module, nn.Embedding):
                w += factor * a @ b.T
            else:
                w[low.start : low.end] += factor * b @ a
        for low in module.lora.every:
            if low.magnitude is not None and isinstance(module, nn.Embedding):
                w *= low.magnitude.array.numpy() / np.sqrt((w * w).sum(axis=0))
            elif low.magnitude is not None:
                rows = w[low.start : low.end]
                rows *= (low.magnitude.array.numpy() / np.sqrt((rows * rows).sum(axis=1)))[:, None]
        layers[path].weight = nn.Parameter(w.astype(np.float32))
        del layers[path].lora
    return whole


KINDS = {
    "dora": {"dora": True},
    "rslora": {"stabilised": True},
    "embedding": {"targets": ["embed_tokens"]},
    "head": {"targets": ["lm_head"]},
    "all of it": {"targets": EVERYWHERE, "dora": True, "stabilised": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["llama", "llama-untied"])
def test_what_is_computed(name, kind):
    plain, ids = build(name, vocab_size=260), some_ids(0, 2, 13)
    wanted = plain(ids).numpy().copy()
    adapters.attach_lora(plain, adapters.LoRAConfig(**KINDS[kind]))
    np.testing.assert_array_equal(plain(ids).numpy(), wanted)  # they change nothing yet
    model = attached(name, **KINDS[kind])
    got, whole = model(ids).numpy(), by_hand(model)
    assert np.abs(got - wanted).max() > 0.05
    assert_close(got, whole(ids).numpy(), "float32", factor=10)
    merged = model.shared_copy()
    adapters.merge(merged)
    assert_close(merged(ids).numpy(), got, "float32", factor=10)
    loss = model.loss(ids[:, :-1], ids[:, 1:]).item()
    assert loss == pytest.approx(whole.loss(ids[:, :-1], ids[:, 1:]).item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_whole_weight(kind):
    """With V = W + s b a and n the lengths of its rows, which count as constants (Liu et al. 2024, section 4.3), the weight is
    m V / n: dm is the sum of dW' · V / n, and a and b get their part of dW' · m / n."""
    model, ids = attached("llama-untied", **KINDS[kind]), some_ids(1, 2, 13)
    whole = by_hand(model)
    model.loss(ids[:, :-1], ids[:, 1:]).backward()
    whole.loss(ids[:, :-1], ids[:, 1:]).backward()
    layers, checked = dict(whole.modules()), 0
    for site in adapters.sites(model):
        path = site.path.removesuffix(".weight")
        for low in site.adapters():
            turn = np.transpose if isinstance(site.module, nn.Embedding) else np.asarray
            dw = turn(layers[path].weight.grad.numpy()).astype(np.float64)[low.start : low.end]
            w = turn(layers[path].weight.array.numpy()).astype(np.float64)[low.start : low.end]  # m V / n
            pairs = []
            if low.magnitude is not None:
                m = low.magnitude.array.numpy()
                pairs.append((low.magnitude, (dw * w).sum(axis=1) / m))
                v = turn(np.array(site.module.weight.stored(), np.float64) + 0)[low.start : low.end] + turn(low.delta())
                dw = dw * (m / np.sqrt((v * v).sum(axis=1)))[:, None]
            a, b = turn(low.a.array.numpy()), low.b.array.numpy()
            pairs += [(low.b, low.scale * dw @ a.T), (low.a, turn(low.scale * b.T @ dw))]
            for mine, wanted in pairs:
                size = max(float(np.abs(wanted).max()), 1e-6)
                np.testing.assert_allclose(mine.grad.numpy() / size, wanted / size, atol=2e-3)
                checked += 1
    assert checked >= 2


def test_modules_trained_whole():
    """They get the gradients of full fine-tuning, and nothing else of the base does."""
    model, plain, ids = build("llama"), build("llama"), some_ids(1, 2, 13)
    adapters.attach_lora(model, adapters.LoRAConfig(targets=["q_proj"], modules_to_save=["lm_head", "norm"]))
    whole = {n for n in model.trainable() if ".lora." not in n}
    assert whole == {"tokens.weight", "norm.weight"}  # the output layer is the token embedding
    for m in (model, plain):
        m.loss(ids[:, :-1], ids[:, 1:]).backward()
    for name, p in model.named_parameters():
        if name in whole:
            np.testing.assert_array_equal(p.grad.numpy(), dict(plain.named_parameters())[name].grad.numpy())
        assert (p.grad is not None) == p.requires_grad
    reference = adapters.base_model(model)
    stir(model)
    np.testing.assert_array_equal(reference(ids).numpy(), plain(ids).numpy())
    with pytest.raises(ValueError, match=r"modules_to_save among down_proj, embed_tokens, .* got \['lm_haed'\]"):
        adapters.attach_lora(build("llama"), adapters.LoRAConfig(modules_to_save=["norm", "lm_haed"]))
    with pytest.raises(
        ValueError, match=r"all of .*q_proj, .*k_proj, .*v_proj in modules_to_save: they are one matrix"
    ):
        adapters.attach_lora(build("llama"), adapters.LoRAConfig(modules_to_save=["q_proj"]))


@pytest.mark.parametrize(
    "options",
    [
        {"targets": EVERYWHERE, "dora": True, "stabilised": True},
        {"targets": ["q_proj"], "modules_to_save": ["embed_tokens", "norm"]},
        {"modules_to_save": ["q_proj", "k_proj", "v_proj", "lm_head"], "dora": True},
    ],
)
@pytest.mark.parametrize("name", ["llama", "llama-untied"])
def test_files(name, options, tmp_path):
    LanguageModel(build(name, vocab_size=260), TOKENIZER, [0]).save(tmp_path / "base")
    lm, ids = load(tmp_path / "base", "float32"), some_ids(0, 2, 9)
    adapters.attach_lora(lm.model, adapters.LoRAConfig(**options))
    rng = np.random.default_rng(0)
    for p in lm.model.trainable().values():
        p.assign(np.array(p.array.numpy()) + rng.normal(0, 0.05, p.shape).astype(np.float32))
    lm.save(tmp_path / "adapter")
    again = load(tmp_path / "adapter", "float32")
    np.testing.assert_array_equal(again.model(ids).numpy(), lm.model(ids).numpy())
    assert (again.model.head is None) == (lm.model.head is None)
    again.merged().save(tmp_path / "whole")
    assert_close(load(tmp_path / "whole", "float32").model(ids).numpy(), lm.model(ids).numpy(), "float32", factor=10)
    lm.save(tmp_path / "whole.gguf", "F32")
    assert_close(
        load(tmp_path / "whole.gguf", "float32").model(ids).numpy(), lm.model(ids).numpy(), "float32", factor=10
    )


def test_quantized_bases(tmp_path):
    """The lengths of rows are those of the blocks' values, with products that round as the model's do."""
    sizes = {"vocab_size": 260, "width": 64, "ffn": 96, "head_size": 16}
    LanguageModel(build("llama", 1.0, **sizes), TOKENIZER, [0]).save(tmp_path / "m.gguf", "Q8_0")
    ids, losses = some_ids(2, 2, 14), []
    for quantize in (None, "none"):
        lm = load(tmp_path / "m.gguf", "float32", quantize)
        adapters.attach_lora(lm.model, adapters.LoRAConfig(targets=EVERYWHERE, dora=True))
        rng = np.random.default_rng(0)
        for p in lm.model.trainable().values():
            p.assign(np.array(p.array.numpy()) + rng.normal(0, 0.03, p.shape).astype(np.float32))
        losses.append(lm.model.loss(ids[:, :-1], ids[:, 1:]).item())
        if quantize is None:
            lm.save(tmp_path / "adapter")
            merged = lm.merged().model.loss(ids[:, :-1], ids[:, 1:]).item()
    assert losses[0] == pytest.approx(losses[1], rel=0.02)
    assert merged == pytest.approx(losses[1], rel=0.02)
    again = load(tmp_path / "adapter")
    assert again.model.loss(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(losses[0], rel=1e-5)


def test_a_larger_vocabulary(tmp_path):
    """As files are that hold embeddings with rows for new tokens: both matrices, or the one that is both."""
    for name in ("llama", "llama-untied"):
        LanguageModel(build(name, vocab_size=260), TOKENIZER, [0]).save(tmp_path / name)
        lm = load(tmp_path / name, "float32")
        adapters.attach_lora(
            lm.model, adapters.LoRAConfig(targets=["q_proj"], modules_to_save=["embed_tokens", "lm_head"])
        )
        folder = lm.save(tmp_path / f"{name} adapter")
        tensors = {n: np.array(t) for n, t in safetensors.load_file(folder / adapter_files.WEIGHTS)[0].items()}
        row = np.random.default_rng(0).normal(size=(1, lm.config.width)).astype(np.float32)
        for key in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[f"base_model.model.{key}"] = np.concatenate([tensors[f"base_model.model.{key}"], row])
        safetensors.save_file(tensors, folder / adapter_files.WEIGHTS, {})
        larger, ids = load(folder, "float32"), some_ids(0, 2, 9)
        assert larger.config.vocab_size == 261
        logits = larger.model(ids).numpy()
        assert_close(logits[..., :260], lm.model(ids).numpy(), "float32")
        assert_close(logits[..., 260], larger.model.hidden(ids).numpy() @ row[0], "float32", factor=10)
        assert larger.merged().save(tmp_path / f"{name} whole").is_dir()
        assert load(tmp_path / f"{name} whole").config.vocab_size == 261
        if name == "llama-untied":
            del tensors["base_model.model.lm_head.weight"]
            safetensors.save_file(tensors, folder / adapter_files.WEIGHTS, {})
            config = json.loads((folder / "adapter_config.json").read_text())
            (folder / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": None}))
            with pytest.raises(ValueError, match=r"expected lm_head.weight of 261 rows, as .*embed_tokens.weight has"):
                load(folder)


def on_whole_layers(whole, second, folder):
    """Save an adapter with layers trained as a whole, as PEFT does: of a base whose output layer is the token embedding, only
    those that are named; then one more run on top of it, in the folder "adapter", which is returned with the model."""
    LanguageModel(build("llama", vocab_size=260), TOKENIZER, [0]).save(folder / "base")
    lm = load(folder / "base", "float32")
    adapters.attach_lora(lm.model, adapters.LoRAConfig(targets=["q_proj"], modules_to_save=["embed_tokens"]))
    rng = np.random.default_rng(0)

    def stirred(values):
        return np.array(values) + rng.normal(0, 0.05, values.shape).astype(np.float32)

    file = lm.save(folder / "first") / adapter_files.WEIGHTS
    tensors = {n: stirred(t) for n, t in safetensors.load_file(file)[0].items()}
    known = [n for n in ("embed_tokens", "lm_head") if n not in whole]
    tensors = {n: t for n, t in tensors.items() if n.split(".")[-2] not in known}
    safetensors.save_file(tensors, file, {"format": "pt"})
    config = json.loads((folder / "first" / "adapter_config.json").read_text())
    (folder / "first" / "adapter_config.json").write_text(json.dumps(config | {"modules_to_save": whole}))
    lm, ids = load(folder / "first", "float32"), some_ids(0, 2, 9)
    before = lm.model(ids).numpy()
    adapters.attach_lora(lm.model, adapters.LoRAConfig(targets=second))
    for p in lm.model.trainable().values():
        p.assign(stirred(p.array.numpy()))
    np.testing.assert_array_equal(adapters.base_model(lm.model)(ids).numpy(), before)
    assert np.abs(lm.model(ids).numpy() - before).max() > 0.01
    lm.save(folder / "adapter")
    return lm.model


WHOLE = pytest.mark.parametrize("whole", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])
ON_TOP = pytest.mark.parametrize("second", [["embed_tokens"], ["lm_head"], ["embed_tokens", "lm_head"]])


@WHOLE
@ON_TOP
def test_adapters_on_layers_trained_whole(whole, second, tmp_path):
    model, ids = on_whole_layers(whole, second, tmp_path), some_ids(0, 2, 9)
    wanted = by_hand(model)(ids).numpy()
    for lm in (load(tmp_path / "adapter", "float32"), load(tmp_path / "adapter", "float32").merged()):
        assert_close(lm.model(ids).numpy(), wanted, "float32", factor=10)


def test_adapters_on_the_one_matrix_of_both(tmp_path):
    """An output layer that was the token embedding, trained whole, goes its own way from there."""
    LanguageModel(build("llama", vocab_size=260), TOKENIZER, [0]).save(tmp_path / "base")
    lm, ids = load(tmp_path / "base", "float32"), some_ids(0, 2, 9)
    rng = np.random.default_rng(0)
    for i, options in enumerate([{"modules_to_save": ["embed_tokens"]}, {}], 1):
        adapters.attach_lora(lm.model, adapters.LoRAConfig(targets=[["q_proj"], ["lm_head"]][i - 1], **options))
        for p in lm.model.trainable().values():
            p.assign(np.array(p.array.numpy()) + rng.normal(0, 0.05, p.shape).astype(np.float32))
        wanted = by_hand(lm.model)(ids).numpy()
        lm.save(tmp_path / str(i))
        lm = load(tmp_path / str(i), "float32")
        assert_close(lm.model(ids).numpy(), wanted, "float32", factor=10)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@WHOLE
@ON_TOP
def test_peft_reads_adapters_on_layers_trained_whole(whole, second, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model, ids = on_whole_layers(whole, second, tmp_path), some_ids(0, 2, 9)
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager").float()
    theirs = peft.PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    assert_close(theirs(torch.tensor(ids)).logits.detach().numpy(), model(ids).numpy(), "float32", factor=10)


# What PEFT's options are on each architecture: the projection, the embedding, the output layer, the last norm.
PARTS = {
    "llama": ("q_proj", "embed_tokens", "lm_head", "model.norm"),
    "gpt2": ("c_attn", "wte", "lm_head", "ln_f"),
    "pythia": ("query_key_value", "embed_in", "lm_head", "final_layer_norm"),
}
THEIRS = [
    lambda q, e, h, n: {"target_modules": [q, e, h], "use_dora": True},
    lambda q, e, h, n: {"target_modules": "all-linear", "use_dora": True, "use_rslora": True, "rank_pattern": {q: 2}},
    lambda q, e, h, n: {"target_modules": [q, e], "ensure_weight_tying": True},
    lambda q, e, h, n: {"target_modules": [q, h], "lora_dropout": 0.3},
    lambda q, e, h, n: {"target_modules": [q], "modules_to_save": [e, n]},
    lambda q, e, h, n: {"target_modules": [q], "modules_to_save": [h], "bias": "lora_only"},
    lambda q, e, h, n: {"target_modules": [q], "modules_to_save": [e], "ensure_weight_tying": True, "bias": "all"},
]


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", PARTS)
def test_peft_and_we_read_each_other(name, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    LanguageModel(build(name, vocab_size=260), TOKENIZER, [0]).save(tmp_path / "base")
    ids = some_ids(0, 2, 9)

    def base():
        return transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base", attn_implementation="eager").float()

    for i, options in enumerate(THEIRS):
        config = peft.LoraConfig(
            r=4, lora_alpha=6, task_type="CAUSAL_LM", init_lora_weights=False, **options(*PARTS[name])
        )
        theirs, folder = peft.get_peft_model(base(), config).eval(), tmp_path / f"theirs {i}"
        torch.manual_seed(i)
        with torch.no_grad():
            for n, p in theirs.named_parameters():
                if p.requires_grad:
                    p.copy_(p * (1 + 0.2 * torch.rand_like(p)) if "magnitude" in n else p + 0.05 * torch.randn_like(p))
        theirs.save_pretrained(folder)
        output = theirs(torch.tensor(ids)).logits
        wanted, lm = output.detach().numpy(), load(folder, "float32")
        assert_close(lm.model(ids).numpy(), wanted, "float32", factor=10)
        assert_close(lm.merged().model(ids).numpy(), wanted, "float32", factor=20)
        torch.nn.functional.cross_entropy(output[:, :-1].flatten(0, 1), torch.tensor(ids[:, 1:]).flatten()).backward()
        lm.model.loss(ids[:, :-1], ids[:, 1:]).backward()
        _compare_gradients(lm.model, dict(theirs.named_parameters()))
        lm.save(tmp_path / f"ours {i}")
        np.testing.assert_array_equal(load(tmp_path / f"ours {i}", "float32").model(ids).numpy(), lm.model(ids).numpy())
        back = peft.PeftModel.from_pretrained(base(), tmp_path / f"ours {i}").eval()
        assert_close(back(torch.tensor(ids)).logits.detach().numpy(), wanted, "float32", factor=10)


def _compare_gradients(model, theirs):
    for site in adapters.sites(model):
        embedding = isinstance(site.module, nn.Embedding)
        names = (
            ("lora_embedding_A.default", "lora_embedding_B.default")
            if embedding
            else ("lora_A.default.weight", "lora_B.default.weight")
        )
        name = "lm_head" if site.name == "embed_out" else site.name
        for low in site.adapters():
            for suffix, p in zip(
                (*names, "lora_magnitude_vector.default.weight"), (low.a, low.b, low.magnitude), strict=True
            ):
                other = theirs.get(f"base_model.model.{name}.{suffix}")  # one of tied adapters is not listed
                if p is None or other is None or other.grad is None:
                    continue
                wanted, got = other.grad.numpy(), p.grad.numpy()
                if site.part.hf_rows is not None and p is not low.a:
                    wanted = wanted[site.part.hf_rows]
                got = got.T if embedding and p is low.a else got
                np.testing.assert_allclose(got, wanted, atol=2e-3 * np.abs(wanted).max())
