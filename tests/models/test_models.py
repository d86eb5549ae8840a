"""The architectures against their float64 twins, through the cache, in batches, and on bad input."""

import numpy as np
import pytest

import llmcore
from llmcore import models
from llmcore._arrays import array_to_numpy
from support.arrays import assert_repeats
from support.model_twins import gpt2_logits, llama_logits, weights_of
from support.tolerances import GRADCHECK, assert_close

CASES = {
    "gpt2": (models.GPT2, models.GPT2Config(vocab_size=101, context=40, width=48, layers=2, heads=3), gpt2_logits),
    "llama": (models.Llama, models.LlamaConfig(vocab_size=101, context=40, width=48, layers=2, heads=3), llama_logits),
    "llama-gqa-untied": (
        models.Llama,
        models.LlamaConfig(vocab_size=97, context=40, width=64, layers=2, heads=4, kv_heads=2, tied=False, ffn=72),
        llama_logits,
    ),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


def make(case, dtype="float32", std=0.2):
    """A model whose weights are large enough for every part to matter."""
    model = case[0](case[1], dtype=dtype, seed=3)
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():
        p.assign(rng.normal(1.0 if p.ndim == 1 else 0.0, std, p.shape))
    return model


def some_ids(case, *shape):
    return np.random.default_rng(1).integers(0, case[1].vocab_size, shape)


# bfloat16 rounds every activation on the way: an error of a few roundings per block, two blocks.
@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1), ("bfloat16", 6)])
def test_logits_agree_with_the_twin(case, dtype, factor):
    model, ids = make(case, dtype), some_ids(case, 2, 19)
    logits = model(ids).numpy()
    for b in range(2):
        assert_close(logits[b], case[2](case[1], weights_of(model), ids[b]), dtype, factor)


def test_gradients_agree_with_differences_of_the_twin(case):
    model, ids = make(case), some_ids(case, 1, 12)
    inputs, targets = ids[:, :-1], ids[:, 1:]
    model.loss(inputs, targets).backward()
    rng = np.random.default_rng(2)

    def twin_loss(weights):
        logits = case[2](case[1], weights, inputs[0])
        top = logits.max(-1, keepdims=True)
        lse = np.log(np.exp(logits - top).sum(-1)) + top[:, 0]
        return (lse - logits[np.arange(len(lse)), targets[0]]).mean()

    weights = weights_of(model)
    for name, p in model.named_parameters():
        direction = rng.normal(size=p.shape)
        step = 1e-6
        above = twin_loss(weights | {name: weights[name] + step * direction})
        below = twin_loss(weights | {name: weights[name] - step * direction})
        slope = float((array_to_numpy(p.grad) * direction).sum())
        scale = np.linalg.norm(array_to_numpy(p.grad))  # of a slope in a random direction
        assert abs(slope - (above - below) / (2 * step)) <= GRADCHECK["float32"] * scale, name


def test_cache_gives_the_same_logits(case):
    model, ids = make(case), some_ids(case, 3, 20)
    whole = model(ids).numpy()
    cache = model.new_cache(3, 20)
    parts = [model(ids[:, :7], cache).numpy(), model(ids[:, 7:9], cache).numpy()]
    parts += [model(ids[:, t : t + 1], cache).numpy() for t in range(9, 20)]
    assert_close(np.concatenate(parts, 1), whole, "float32")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_of_a_batch_are_independent(case, dtype):
    model, ids = make(case, dtype), some_ids(case, 5, 13)
    together = model(ids).numpy()
    for b in range(5):
        assert_repeats(model(ids[b : b + 1]).numpy()[0], together[b], dtype)


def test_threads_do_not_change_a_bit(case):
    before = llmcore.num_threads()
    results = []
    try:
        for n in (1, 2, 3, 8):
            llmcore.set_num_threads(n)
            model = make(case, "bfloat16")
            ids = some_ids(case, 4, 30)
            loss = model.loss(ids[:, :-1], ids[:, 1:])
            loss.backward()
            results.append([loss.numpy()] + [array_to_numpy(p.grad) for p in model.parameters()])
    finally:
        llmcore.set_num_threads(before)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_weights_go_to_the_hugging_face_format_and_back(case):
    model = make(case)
    other = case[0].from_hf(case[1].to_hf(), model.to_hf())
    ids = some_ids(case, 1, 8)
    np.testing.assert_array_equal(model(ids).numpy(), other(ids).numpy())


def test_bad_input_is_one_line(case):
    model = make(case)
    for ids, words in [
        (np.zeros((1, 41), int), "at most 40 positions"),
        (np.zeros(3, int), r"integer ids \(B, T\)"),
        (np.zeros((1, 3)), "integer ids"),
        (np.full((1, 3), case[1].vocab_size), "ids in"),
        (np.full((1, 3), -1), "ids in"),
    ]:
        with pytest.raises(ValueError, match=words) as e:
            model(ids)
        assert "\n" not in str(e.value)
    weights = model.to_hf()
    name = next(iter(weights))
    config = case[1].to_hf()
    with pytest.raises(ValueError, match="shape"):
        case[0].from_hf(config, weights | {name: weights[name][:-1]})
    with pytest.raises(ValueError, match="float32, float16 or bfloat16"):
        case[0].from_hf(config, weights | {name: np.zeros(weights[name].shape, np.int8)})
    del weights[name]
    with pytest.raises(ValueError, match=name):
        case[0].from_hf(config, weights)


@pytest.mark.parametrize(
    ("make_config", "words"),
    [
        (lambda: models.GPT2Config(width=50, heads=3), "multiple of heads"),
        (lambda: models.GPT2Config(layers=0), "layers"),
        (lambda: models.LlamaConfig(heads=4, kv_heads=3), "multiple of kv_heads"),
        (lambda: models.LlamaConfig(width=6, heads=2), "even head_size"),
        (lambda: models.GPT2Config.from_hf({"vocab_size": "x"}), "n_embd|vocab_size"),
        (lambda: models.LlamaConfig.from_hf(CASES["llama"][1].to_hf() | {"hidden_act": "relu"}), "hidden_act"),
    ],
)
def test_bad_configs_are_refused_by_name(make_config, words):
    with pytest.raises(ValueError, match=words):
        make_config()
