"""GRPO, PPO and what they need, against plain loops in float64 and their differences."""

import math

import numpy as np
import pytest

import llmcore
from llmcore import losses
from llmcore._arrays import array_to_numpy
from llmcore.losses.names import GRPO_LOSSES

B, T = 6, 9


def numbers(seed=0):
    rng = np.random.default_rng(seed)
    logps = -rng.uniform(0.1, 4, (B, T))
    mask = np.arange(T) < rng.integers(1, T + 1, B)[:, None]
    return {
        "logps": logps,
        "old": logps + rng.normal(0, 0.3, (B, T)),
        "ref": logps + rng.normal(0, 0.5, (B, T)),
        "a": rng.normal(0, 1, B),
        "mask": mask,
    }


def grpo_twin(logps, x, kind, eps, high, beta, tokens, max_tokens, frozen=None):
    """Token by token, as the papers write it; frozen: the ratios through which no gradient goes (cispo)."""
    sequence_means, sums = [], []
    for b in range(B):
        written = [t for t in range(T) if x["mask"][b, t]]
        mean_ratio = sum(logps[b, t] - x["old"][b, t] for t in written) / len(written)
        each = []
        for t in written:
            rho = math.exp(mean_ratio if kind == "gspo" else logps[b, t] - x["old"][b, t])
            if kind == "cispo":
                loss = -min(frozen[b, t], high) * x["a"][b] * logps[b, t]
            else:
                loss = -min(rho * x["a"][b], min(max(rho, 1 - eps), 1 + high) * x["a"][b])
            d = x["ref"][b, t] - logps[b, t]
            each.append(loss + beta * (math.exp(d) - d - 1))
        sequence_means.append(sum(each) / len(each))
        sums.append(sum(each))
    count = x["mask"].sum()
    return {
        "grpo": sum(sequence_means) / B,
        "gspo": sum(sequence_means) / B,
        "bnpo": sum(sums) / count,
        "dapo": sum(sums) / tokens,
        "cispo": sum(sums) / tokens,
        "dr_grpo": sum(sums) / (B * max_tokens),
    }[kind]


def slopes(f, x, h=1e-6):
    g = np.zeros_like(x)
    for at in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[at] += h
        down[at] -= h
        g[at] = (f(up) - f(down)) / (2 * h)
    return g


@pytest.mark.parametrize("beta", [0.0, 0.1])
@pytest.mark.parametrize("kind", GRPO_LOSSES)
def test_grpo(kind, beta):
    x = numbers()
    options = {"tokens": 77.0, "max_tokens": 20}
    logps = llmcore.tensor(x["logps"].astype(np.float32), requires_grad=True)
    old, ref = x["old"].astype(np.float32), x["ref"].astype(np.float32)
    x |= {"logps": logps.numpy().astype(np.float64), "old": old.astype(np.float64), "ref": ref.astype(np.float64)}
    out = losses.grpo(logps, old, x["a"], x["mask"], kind, 0.2, 0.3, beta, ref, **options)
    frozen = np.exp(x["logps"] - x["old"])

    def twin(at):
        return grpo_twin(at, x, kind, 0.2, 0.3, beta, 77.0, 20, frozen)

    assert out.item() == pytest.approx(twin(x["logps"]), rel=1e-6, abs=1e-7)
    out.backward()
    np.testing.assert_allclose(array_to_numpy(logps.grad), slopes(twin, x["logps"]), rtol=1e-5, atol=1e-7)
    assert not array_to_numpy(logps.grad)[~x["mask"]].any()


def test_group_advantages():
    rewards = np.array([1.0, 2, 3, 6, 5, 5, 5, 5])
    got = losses.group_advantages(rewards, 4)
    np.testing.assert_allclose(got[:4], (rewards[:4] - 3) / (np.std(rewards[:4], ddof=1) + 1e-4))
    np.testing.assert_array_equal(got[4:], 0)
    np.testing.assert_allclose(losses.group_advantages(rewards, 4, scale=False)[:4], [-2, -1, 0, 3])
    with pytest.raises(ValueError, match=r"\[group_advantages\] expected rewards \(B\) of groups of 3"):
        losses.group_advantages(rewards, 3)


