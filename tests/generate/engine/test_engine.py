"""The engine: requests that join and leave, known beginnings, too little room, and what goes wrong with one of many."""

import itertools
import threading
import time

import numpy as np
import pytest

import llmcore
from llmcore import autograd, models, ops
from llmcore.generate import Engine, QueueFull, Request, SamplingParams
from llmcore.models.kv_cache import BLOCK


@pytest.fixture(scope="module")
def model():
    config = models.LlamaConfig(vocab_size=120, context=400, width=32, layers=2, heads=4, kv_heads=2)
    model = models.Llama(config, "float32", seed=1)
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, 0.25, p.shape))
    return model


class Keeper:
    """A writer that keeps the tokens and ends after some of them, or raises."""

    def __init__(self, ends_at=None, raises_at=None, at_token=None):
        self.tokens, self.logprobs, self.tops, self.last = [], [], [], None
        self.ends_at, self.raises_at, self.at_token = ends_at, raises_at, at_token
        self.prompt_logprobs = None

    def prompt(self, logprobs):
        self.prompt_logprobs = logprobs

    def write(self, drawn, last):
        self.tokens.append(drawn.token)
        self.logprobs.append(drawn.logprob)
        self.tops.append(drawn.top)
        self.last = last
        if self.at_token:
            self.at_token()
        if len(self.tokens) == self.raises_at:
            raise RuntimeError("the reader broke")
        return len(self.tokens) == self.ends_at


def request(prompt, keeper=None, **params):
    options = {k: params.pop(k) for k in ("priority", "timeout", "end_ids", "proposer") if k in params}
    return Request(prompt, SamplingParams(**{"temperature": 1.0, "seed": 0, **params}), keeper or Keeper(), **options)


def prompts(n, seed=0, longest=200):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 120, rng.integers(1, longest)).tolist() for _ in range(n)]


def drawn_plainly(model, prompt, params, room):
    """The oracle: the whole sequence through the model for every token, without any cache."""
    tokens = list(prompt)
    for step in range(min(room, model.config.context - len(prompt))):
        with autograd.no_grad():
            logits = model(np.array([tokens]), last_only=True).numpy()[:, 0]
        drawn = ops.sample(
            logits,
            params.temperature,
            params.top_k,
            params.top_p,
            params.min_p,
            params.seed,
            step,
            history=[tokens],
            prompt_lengths=len(prompt),
            repetition_penalty=params.repetition_penalty,
            frequency_penalty=params.frequency_penalty,
        )
        tokens.append(int(drawn.tokens.numpy()[0]))
    return tokens[len(prompt) :]


def free_blocks(engine):
    """All blocks but the one for filling up, once nothing is known any more: none has leaked."""
    engine.reset()
    return engine.pool.free == engine.pool.blocks - 1


@pytest.mark.host
def test_sixteen_with_random_neighbours_are_as_alone(model):
    """Unequal prompts, parameters and lengths; requests come while others write."""
    rng = np.random.default_rng(1)
    engine = Engine(model, chunk=48)
    all_of_them = []
    for i, prompt in enumerate(prompts(16, seed=2)):
        params = {
            "seed": i,
            "temperature": float(rng.choice([0.0, 0.7, 1.3])),
            "top_k": int(rng.choice([0, 20])),
            "top_p": float(rng.choice([1.0, 0.9])),
            "repetition_penalty": float(rng.choice([1.0, 1.2])),
            "frequency_penalty": float(rng.choice([0.0, 0.3])),
            "max_tokens": int(rng.integers(1, 25)),
        }
        all_of_them.append(request(prompt, **params))
        engine.submit(all_of_them[-1])
        for _ in range(int(rng.integers(0, 6))):
            engine.step()
    engine.run(all_of_them, submit=False)
    for r in all_of_them:
        assert r.sink.tokens == drawn_plainly(model, r.tokens[: r.prompt_length], r.params, r.params.max_tokens)
    assert free_blocks(engine)


@pytest.mark.host
@pytest.mark.parametrize("cache_dtype", ["bfloat16", "int8"])
def test_same_tokens_for_any_threads_and_company(model, cache_dtype):
    def tokens(alone):
        found = []
        engine = Engine(model, cache_dtype=cache_dtype)
        group = [request(p, seed=i, max_tokens=12) for i, p in enumerate(prompts(9, seed=4))]
        if alone:
            for r in group:
                fresh = Engine(model, cache_dtype=cache_dtype)
                fresh.run([r])
        else:
            engine.run(group)
        found += [r.sink.tokens for r in group]
        return found

    before = llmcore.num_threads()
    try:
        expected = tokens(alone=True)
        for n in (1, 2, 3, 8):
            llmcore.set_num_threads(n)
            assert tokens(alone=False) == expected
    finally:
        llmcore.set_num_threads(before)


