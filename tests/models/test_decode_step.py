"""A recorded decode step gives the bits of the model, for every architecture and weights of every kind."""

import threading
import time

import numpy as np
import pytest

import llmcore
from llmcore import _core, autograd, models
from llmcore.models import DecodeStep
from support.small_models import CONFIGS
from support.threads import assert_same_bits


def make(name, dtype="float32", quantize=None):
    c = CONFIGS[name]
    model = models.ARCHITECTURES[c.model_type](c, dtype, seed=3)
    rng = np.random.default_rng(0)
    for path, p in model.named_parameters():
        p.assign(rng.normal(float("norm" in path and path.endswith("weight")), 0.15, p.shape))
    model.quantize(quantize)
    return model


def prompts(model, rows):
    """A cache with prompts of unequal lengths."""
    cache = model.new_cache(rows, 40)
    rng = np.random.default_rng(1)
    with autograd.no_grad():
        for row in range(rows):
            model(rng.integers(0, 99, (1, 3 + 4 * row)), cache.row(row))
    return cache


@pytest.mark.parametrize(
    ("dtype", "quantize"), [("float32", None), ("bfloat16", None), ("float32", "int8"), ("bfloat16", "int4")]
)
@pytest.mark.parametrize("name", CONFIGS)
def test_same_bits_as_the_model(name, dtype, quantize):
    if quantize and CONFIGS[name].width % 32:
        return  # its rows do not divide into blocks: nothing is quantized
    model = make(name, dtype, quantize)
    recorded, plain = prompts(model, 3), prompts(model, 3)
    step = DecodeStep(model, recorded)
    rng = np.random.default_rng(2)
    for _ in range(6):
        tokens = rng.integers(0, 99, 3)
        with autograd.no_grad():
            expected = model(tokens[:, None], plain).numpy()[:, 0]
        np.testing.assert_array_equal(step(tokens[:, None]).numpy()[:, 0], expected)
        np.testing.assert_array_equal(recorded.lengths, plain.lengths)
    recorded.lengths[1] = plain.lengths[1] = 0  # as a finished row begins anew
    with autograd.no_grad():
        np.testing.assert_array_equal(
            step(np.array([[1], [2], [3]])).numpy()[:, 0], model(np.array([[1], [2], [3]]), plain).numpy()[:, 0]
        )


def test_threads_do_not_change_bits():
    model = make("llama-untied", quantize="int8")

    def run():
        step = DecodeStep(model, prompts(model, 4))
        return [np.array(step(np.full((4, 1), n)).numpy()) for n in range(4)]

    assert_same_bits(run)


def test_threads_may_change_between_replays():
    model = make("qwen3")
    before = llmcore.num_threads()
    try:
        step, cache = None, prompts(model, 2)
        step = DecodeStep(model, cache)
        plain = prompts(model, 2)
        for n in (1, 8, 2, 1):
            llmcore.set_num_threads(n)
            with autograd.no_grad():
                expected = model(np.full((2, 1), n), plain).numpy()[:, 0]
            np.testing.assert_array_equal(step(np.full((2, 1), n)).numpy()[:, 0], expected)
    finally:
        llmcore.set_num_threads(before)


def test_what_cannot_be_is_refused_at_every_replay():
    model = make("llama")
    cache = model.new_cache(1, 4)
    step = DecodeStep(model, cache)
    for token in (1, 2):
        step(np.array([[token]]))
    with pytest.raises(ValueError, match=r"\[embedding\] expected ids in \[0, 99\), got 99 at 0"):
        step(np.array([[99]]))
    step(np.array([[1]]))
    with pytest.raises(ValueError, match=r"\[cache\] expected at most 4 positions, got 5"):
        step(np.array([[1]]))


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_several_threads_may_be_the_first(quantize):
    """Weights become arrays, panels and blocks at their first use, by whoever comes first."""

    class Slowly:  # a file's tensor
        def __init__(self, values):
            self._values, self.shape = values, values.shape

        def values(self):
            return self

        def __array__(self, dtype=None, copy=None):
            time.sleep(0.002)
            return self._values

    ids = np.arange(12)[None]
    with autograd.no_grad():
        expected = make("llama", quantize=quantize)(ids).numpy()
    for _ in range(5):
        model, found = make("llama"), []
        model.load_state_dict({name: Slowly(np.array(w)) for name, w in model.state_dict().items()})
        model.quantize(quantize)

        def run(model=model, found=found):
            with autograd.no_grad():
                found.append(np.array(model(ids).numpy()))

        threads = [threading.Thread(target=run) for _ in range(6)]
        for t in threads:
            t.start()
        for t in threads:
            t.join()
        assert len(found) == 6
        for got in found:
            np.testing.assert_array_equal(got, expected)


def test_one_recording_at_a_time():
    plan, other = _core.Plan(), _core.Plan()
    plan.begin()
    with pytest.raises(RuntimeError, match="one recording at a time"):
        other.begin()
    plan.end()
    other.begin()
    del other  # ends it
    plan.begin()
    plan.end()
    assert len(plan) == 0


def test_weights_that_a_plan_reads_stay():
    """Replaced under a plan, they still are where it looks for them: no crash, and the old weights."""
    model = make("llama")
    step = DecodeStep(model, prompts(model, 1))
    step(np.array([[1]]))
    lengths = step._cache.lengths.copy()
    expected = np.array(step(np.array([[2]])).numpy())
    for _, p in model.named_parameters():
        p.assign(nn_source(p))
    for _ in range(3):
        step._cache.lengths[:] = lengths
        np.testing.assert_array_equal(step(np.array([[2]])).numpy(), expected)


def nn_source(p):
    from llmcore.nn.module import Constant

    return Constant(p.shape, 0.0)
