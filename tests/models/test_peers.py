"""Logits and gradients of small random models against transformers, and its loading of what we save."""

import numpy as np
import pytest

from llmcore import models
from llmcore._tensor import array_to_numpy
from tolerances import assert_close

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]

CONFIGS = [
    models.GPT2Config(vocab_size=99, context=32, width=64, layers=3, heads=4),
    models.LlamaConfig(vocab_size=99, context=32, width=64, layers=3, heads=4, kv_heads=2, tied=False),
    models.LlamaConfig(vocab_size=99, context=32, width=48, layers=2, heads=3, rope_base=500.0, ffn=80),
]


@pytest.fixture(params=CONFIGS, ids=["gpt2", "llama-gqa", "llama-tied"])
def pair(request):
    """Our model and transformers' with the same weights."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = request.param
    hf = config.to_hf()
    hf_config = transformers.AutoConfig.for_model(
        **{k: v for k, v in hf.items() if k != "architectures"}, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    theirs = transformers.AutoModelForCausalLM.from_config(hf_config).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.mul_(5.0) if p.ndim > 1 else p.add_(torch.randn_like(p) * 0.1)
    weights = {k: v.detach().numpy() for k, v in theirs.state_dict().items()}
    ours = models.ARCHITECTURES[hf["model_type"]].from_hf(hf, weights, "float32")
    return ours, theirs, torch


def test_logits(pair):
    ours, theirs, torch = pair
    ids = np.random.default_rng(0).integers(0, 99, (2, 31))
    assert_close(ours(ids).numpy(), theirs(torch.tensor(ids)).logits.detach().numpy(), "float32")


def test_gradients(pair):
    ours, theirs, torch = pair
    ids = np.random.default_rng(1).integers(0, 99, (3, 20))
    loss = ours.loss(ids[:, :-1], ids[:, 1:])
    loss.backward()
    logits = theirs(torch.tensor(ids[:, :-1])).logits
    expected = torch.nn.functional.cross_entropy(logits.reshape(-1, 99), torch.tensor(ids[:, 1:]).reshape(-1))
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    # Gradients in their names and layout: put them where the weights are and convert.
    for _, p in ours.named_parameters():
        p.assign(array_to_numpy(p.grad))
    converted = ours.to_hf()
    for name, p in theirs.named_parameters():
        assert_close(converted[name], p.grad.numpy(), "float32", factor=5)  # a sum over 57 positions, two matmuls deep


def test_transformers_loads_what_we_save(pair, tmp_path):
    import json

    from llmcore.formats import safetensors

    ours, _, torch = pair
    import transformers

    safetensors.save_file(ours.to_hf(), tmp_path / "model.safetensors", {"format": "pt"})
    config = ours.config.to_hf() | {"bos_token_id": 0, "eos_token_id": 0}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    ids = np.random.default_rng(2).integers(0, 99, (1, 9))
    assert_close(ours(ids).numpy(), loaded(torch.tensor(ids)).logits.detach().numpy(), "float32")
