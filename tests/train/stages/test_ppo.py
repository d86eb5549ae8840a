"""Proximal policy optimisation: a target of five tokens is found, what is stored of answers against a float64 twin,
accumulation, resuming."""

import json

import numpy as np
import pytest

from llmcore.generate import load
from llmcore.train import PPOConfig, Report, SFTConfig, ppo, sft
from llmcore.train.stages.ppo import PPOStage
from support.chat_models import save_chat_model
from support.runs import StopsAt, assert_same_weights, log_of

TARGET = ["up", "down", "down", "up", "down"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that answers with five words, each up or down as often."""
    folder = tmp_path_factory.mktemp("base")
    texts = ["up down up up down user assistant\nup\ndown"] * 9
    save_chat_model(folder / "raw", texts, 310, context=64, kv_heads=2)
    rng, data = np.random.default_rng(0), folder / "data.jsonl"
    words = [" ".join(np.array(["up", "down"])[rng.integers(0, 2, 5)]) for _ in range(64)]
    data.write_text("".join(json.dumps({"prompt": "Go", "completion": w}) + "\n" for w in words))
    sft(SFTConfig(model=str(folder / "raw"), data=str(data), out=str(folder / "able"), steps=150, epochs=0.0, lr=5e-3,
                  batch_size=16, context=60, validation_fraction=0.0, eval_every=0, sample_every=0, save_every=0,
                  dtype="float32"), report=Report())  # fmt: skip
    return folder / "able"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text('{"prompt": "Go"}\n' * 2)
    return path


def near(prompts, completions, **columns):
    """How many of the target's words are there."""
    return [sum(a == b for a, b in zip(c.split(), TARGET, strict=False)) / 5 for c in completions]


def config(base, prompts, out, **values):
    settings = {"steps": 8, "epochs": 0.0, "save_every": 3, "eval_every": 0, "sample_every": 0, "batch_size": 8,
                "accumulation": 2, "context": 60, "max_tokens": 12, "lr": 2e-3, "warmup": 0, "temperature": 1.0,
                "dtype": "float32", "validation_fraction": 0.0, **values}  # fmt: skip
    return PPOConfig(model=str(base), data=str(prompts), out=str(out), **settings)


def test_it_finds_a_target_of_five_tokens(base, prompts, tmp_path):
    lm = ppo(config(base, prompts, tmp_path / "run", steps=200, batch_size=32, accumulation=1, kl=0.05, save_every=0),
             report=Report(), rewards={"near": near})  # fmt: skip
    log = log_of(tmp_path / "run")
    assert 0.3 < log[0]["reward"] < 0.7
    assert str(lm.chat([{"role": "user", "content": "Go"}], 12, temperature=0)).split() == TARGET
    losses = [row["loss/value_avg"] for row in log]
    assert np.mean(losses[-20:]) < 0.5 * np.mean(losses[:20])  # and what it will be worth is foreseen


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_what_is_stored_of_answers(base, prompts, tmp_path, estimator):
    """Against plain loops in float64, of a policy and values that have moved from where they began."""
    lm = load(base, "float32")
    c = config(base, prompts, tmp_path / "x", kl=0.3, kl_estimator=estimator, temperature=0.8, gamma=0.9, lam=0.7)
    stage = PPOStage(c, lm, load(base, "float32").model, Report(), {"near": near})
    rng = np.random.default_rng(1)
    for p in stage.trainable().values():
        p.assign(p.array.numpy() + rng.normal(0, 0.02, p.shape).astype(np.float32))
    stage.batches(0)
    e = stage.experience

    def logps(model, row, targets):
        logits = model(row[None]).numpy()[0].astype(np.float64) / 0.8
        logits -= logits.max(axis=1, keepdims=True)
        table = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return table[np.arange(len(row)), targets]

    advantages, masks = [], []
    for i in range(len(e.inputs)):
        at = np.flatnonzero(e.targets[i] >= 0)
        end = at[-1] + 1
        own, first = (logps(m, e.inputs[i, :end], e.targets[i, :end])[at] for m in (lm.model, stage.reference))
        np.testing.assert_allclose(e.old[i, at], own, atol=2e-5)
        hidden = lm.model.hidden(e.inputs[i : i + 1, :end]).numpy()[0, at].astype(np.float64)
        v = hidden @ stage._head.weight.numpy()[0] + stage._head.bias.numpy()[0]
        np.testing.assert_allclose(e.values[i, at], v, atol=2e-5)
        kl = own - first if estimator == "k1" else np.exp(first - own) - 1 - (first - own)
        r = -0.3 * kl
        text = lm.tokenizer.decode([t for t in e.targets[i, at].tolist() if t not in lm.end_ids])
        r[-1] += near(None, [text])[0]
        a, running = np.zeros(len(at)), 0.0
        for t in reversed(range(len(at))):
            ahead = v[t + 1] if t + 1 < len(at) else 0.0
            running = r[t] + 0.9 * ahead - v[t] + 0.9 * 0.7 * running
            a[t] = running
        np.testing.assert_allclose(e.returns[i, at], a + v, atol=1e-4)
        advantages.append(a)
        masks.append(at)
    flat = np.concatenate(advantages)
    wanted = (flat - flat.mean()) / np.sqrt(flat.var(ddof=1) + 1e-8)
    got = np.concatenate([e.advantages[i, at] for i, at in enumerate(masks)])
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_eight_at_once_are_eight_one_by_one(base, prompts, tmp_path):
    for name, rows in (("a", 8), ("b", 1)):
        options = {"batch_size": rows, "accumulation": 8 // rows, "steps": 4}
        ppo(config(base, prompts, tmp_path / name, **options), report=Report(), rewards={"near": near})
    a, b = (load(tmp_path / n, "float32").model.state_dict() for n in "ab")
    for key, w in a.items():
        np.testing.assert_allclose(b[key], w, atol=1e-4, err_msg=key)


@pytest.mark.parametrize("lora", [0, 4])
def test_a_stopped_run_goes_on_bit_for_bit(base, prompts, tmp_path, lora):
    """From the middle of answers, which serve four updates."""

    def run(out, **how):
        c = config(base, prompts, out, lora_rank=lora)
        return ppo(c, rewards={"near": near}, **{"report": Report(), **how})

    run(tmp_path / "straight")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", report=StopsAt(5))
    run(tmp_path / "stopped", resume=True)
    if lora:
        names = [tmp_path / n / "adapter_model.safetensors" for n in ("straight", "stopped")]
        assert names[0].read_bytes() == names[1].read_bytes()
    else:
        assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_answers_whose_rewards_fail_teach_nothing(base, prompts, tmp_path):
    def never(prompts, completions, **columns):
        return [float("nan")] * (len(completions) - 1) + [1.0]

    lm = load(base, "float32")
    stage = PPOStage(config(base, prompts, tmp_path / "x", bad_rows="skip"), lm, lm.model, Report(), {"never": never})
    batches = stage.batches(0)
    assert sum(int(b.rows.mask.any(axis=1).sum()) for b in batches) == 1
    assert stage.figures()["rewards/failed"] == 15


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"updates": 0}, "expected updates >= 1, got 0"),
        ({"kl_estimator": "k2"}, "expected kl_estimator k1 or k3, got 'k2'"),
        ({"lam": 1.5}, r"expected lam in \[0, 1\], got 1.5"),
    ],
)
def test_bad_options(base, prompts, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        config(base, prompts, tmp_path / "run", **values)