def test_ppo():
    x, rng = numbers(1), np.random.default_rng(2)
    a = rng.normal(size=(B, T)).astype(np.float32)
    v, old_v, r = (rng.normal(0, 0.4, (B, T)).astype(np.float32) for _ in range(3))
    logps = llmcore.tensor(x["logps"].astype(np.float32), requires_grad=True)
    values = llmcore.tensor(v, requires_grad=True)
    old = x["old"].astype(np.float32)
    out = losses.ppo(logps, old, a, x["mask"], values, old_v, r, 0.2, 0.15, 0.3)

    wide_a, wide_r = a.astype(np.float64), r.astype(np.float64)

    def twin(logp, value):
        policy = squares = 0.0
        for b, t in zip(*np.nonzero(x["mask"]), strict=True):
            rho = math.exp(logp[b, t] - float(old[b, t]))
            kept = min(max(rho, 0.8), 1.2)
            policy += max(-wide_a[b, t] * rho, -wide_a[b, t] * kept)
            near = min(max(value[b, t], float(old_v[b, t]) - 0.15), float(old_v[b, t]) + 0.15)
            squares += max((value[b, t] - wide_r[b, t]) ** 2, (near - wide_r[b, t]) ** 2)
        n = x["mask"].sum()
        return policy / n + 0.3 * 0.5 * squares / n

    at, vat = logps.numpy().astype(np.float64), v.astype(np.float64)
    assert out.item() == pytest.approx(twin(at, vat), rel=1e-6)
    out.backward()
    np.testing.assert_allclose(array_to_numpy(logps.grad), slopes(lambda p: twin(p, vat), at), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(array_to_numpy(values.grad), slopes(lambda p: twin(at, p), vat), rtol=1e-5, atol=1e-7)
    near = losses.ppo(logps, old, a, x["mask"], values, old_v, r, 0.2, 0.15, 0.0)
    assert losses.ppo(logps, old, a, x["mask"]).item() == near.item()


def test_gae_and_whitening():
    x, rng = numbers(3), np.random.default_rng(4)
    rewards, values, mask = rng.normal(size=(B, T)), rng.normal(size=(B, T)), x["mask"]
    got, returns = losses.gae(rewards, values, mask, 0.9, 0.8)
    for b in range(B):
        n = int(mask[b].sum())
        deltas = [rewards[b, t] + 0.9 * (values[b, t + 1] if t + 1 < n else 0.0) - values[b, t] for t in range(n)]
        for t in range(n):
            expected = sum((0.9 * 0.8) ** (k - t) * deltas[k] for k in range(t, n))
            assert got[b, t] == pytest.approx(expected)
            assert returns[b, t] == pytest.approx(expected + values[b, t])
        assert not got[b, n:].any()
    white = losses.whiten(got, mask)
    assert white[mask].mean() == pytest.approx(0, abs=1e-12)
    assert white[mask].std(ddof=1) == pytest.approx(1, rel=1e-6)
    assert not white[~mask].any()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x: losses.grpo(x, x, [1.0] * B, np.ones((B, T)), "ppo"),
            r"\[grpo\] expected loss_type one of grpo, bnpo",
        ),
        (lambda x: losses.grpo(x, x, [1.0] * B, np.ones(T)), r"\[grpo\] expected a mask \(B, T\)"),
        (
            lambda x: losses.grpo(x, x, [1.0] * B, np.ones((B, T)), "dr_grpo"),
            r"\[grpo\] expected max_tokens for dr_grpo",
        ),
        (lambda x: losses.grpo(x, x, [1.0] * B, np.ones((B, T)), beta=0.1), r"\[grpo\] expected ref_logps with beta"),
        (lambda x: losses.grpo(x, x[:2], [1.0] * B, np.ones((B, T))), r"\[grpo\] expected old_logps of shape \(6, 9\)"),
        (lambda x: losses.ppo(x, x, x, np.ones((B, T)), x), r"\[ppo\] expected old_values and returns"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(np.zeros((B, T), np.float32))
