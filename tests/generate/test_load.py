"""Folders in parts, hostile indices, quantization on loading, names of pulled models."""

import json

import numpy as np
import pytest

import llmcore
from llmcore import _device, hub, models
from llmcore.formats import safetensors
from llmcore.generate import LanguageModel
from llmcore.generate.chat.template import ChatTemplate


@pytest.fixture(scope="module")
def lm():
    tokenizer = llmcore.Tokenizer.train(
        iter(["the cat sat on the mat, the dog sat too"]), 290, pattern="gpt2", special_tokens=["<s>", "<|endoftext|>"]
    )
    c = models.LlamaConfig(tokenizer.vocab_size, 32, 64, 2, 2, tied=False)
    model = models.Llama(c, seed=1)
    template = ChatTemplate(
        "{{ bos_token }}{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", "t", "<s>", "<|endoftext|>"
    )
    return LanguageModel(model, tokenizer, chat_template=template)


@pytest.fixture
def folder(lm, tmp_path):
    return lm.save(tmp_path / "model")


def in_parts(folder):
    """The same folder, its tensors in two files."""
    tensors, _ = safetensors.load_file(folder / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for part, held in parts.items():
        safetensors.save_file({n: np.array(tensors[n]) for n in held}, folder / part)
    (folder / "model.safetensors").unlink()
    index = {"metadata": {}, "weight_map": {n: part for part, held in parts.items() for n in held}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return index


def test_in_parts(lm, folder):
    in_parts(folder)
    ids = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(llmcore.load(folder, dtype="float32").model(ids).numpy(), lm.model(ids).numpy())


def test_a_device_for_one_model(lm, folder, device):
    """Where nothing else is said, all stays as it was."""
    with _device.on("cpu"):
        there = llmcore.load(folder, dtype="float32", device=device)
        assert llmcore.device() == "cpu"
        assert {p.device for p in there.model.parameters()} == {there.model.device} == {device}
        assert len(there.generate("the cat", 3, temperature=0).tokens) == 3
        assert there.next_tokens("the", k=1)[0][2] > 0
    assert llmcore.load(folder).model.device == device
    assert llmcore.load(folder, device="cpu").model.device == "cpu"
    with pytest.raises(ValueError, match=r"^\[device\] expected 'cpu' or 'cuda', got 'tpu'$"):
        llmcore.load(folder, device="tpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda i: i.update(weight_map=[]), "expected weight_map an object of file names"),
        (lambda i: i["weight_map"].update(x=3), "expected weight_map an object of file names"),
        (lambda i: i["weight_map"].update({"lm_head.weight": "../secret"}), "files in the folder, got '../secret'"),
        (lambda i: i["weight_map"].update({"lm_head.weight": "/etc/passwd"}), "files in the folder"),
        (lambda i: i["weight_map"].update({"lm_head.weight": "a\nb.safetensors"}), "files in the folder"),
        (lambda i: i["weight_map"].update({"lm_head.weight": "absent.safetensors"}), "absent.safetensors, which is not there"),
        (lambda i: i["weight_map"].update({"more": "model-00001-of-00002.safetensors"}), "expected a tensor 'more', got none"),
    ],
)  # fmt: skip
def test_hostile_indices(folder, change, message):
    index = in_parts(folder)
    change(index)
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises((ValueError, FileNotFoundError), match=message) as error:
        llmcore.load(folder)
    assert "\n" not in str(error.value)


def test_no_id_is_left_to_defaults(lm, tmp_path):
    """transformers has ids of other models for what a config.json leaves out, such as an end of 2 for a Llama."""
    config = json.loads((LanguageModel(lm.model, lm.tokenizer, []).save(tmp_path) / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == (None, None)
    assert config["bos_token_id"] == lm.tokenizer.end_of_text


def test_a_template_knows_its_tokens(lm, folder, tmp_path):
    messages = [{"role": "user", "content": "the cat"}]
    ids = lm.chat_prompt(messages)
    assert lm.tokenizer.decode(ids) == "<s>the cat<|endoftext|>"
    assert llmcore.load(folder).chat_prompt(messages) == ids
    config = folder / "tokenizer_config.json"
    written = json.loads(config.read_text())
    assert written == {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "<|endoftext|>"}
    config.write_text(json.dumps({"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "<|endoftext|>"}))
    assert llmcore.load(folder).chat_prompt(messages) == ids


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("int4", 0.25)])
def test_quantized_on_loading(lm, folder, kind, most):
    ids = np.random.default_rng(0).integers(0, lm.config.vocab_size, (2, 20))
    expected = lm.model(ids).numpy()
    small = llmcore.load(folder, quantize=kind)
    assert small.model.dtype == "float32"
    error = np.abs(small.model(ids).numpy() - expected).max() / np.abs(expected).max()
    assert 0 < error < most
    weights = [p for _, p in small.model.named_parameters() if p.quantized is not None]
    assert len(weights) == 2 + 4 * 2
    per_weight = sum(w.nbytes for w in weights) / sum(w.size for w in weights)
    assert per_weight == pytest.approx({"int8": 34, "int4": 20}[kind] / 32, rel=0.05)
    assert small.generate("the cat", max_tokens=5, seed=1).tokens
    # Scores, which never make all logits at once, agree with them; no gradient reaches what is frozen.
    loss = small.model.loss(ids[:, :-1], ids[:, 1:])
    assert loss.item() == pytest.approx(
        -np.mean([t.logprob for row in ids for t in small.score(row.tolist())][1:]), rel=0.2
    )
    with llmcore.no_grad():
        # The output layer rounds what it reads to 8 bits only where no gradient is wanted.
        assert small.model.loss(ids[:, :-1], ids[:, 1:]).item() == pytest.approx(loss.item(), rel=1e-4)
    loss.backward()
    assert all(w.grad is None for w in weights)
    assert all(p.grad is not None for _, p in small.model.named_parameters() if p.quantized is None)
    again = llmcore.load(small.save(folder.parent / "again"), dtype="float32")
    np.testing.assert_allclose(again.model(ids).numpy(), small.model(ids).numpy(), atol=most * 3)


def test_quantized_gguf_stays_so_unless_told(lm, tmp_path):
    path = lm.save(tmp_path / "model.gguf", "Q8_0")
    kept, exact = llmcore.load(path), llmcore.load(path, quantize="none", dtype="float32")
    assert kept.model.output_weight().quantized is not None
    assert exact.model.output_weight().quantized is None
    ids = np.array([[1, 2, 3, 4]])
    np.testing.assert_allclose(kept.model(ids).numpy(), exact.model(ids).numpy(), atol=0.02)
    # What is kept is written as it lay in the file.
    first, second = (llmcore.formats.gguf.load_gguf(p).tensors for p in (path, kept.save(tmp_path / "again.gguf")))
    assert all(np.array_equal(first[n].data, second[n].data) for n in first)


@pytest.mark.parametrize(
    ("options", "message"), [({"quantize": "int3"}, "quantize None"), ({"dtype": "float16"}, "dtype 'float32'")]
)
def test_bad_options(folder, options, message):
    with pytest.raises(ValueError, match=rf"\[load\] expected {message}"):
        llmcore.load(folder, **options)


def test_names(monkeypatch, tmp_path, lm):
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="run `llmcore pull smollm2-135m-instruct` first"):
        hub.resolve("smollm2-135m-instruct")
    with pytest.raises(FileNotFoundError, match="got some/model, which is not there; run `llmcore pull some/model`"):
        hub.resolve("some/model")
    lm.save(hub.hub_folder("some/model"))
    assert hub.resolve("some/model") == hub.hub_folder("some/model")
    assert llmcore.load("some/model").config == lm.config
    assert not any(map(hub.is_hub_name, ("a", "a/b/c", "../x", "a/..", "-a/b", "a/b c", "/a")))
    with pytest.raises(
        ValueError, match=r"\[pull\] expected smollm2-135m-instruct, or ORG/NAME of the hub, got '../x/y'"
    ):
        hub.pull("../x/y")