def test_what_was_read_is_not_read_again(model):
    engine = Engine(model)
    system = list(range(100)) * 2  # three blocks and eight positions more
    first = request([*system, 5], max_tokens=3)
    engine.run([first])
    assert first.cached_tokens == 0
    second = request([*system, 7, 8], seed=3, max_tokens=20)
    engine.run([second])
    assert second.cached_tokens == 200
    assert second.sink.tokens == drawn_plainly(model, [*system, 7, 8], second.params, 20)
    again = request([*system, 7, 8], seed=3, max_tokens=20)
    engine.run([again])
    assert again.cached_tokens == 201  # all but the token whose logits are wanted
    assert again.sink.tokens == second.sink.tokens
    follow = request([*system, 7, 8, *second.sink.tokens, 9], max_tokens=2)
    engine.run([follow])
    assert follow.cached_tokens == 202 + 19  # the last token that was drawn was never read
    assert free_blocks(engine)


def test_the_same_prompt_many_times_is_read_once(model):
    engine = Engine(model)
    group = [request(list(range(90)), seed=i, max_tokens=4) for i in range(6)]
    engine.run(group)
    assert [r.cached_tokens for r in group] == [0, 89, 89, 89, 89, 89]
    assert len({tuple(r.sink.tokens) for r in group}) > 1


def engine_of(model, blocks, **options):
    size = model.new_pool(1).bytes_per_block
    return Engine(model, cache_bytes=size * blocks, **options)


def test_known_beginnings_make_room_the_oldest_first(model):
    engine = engine_of(model, 4)
    for start in range(5):
        engine.run([request([start] * 70, max_tokens=1)])
    assert engine.pool.free == 0
    newest = request([4] * 70, max_tokens=1)
    engine.run([newest])
    assert newest.cached_tokens == 69
    oldest = request([0] * 70, max_tokens=1)
    engine.run([oldest])
    assert oldest.cached_tokens == 0
    assert free_blocks(engine)


def test_too_little_room_for_all_at_once(model):
    """Who has no room goes back to wait and reads again what was lost: later, the same tokens."""
    engine = engine_of(model, 5)
    group = [request(p, seed=i, max_tokens=90) for i, p in enumerate(prompts(5, seed=6, longest=60))]
    engine.run(group)
    for r in group:
        assert r.sink.tokens == drawn_plainly(model, r.tokens[: r.prompt_length], r.params, 90)
    assert free_blocks(engine)


def test_too_little_room_for_one_is_its_own_error(model):
    engine = engine_of(model, 3)
    small, large, late = (request(p, max_tokens=100) for p in ([1] * 20, [2] * 150, [3] * 300))
    for r in (small, large, late):
        engine.submit(r)
    while not all(r.done for r in (small, large, late)):
        engine.step()
    assert small.error is None
    assert len(small.sink.tokens) == 100
    for r in (large, late):
        assert isinstance(r.error, MemoryError)
        assert "expected at most 192 tokens at a time (what cache_bytes has room for)" in str(r.error)
    assert 0 < len(large.sink.tokens) < 100
    assert free_blocks(engine)


def test_a_thousand_cancelled_at_random_leak_nothing(model):
    rng = np.random.default_rng(3)
    engine = engine_of(model, 40, max_batch=16)
    waiting, cancelled = [], 0
    texts = prompts(40, seed=8, longest=150)
    while cancelled < 1000:
        while len(waiting) < 30:
            r = request(texts[rng.integers(40)], seed=int(rng.integers(1000)), max_tokens=60)
            engine.submit(r)
            waiting.append(r)
        for _ in range(int(rng.integers(0, 3))):
            engine.step()
        for _ in range(int(rng.integers(1, 12))):
            r = waiting.pop(rng.integers(len(waiting)))
            engine.cancel(r)
            assert r.done
            assert r.blocks == []
            cancelled += 1
    for r in waiting:
        engine.cancel(r)
    assert not engine._decoding
    assert engine._prefilling is None
    assert free_blocks(engine)


def test_a_reader_that_breaks_ends_its_own_request_only(model):
    engine = Engine(model)
    broken, fine = request([1, 2, 3], Keeper(raises_at=4), max_tokens=10), request([4, 5], max_tokens=10)
    with pytest.raises(RuntimeError, match="the reader broke"):
        engine.run([fine, broken])
    assert fine.error is None
    assert len(fine.sink.tokens) == 10
    assert free_blocks(engine)


