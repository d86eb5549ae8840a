"""Folders as people have them: names that tools put before tensors, leftovers, other heads, quantized formats, shards without
an index, text parts of multimodal models, tokenizers of another size than the model."""

import json
import shutil

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore.formats import safetensors
from llmcore.generate import LanguageModel

IDS = np.array([[1, 2, 3, 4]])


def model_of(tied=False, rows=0, tokens=275, kind=models.Llama, config=models.LlamaConfig, **more):
    tokenizer = llmcore.Tokenizer.train(iter(["the cat sat on the mat, the dog sat too"]), tokens, pattern="gpt2")
    c = config(rows or tokenizer.vocab_size, 32, 64, 2, 2, tied=tied, **more)
    return LanguageModel(kind(c, seed=1), tokenizer)


@pytest.fixture(scope="module")
def lm():
    return model_of()


@pytest.fixture
def folder(lm, tmp_path):
    return lm.save(tmp_path / "model")


def tensors_of(folder):
    return {name: np.array(w) for name, w in safetensors.load_file(folder / "model.safetensors")[0].items()}


def rewrite(folder, rename=lambda name: name, more=None, without=()):
    tensors = {rename(n): w for n, w in tensors_of(folder).items() if n not in without}
    safetensors.save_file(tensors | (more or {}), folder / "model.safetensors")


def change(path, drop=(), **values):
    path.write_text(json.dumps({k: v for k, v in (json.loads(path.read_text()) | values).items() if k not in drop}))


def same(folder, lm):
    found = llmcore.load(folder, dtype="float32")
    np.testing.assert_array_equal(found.model(IDS).numpy(), lm.model(IDS).numpy())
    return found


@pytest.mark.parametrize(
    "rename",
    [
        lambda n: f"_orig_mod.{n}",
        lambda n: f"module.{n}",
        lambda n: f"module._orig_mod.{n}",
        lambda n: f"base_model.model.{n}",
        lambda n: f"base_model.model.{n}".replace("q_proj.", "q_proj.base_layer."),
        lambda n: n.replace("model.layers.", "model._orig_mod.layers."),
        lambda n: n.removeprefix("model."),
        lambda n: f"language_model.{n}",
        lambda n: n.replace("model.", "model.language_model.") if n.startswith("model.") else n,
    ],
)
def test_names_that_tools_write(lm, folder, rename):
    rewrite(folder, rename)
    assert same(folder, lm).notes == ()


def test_two_tensors_of_one_name(folder):
    rewrite(folder, more={"_orig_mod.lm_head.weight": np.zeros((275, 64), np.float32)})
    with pytest.raises(
        ValueError, match=r"expected one tensor lm_head.weight, got '_orig_mod.lm_head.weight' and 'lm_head.weight'"
    ):
        llmcore.load(folder)


def test_what_follows_from_the_config_is_left_out(lm, folder):
    size = lm.config.head_size
    old = {
        "model.layers.0.self_attn.rotary_emb.inv_freq": np.float32(10000.0 ** (-np.arange(0, size, 2) / size)),
        "model.rotary_emb.cos_cached": np.ones((1, 1, 4, 16), np.float32),
        "model.position_ids": np.ones(4, np.float32),
    }
    rewrite(folder, more=old)
    assert same(folder, lm).notes == ()


def test_masks_of_gpt2(tmp_path):
    lm = model_of(tied=True, kind=models.GPT2, config=models.GPT2Config)
    folder = lm.save(tmp_path / "model")
    mask = np.ones((1, 1, 8, 8), np.float32)
    more = {"transformer.h.0.attn.bias": mask, "transformer.h.0.attn.masked_bias": np.float32([-1e4])}
    rewrite(folder, more=more)
    same(folder, lm)
    rewrite(folder, lambda n: n.removeprefix("transformer."))
    same(folder, lm)
    rewrite(folder, more={"h.1.attn.bias": np.ones(192, np.float32)})  # a bias: of another shape than a mask
    with pytest.raises(ValueError, match=r"transformer.h.1.attn.bias"):
        llmcore.load(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "model.layers.0.self_attn.q_norm.weight",
            "expected the tensors of llama with this config.json only, got 'model.l",
        ),
        ("model.layers.2.mlp.up_proj.weight", "got 'model.layers.2.mlp.up_proj.weight'"),
        ("model.layers.0.self_attn.q_proj.bias", "got 'model.layers.0.self_attn.q_proj.bias'"),
        ("extra", "got 'extra'"),
        ("model.layers.0.mlp.up_proj.lora_A.weight", r"an adapter \(LoRA\), not merged"),
        ("model.layers.0.mlp.up_proj.weight_scale_inv", "of FP8, with scales of blocks"),
        ("model.layers.0.mlp.up_proj.weight_scale", "of FP8 or INT8, with scales"),
        ("model.layers.0.mlp.up_proj.qweight", "of GPTQ or AWQ"),
        ("model.layers.0.mlp.up_proj.weight.absmax", "of bitsandbytes"),
        ("model.layers.0.mlp.up_proj.weight_packed", "of compressed-tensors"),
        ("model.layers.0.mlp.up_proj.scales", "of a quantized format"),
        ("model.layers.0.mlp.experts.up_proj_blocks", "of MXFP4"),
    ],
)
def test_a_tensor_that_would_change_something_is_named(folder, name, message):
    rewrite(folder, more={name: np.ones((2, 2), np.float32)})
    with pytest.raises(ValueError, match=message) as error:
        llmcore.load(folder)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_another_kind_of_head_is_said(lm, folder):
    rewrite(folder, more={"score.weight": np.ones((1, 64), np.float32)})
    assert "score.weight: left out" in same(folder, lm).notes[0]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        (
            "quantization_config",
            {"quant_method": "fp8", "weight_block_size": [128, 128]},
            "got 'fp8', a quantized format",
        ),
        ("quantization_config", {"quant_method": "gptq", "bits": 4}, "got 'gptq', a quantized format"),
        ("quantization", {"group_size": 64, "bits": 4}, "got 'quantization', a quantized format"),
    ],
)
def test_a_quantized_format_is_named(folder, field, value, message):
    change(folder / "config.json", **{field: value})
    with pytest.raises(ValueError, match=rf"config.json: {field}: expected none: take .*{message}"):
        llmcore.load(folder)


