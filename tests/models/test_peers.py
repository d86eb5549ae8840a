"""Logits, gradients and decoding of small random models of every architecture against transformers, through files that it
wrote, and its loading of what we save."""

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from llmcore import models
from llmcore._arrays import array_to_numpy
from llmcore.formats import safetensors
from support.small_models import CONFIGS
from support.tolerances import assert_close

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]


@pytest.fixture(scope="module", params=CONFIGS)
def pair(request, tmp_path_factory):
    """Our model and transformers' with the same weights, which went through a file of theirs."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    hf = CONFIGS[request.param].to_hf()
    hf_config = transformers.AutoConfig.for_model(
        **{k: v for k, v in hf.items() if k != "architectures"}, bos_token_id=0, eos_token_id=0, pad_token_id=0
    )
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(hf_config, attn_implementation="eager").eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(5.0) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
    folder = tmp_path_factory.mktemp("theirs")
    theirs.save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    weights, _ = safetensors.load_file(folder / "model.safetensors")
    ours = models.ARCHITECTURES[config["model_type"]].from_hf(config, weights, "float32")
    assert ours.config == CONFIGS[request.param]  # what they wrote means what we wrote
    return ours, theirs, torch


def some_ids(seed, *shape):
    return np.random.default_rng(seed).integers(1, 99, shape)


def test_logits(pair):
    ours, theirs, torch = pair
    ids = some_ids(0, 2, 31)
    assert_close(ours(ids).numpy(), theirs(torch.tensor(ids)).logits.detach().numpy(), "float32")


def test_decoding(pair):
    """A prompt and single tokens through the cache, in a batch of unequal lengths, against whole texts of theirs."""
    ours, theirs, torch = pair
    texts = [some_ids(3, 29), some_ids(4, 17)]
    cache = ours.new_cache(2, 40)
    got: list = [ours(t[None, :11], cache.row(b)).numpy()[0] for b, t in enumerate(texts)]
    got[1] = np.concatenate([got[1], ours(texts[1][None, 11:14], cache.row(1)).numpy()[0]])
    at = [11, 14]
    while at[1] < 17:  # both rows together, at different positions
        step = ours(np.array([[t[n]] for t, n in zip(texts, at, strict=True)]), cache).numpy()
        got, at = [np.concatenate([g, s]) for g, s in zip(got, step, strict=True)], [n + 1 for n in at]
    for t, g in zip(texts, got, strict=True):
        expected = theirs(torch.tensor(t[None])).logits.detach().numpy()[0, : len(g)]
        assert_close(g, expected, "float32")


def test_gradients(pair):
    ours, theirs, torch = pair
    ids = some_ids(1, 3, 20)
    loss = ours.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    theirs.zero_grad()
    logits = theirs(torch.tensor(ids[:, :-1])).logits
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 99), torch.tensor(ids[:, 1:]).reshape(-1))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # Gradients in their names and layout: as if they were weights that their file held.
    with torch.no_grad():
        theirs_grads = {name: p.grad for name, p in theirs.named_parameters()}
        kept = {name: p.clone() for name, p in theirs.named_parameters()}
        for name, p in theirs.named_parameters():
            p.copy_(theirs_grads[name] if theirs_grads[name] is not None else torch.zeros_like(p))
        with TemporaryDirectory() as folder:
            theirs.save_pretrained(folder)
            weights, _ = safetensors.load_file(f"{folder}/model.safetensors")
            config = json.loads(Path(folder, "config.json").read_text())
            expected_grads = type(ours).from_hf(config, weights, "float32").state_dict()
        for name, p in theirs.named_parameters():
            p.copy_(kept[name])
    offset = {name: parts[0].hf_offset for name, parts in type(ours).layout(ours.config)}
    for name, p in ours.named_parameters():
        got = np.zeros(p.shape, np.float32) if p.grad is None else array_to_numpy(p.grad)  # of experts without tokens
        assert_close(got, expected_grads[name] - offset[name], "float32", factor=5)  # two matmuls deep
        p.zero_grad()


def test_transformers_loads_what_we_save(pair, tmp_path):
    ours, _, torch = pair
    import transformers

    safetensors.save_file(ours.to_hf(), tmp_path / "model.safetensors", {"format": "pt"})
    config = ours.config.to_hf() | {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = some_ids(2, 1, 19)
    assert_close(ours(ids).numpy(), loaded(torch.tensor(ids)).logits.detach().numpy(), "float32")