def test_a_reader_may_cancel_and_not_generate(model):
    engine = Engine(model)
    victim = request([4, 5], max_tokens=50)
    killer = request(
        [1], Keeper(at_token=lambda: engine.cancel(victim) if len(victim.sink.tokens) > 3 else None), max_tokens=9
    )
    engine.run([killer, victim])
    assert len(killer.sink.tokens) == 9
    assert 3 < len(victim.sink.tokens) < 9
    nested = request([1], Keeper(at_token=lambda: engine.run([request([2])])), max_tokens=3)
    beside = request([3], max_tokens=6)
    with pytest.raises(RuntimeError, match="expected on_token not to generate"):
        engine.run([nested, beside])
    assert beside.sink.tokens == drawn_plainly(model, [3], beside.params, 6)
    assert free_blocks(engine)


def test_a_row_that_cannot_be_drawn_fails_alone(model):
    engine = Engine(model)
    nothing = request([1, 2], max_tokens=5, banned=tuple(range(120)))
    fine = request([1, 2], max_tokens=5)
    for r in (nothing, fine):
        engine.submit(r)
    while not (nothing.done and fine.done):
        engine.step()
    assert "expected banned and logit_bias to leave a token" in str(nothing.error)
    assert len(fine.sink.tokens) == 5
    assert free_blocks(engine)


def test_the_important_come_first_and_the_others_in_order(model):
    order = []
    engine = Engine(model, max_batch=1)
    for i, priority in enumerate((0, 0, 5, 1, 5)):
        keeper = Keeper(at_token=lambda i=i: order.append(i) if i not in order else None)
        engine.submit(request([i + 1] * 5, keeper, max_tokens=3, priority=priority))
    while len(order) < 5:
        engine.step()
    assert order == [2, 4, 3, 0, 1]


def test_a_full_queue_refuses(model):
    engine = Engine(model, max_waiting=2)
    for _ in range(2):
        engine.submit(request([1], max_tokens=1))
    with pytest.raises(QueueFull, match="expected at most 2 waiting requests"):
        engine.submit(request([1], max_tokens=1))
    engine.step()
    engine.submit(request([1], max_tokens=1))


def test_a_batch_may_be_longer_than_the_queue(model):
    engine = Engine(model, max_waiting=3, max_batch=2)
    group = [request([i], seed=i, max_tokens=4) for i in range(20)]
    engine.run(group)
    assert [len(r.sink.tokens) for r in group] == [4] * 20
    assert free_blocks(engine)


def test_an_interrupted_step_is_taken_again(model):
    engine = Engine(model)

    def interrupt():
        if len(r.sink.tokens) == 3:
            raise KeyboardInterrupt

    r, beside = request([1, 2], Keeper(at_token=interrupt), max_tokens=6), request([3], max_tokens=9)
    for x in (r, beside):
        engine.submit(x)
    with pytest.raises(KeyboardInterrupt):
        engine.run([r], submit=False)
    engine.run([beside], submit=False)
    assert beside.sink.tokens == drawn_plainly(model, [3], beside.params, 9)
    assert free_blocks(engine)


def test_deadlines(model):
    engine = Engine(model)
    slow = request([1, 2], Keeper(at_token=lambda: time.sleep(0.02)), max_tokens=200, timeout=0.15)
    waits = request([3], max_tokens=5)
    engine.run([slow, waits])
    assert slow.timed_out
    assert 0 < len(slow.sink.tokens) < 200
    assert not waits.timed_out
    assert len(waits.sink.tokens) == 5
    assert free_blocks(engine)


def test_several_threads_at_once(model):
    engine, found = Engine(model), {}

    def ask(i):
        r = request([i, i + 1, i + 2], seed=i, max_tokens=15)
        engine.run([r])
        found[i] = r.sink.tokens

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for i in range(12):
        params = SamplingParams(temperature=1.0, seed=i)
        assert found[i] == drawn_plainly(model, [i, i + 1, i + 2], params, 15)
    assert free_blocks(engine)


def test_new_weights_are_noticed():
    config = models.LlamaConfig(vocab_size=50, context=64, width=16, layers=1, heads=2)
    model = models.Llama(config, "float32", seed=1)
    engine = Engine(model)
    before = request([1, 2, 3], max_tokens=10)
    engine.run([before])
    rng = np.random.default_rng(0)
    for _, p in model.named_parameters():
        if p.ndim > 1:
            p.assign(rng.normal(0, 0.3, p.shape))
    after = request([1, 2, 3], max_tokens=10)
    engine.run([after])
    assert after.cached_tokens == 0
    assert after.sink.tokens != before.sink.tokens
    assert after.sink.tokens == drawn_plainly(model, [1, 2, 3], after.params, 10)