def test_float8_without_a_word(folder):
    import ml_dtypes

    name = "model.layers.0.mlp.up_proj.weight"
    rewrite(folder, more={name: tensors_of(folder)[name].astype(ml_dtypes.float8_e4m3fn)})
    with pytest.raises(ValueError, match=r"up_proj.weight' of FP8 \(float8_e4m3fn\)"):
        llmcore.load(folder)


# ---- heads ----


def test_a_head_of_its_own_beside_a_tied_embedding(lm, folder, tmp_path):
    """The file's matrix is used, as what was trained; one that is the embedding again stays tied."""
    change(folder / "config.json", tie_word_embeddings=True)
    found = same(folder, lm)
    assert not found.config.tied
    assert "lm_head.weight is used, which differs from the token embedding" in found.notes[0]
    assert same(found.save(tmp_path / "again"), lm).notes == ()
    rewrite(folder, more={"lm_head.weight": tensors_of(folder)["model.embed_tokens.weight"]})
    found = llmcore.load(folder, dtype="float32")
    assert found.config.tied
    assert found.notes == ()
    rewrite(folder, without=["lm_head.weight"])
    np.testing.assert_array_equal(llmcore.load(folder, dtype="float32").model(IDS).numpy(), found.model(IDS).numpy())


def test_a_missing_head(folder):
    rewrite(folder, without=["lm_head.weight"])
    with pytest.raises(ValueError, match=r"expected a tensor lm_head.weight"):
        llmcore.load(folder)


# ---- files ----


def shards(folder, count=3):
    tensors = tensors_of(folder)
    names = [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    held = {name: dict(list(tensors.items())[i::count]) for i, name in enumerate(names)}
    for name, part in held.items():
        safetensors.save_file(part, folder / name)
    (folder / "model.safetensors").unlink()
    return held


def test_shards_without_an_index(lm, folder):
    _, second, _ = shards(folder)
    same(folder, lm)
    (folder / second).unlink()
    with pytest.raises(FileNotFoundError, match=r"model-00002-of-00003.safetensors, which is not there"):
        llmcore.load(folder)


def test_a_shard_holds_more_than_its_index_says(lm, folder):
    """An index that was written before the head was: all that the shards hold counts."""
    held = shards(folder)
    index = {n: file for file, part in held.items() for n in part if n != "lm_head.weight"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    same(folder, lm)


def test_shards_that_contradict(folder):
    first, second, _ = shards(folder)
    safetensors.save_file({"lm_head.weight": np.zeros((275, 64), np.float32)}, folder / first)
    safetensors.save_file({"lm_head.weight": np.ones((275, 64), np.float32)}, folder / second)
    with pytest.raises(ValueError, match=r"expected one tensor 'lm_head.weight', got another in model-00001-of-00003"):
        llmcore.load(folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickle_is_never_opened(folder, name):
    (folder / "model.safetensors").rename(folder / name)
    with pytest.raises(
        ValueError, match=rf"expected weights in safetensors, got {name} in pickle, .* save the model again"
    ):
        llmcore.load(folder)


def test_a_link_to_nothing(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/0123")
    with pytest.raises(
        FileNotFoundError, match=r"model.safetensors: expected a file, got a link to one that is not there"
    ):
        llmcore.load(folder)


def test_the_cache_folder_of_the_hub(lm, folder, tmp_path):
    """models--ORG--NAME with blobs, links to them in snapshots/REVISION, and the revision in refs/main."""
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / "0123abcd"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    for number, path in enumerate(folder.iterdir()):
        shutil.copy(path, cache / "blobs" / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    same(snapshot, lm)
    same(cache, lm)  # the only one there is
    (cache / "snapshots" / "4567").mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected refs/main, .*, got snapshots 0123abcd, 4567"):
        llmcore.load(cache)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0123abcd")
    same(cache, lm)
    (cache / "refs" / "main").write_text("../../elsewhere")
    with pytest.raises(FileNotFoundError, match=r"expected refs/main"):
        llmcore.load(cache)


# ---- configs ----


def test_the_class_alone_says_what_it_is(lm, folder):
    change(folder / "config.json", drop=["model_type"])
    same(folder, lm)


@pytest.mark.parametrize(
    ("kind", "field", "prefix", "vision"),
    [
        ("llava", "text_config", lambda n: f"language_model.{n}", "vision_tower"),
        ("mistral3", "text_config", lambda n: n.replace("model.", "model.language_model.", 1), "model.vision_tower"),
        ("internvl_chat", "llm_config", lambda n: f"language_model.{n}", "vision_model"),
    ],
)
def test_the_text_part_of_a_multimodal_model(lm, folder, kind, field, prefix, vision):
    own = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({"model_type": kind, field: own, "vision_config": {}}))
    more = {f"{vision}.patch.weight": np.ones((2, 2), np.float32), f"{vision}.norm.bias": np.ones(2, np.float32)}
    rewrite(folder, lambda n: prefix(n) if n.startswith("model.") or kind != "mistral3" else n, more)
    name = vision.removeprefix("model.")
    assert same(folder, lm).notes == (f"only the text part is used: 2 tensors of {name} are left out",)


def test_the_text_part_of_qwen2_vl(tmp_path):
    """Released files have the text model's fields beside the vision's, and three positions per token, which are one in a text."""
    lm = model_of(kind=models.Qwen2, config=models.Qwen2Config)
    folder = lm.save(tmp_path / "model")
    rope = {"type": "mrope", "mrope_section": [4, 6, 6]}
    change(folder / "config.json", model_type="qwen2_vl", vision_config={"depth": 1}, rope_scaling=rope)
    rewrite(folder, more={"visual.blocks.0.norm.weight": np.ones(4, np.float32)})
    assert same(folder, lm).notes == ("only the text part is used: 1 tensors of visual are left out",)


def test_a_text_part_of_an_unknown_kind(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "seer", "text_config": {"model_type": "teller"}}))
    with pytest.raises(ValueError, match=r"got 'seer' with text_config 'teller'"):
        llmcore.load(folder)


# ---- sizes ----


def test_a_token_that_the_model_has_no_row_for(folder, tmp_path):
    """Gemma 3's text models have one, for images: such a model loads, the token never comes and never goes in."""
    document = json.loads((folder / "tokenizer.json").read_text())
    added = {"id": 275, "content": "<image>", "special": False, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    document["added_tokens"].append(added | flags)
    (folder / "tokenizer.json").write_text(json.dumps(document))
    lm = llmcore.load(folder, dtype="float32")
    assert "the tokenizer has 276 ids and the model 275: tokens beyond, such as '<image>'" in lm.notes[0]
    assert len(lm.generate("the cat", max_tokens=5, temperature=1.0, seed=3).tokens) <= 5
    assert len(lm.next_tokens("the", k=275)) == 275
    assert len(lm.nearest("cat", 3)) == 3
    assert lm.suggest("the c", 2) is not None
    for call in (
        lambda: lm.generate("an <image> here", 3),
        lambda: list(lm.stream("an <image> here", 3)),
        lambda: lm.next_tokens("<image>"),
        lambda: lm.score("an <image> here"),
        lambda: lm.embed("<image>"),
        lambda: lm.nearest("<image>", 3),
        lambda: lm.generate([275], 3),
        lambda: lm.generate("an <image> here", 3, beams=2),
    ):
        with pytest.raises(ValueError, match=r"expected token ids in \[0, 275\), got 275 \('<image>'\)"):
            call()
    again = llmcore.load(lm.save(tmp_path / "again"), dtype="float32")
    assert again.notes == lm.notes
    assert again.tokenizer == lm.tokenizer


def test_rows_that_no_token_has(tmp_path):
    lm = model_of(rows=320)
    head = lm.model.head.weight.numpy().copy()
    head[:275] = 0
    head[300] += 9 * np.sign(lm.model.hidden(np.array([[5]])).numpy()[0, 0])
    lm.model.head.weight.assign(head)
    lm = llmcore.load(lm.save(tmp_path / "model"), dtype="float32")
    drawn = lm.generate([5], max_tokens=1, temperature=0)
    assert (drawn.tokens, drawn.text) == ([300], "")
    assert "".join(lm.stream([5], max_tokens=1, temperature=0)) == ""
    assert lm.next_tokens([5], k=1)[0][:2] == ("", 300)
    assert lm.tokenizer.decode([300]) == ""