def test_a_fresh_model_is_recorded_at_its_first_token():
    """What it makes once, packed weights and tables, must not become a part of the step."""
    for seed in range(8):
        config = models.LlamaConfig(vocab_size=64, context=64, width=32, layers=2, heads=2)
        for quantize in (None, "int8"):
            model = models.Llama(config, "bfloat16", seed=seed)
            model.quantize(quantize)
            r = request([seed], temperature=0.0, max_tokens=6)
            Engine(model, cache_dtype="bfloat16").run([r])
            twin = models.Llama(config, "bfloat16", seed=seed)
            twin.quantize(quantize)
            assert r.sink.tokens == drawn_plainly(twin, [seed], r.params, 6)


def test_log_probabilities(model):
    prompt = prompts(1, seed=11)[0]
    r = request(prompt, max_tokens=5, top_logprobs=4, prompt_logprobs=True)
    Engine(model).run([r])
    with autograd.no_grad():
        logits = model(np.array([r.tokens])).numpy()[0].astype(np.float64)
    logprobs = logits - logits.max(1, keepdims=True)
    logprobs -= np.log(np.exp(logprobs).sum(1, keepdims=True))
    n = len(prompt)
    np.testing.assert_allclose(r.sink.prompt_logprobs, logprobs[np.arange(n - 1), prompt[1:]], atol=1e-4)
    for i, (token, own, top) in enumerate(zip(r.sink.tokens, r.sink.logprobs, r.sink.tops, strict=True)):
        row = logprobs[n - 1 + i]
        assert own == pytest.approx(row[token], abs=1e-4)
        assert [t for t, _ in top] == np.argsort(-row, kind="stable")[:4].tolist()
        np.testing.assert_allclose([p for _, p in top], np.sort(row)[::-1][:4], atol=1e-4)


def test_what_may_not_be_drawn(model):
    engine = Engine(model)
    r = request(
        [1, 2, 3], max_tokens=200, no_repeat_ngram=2, banned=(5, 6), forced=(9, 9, 10), min_tokens=150, end_ids=(7,)
    )
    engine.run([r])
    tokens = r.tokens
    assert tokens[3:6] == [9, 9, 10]
    assert not {5, 6} & set(tokens[6:])
    assert 7 not in tokens[6 : 3 + 150]
    pairs = list(itertools.pairwise(tokens))
    assert len(set(pairs)) == len(pairs)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_guesses_change_no_token(model, temperature):
    from llmcore.generate.engine.speculate import Draft, PromptLookup

    small = models.Llama(models.LlamaConfig(vocab_size=120, context=400, width=16, layers=1, heads=2), seed=2)
    prompt = [1, 2, 3, 4, 5, 6, 7, 8] * 6
    plain = request(prompt, seed=4, temperature=temperature, max_tokens=80, repetition_penalty=1.05)
    Engine(model).run([plain])
    for proposer in (PromptLookup(), Draft(small), Draft(model, most=7)):
        engine = Engine(model)
        r = request(prompt, seed=4, temperature=temperature, max_tokens=80, repetition_penalty=1.05, proposer=proposer)
        others = [request([i], seed=i, max_tokens=20) for i in range(3)]
        engine.run([r, *others])
        assert r.sink.tokens == plain.sink.tokens
        assert free_blocks(engine)
    assert proposer.right == proposer.proposed > 40  # the model itself is never wrong


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "a prompt of 1 to 399 tokens"), ([1] * 400, "got 400"), ([120], r"token ids in \[0, 120\)")],
)
def test_bad_prompts(model, prompt, message):
    with pytest.raises(ValueError, match=message):
        Engine(model).submit(request(prompt))


def test_bad_engines(model):
    with pytest.raises(ValueError, match=r"\[engine\] expected max_batch an integer >= 1, got 0"):
        Engine(model, max_batch=0)
    with pytest.raises(ValueError, match=r"\[engine\] expected cache_bytes of at least \d+, a block's, got 10"):
        Engine(model, cache_bytes=10)
    with pytest.raises(ValueError, match=r"\[cache\] expected a dtype of float32, bfloat16, int8, got 'int4'"):
        Engine(model, cache_dtype="int4")


def test_blocks_are_as_long_as_the_kernel_has_them():
    assert BLOCK == 64
