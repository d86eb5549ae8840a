"""Losses, their gradients and the figures of the log against TRL's own code: the loss functions of its trainers, called with
log-probabilities instead of a model."""

from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest

from llmcore import losses
from llmcore._tensor import tensor

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("default")]
torch = pytest.importorskip("torch")
pytest.importorskip("trl")

B, T = 6, 9
ACCELERATOR = SimpleNamespace(
    device="cpu", num_processes=1, sync_gradients=False, gather=lambda x: x, gather_for_metrics=lambda x: x,
    reduce=lambda x, reduction: x,
)  # fmt: skip


def assert_close(got, wanted):
    np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(wanted, np.float64), rtol=1e-6, atol=1e-6)


def answers(seed):
    """Log-probabilities of the tokens of 2B answers, theirs by the reference, and which tokens are answers' (the first
    position of a row never is)."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((2 * B, T + 1), np.int64)
    for row in mask:
        start, end = sorted(rng.choice(np.arange(1, T + 2), 2, replace=False))
        row[start:end] = 1
    logps = -np.abs(rng.normal(0, 0.6, (2 * B, T))) * mask[:, 1:]
    return logps, rng.normal(0, 1, 2 * B) + logps.sum(1), mask


def of_trl(trainer, logps, reference, mask, **settings):
    """The loss of trainer's code, its gradient by the tokens' log-probabilities, and its figures."""
    found = torch.tensor(logps, requires_grad=True)
    outputs = SimpleNamespace(
        log_probs=found, entropy=torch.zeros(logps.shape), mean_logits=torch.zeros(logps.shape),
        is_top1=torch.zeros(logps.shape, dtype=torch.bool),
    )  # fmt: skip
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, ld_alpha=None,
        precompute_ref_logps=True, f_divergence_type="reverse_kl", use_weighting=False, _total_train_tokens=0,
        _tp_size=1, _metrics={"train": defaultdict(list)}, **settings,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask),
        "ref_chosen_logps": torch.tensor(reference[:B]),
        "ref_rejected_logps": torch.tensor(reference[B:]),
    }
    loss = trainer._compute_loss(stub, lambda **_: outputs, inputs, False)
    loss.backward()
    return loss.item(), found.grad.numpy(), {k: np.mean(v) for k, v in stub._metrics["train"].items()}


DPO = ["sigmoid", "hinge", "ipo", "robust", "exo_pair", "nca_pair", "bco_pair", "sppo_hard", "apo_zero", "apo_down",
       "discopop", "sigmoid_norm"]  # fmt: skip


@pytest.mark.parametrize("beta", [0.1, 0.7])
@pytest.mark.parametrize("loss_type", DPO)
def test_dpo(loss_type, beta):
    from trl.trainer.dpo_trainer import DPOTrainer

    smoothing = {"robust": 0.2, "exo_pair": 1e-3}.get(loss_type, 0.0)
    logps, reference, mask = answers(DPO.index(loss_type))
    settings = {"loss_types": [loss_type], "loss_weights": [1.0], "beta": beta, "label_smoothing": smoothing,
                "args": SimpleNamespace(discopop_tau=0.05, gradient_checkpointing_kwargs=None)}  # fmt: skip
    wanted, grad, figures = of_trl(DPOTrainer, logps, reference, mask, **settings)
    sums, lengths = logps.sum(1), mask.sum(1)
    chosen, rejected = (tensor(s.astype(np.float32), requires_grad=True) for s in (sums[:B], sums[B:]))
    each = losses.dpo(
        chosen, rejected, reference[:B], reference[B:], beta, loss_type, smoothing, lengths[:B], lengths[B:]
    )
    # In float32 only the sums were rounded; those that TRL starts from are the same ones.
    assert each.numpy().mean() == pytest.approx(wanted, rel=2e-6, abs=2e-6)
    each.backward(np.full(B, 1 / B, np.float32))
    got = np.concatenate([chosen.grad.numpy(), rejected.grad.numpy()])[:, None] * np.ones((1, T))
    np.testing.assert_allclose(got, grad, rtol=5e-6, atol=2e-6)
    c, r = beta * (sums[:B] - reference[:B]), beta * (sums[B:] - reference[B:])
    ours = {"rewards/chosen": c, "rewards/rejected": r, "rewards/margins": c - r, "rewards/accuracies": c > r,
            "logps/chosen": sums[:B], "logps/rejected": sums[B:]}  # fmt: skip
    for name, values in ours.items():
        assert figures[name] == pytest.approx(np.mean(values), abs=1e-6), name


def test_simpo_and_orpo():
    from trl.experimental.cpo.cpo_trainer import CPOTrainer
    from trl.experimental.orpo.orpo_trainer import ORPOTrainer

    logps, _, mask = answers(50)
    sums, n = logps.sum(1), mask.sum(1)
    means = [torch.tensor(m, requires_grad=True) for m in ((sums / n)[:B], (sums / n)[B:])]
    stub = SimpleNamespace(
        alpha=0.0, loss_type="simpo", simpo_gamma=0.5, beta=2.0, label_smoothing=0.0, accelerator=ACCELERATOR
    )
    wanted = CPOTrainer.cpo_loss(stub, *means)[0]
    chosen, rejected = (tensor(s.astype(np.float32), requires_grad=True) for s in (sums[:B], sums[B:]))
    got = losses.simpo(chosen, rejected, n[:B], n[B:], 2.0, 0.5)
    assert_close(got.numpy(), wanted.detach().numpy())
    wanted.sum().backward()
    got.backward(np.ones(B, np.float32))
    assert_close(chosen.grad.numpy() * n[:B], means[0].grad.numpy())
    assert_close(rejected.grad.numpy() * n[B:], means[1].grad.numpy())

    # Theirs computes in float32; the negative log-likelihood of the chosen answer is added outside of it.
    ratio = ORPOTrainer.odds_ratio_loss(
        SimpleNamespace(beta=0.1, accelerator=ACCELERATOR), *[m.detach() for m in means]
    )[0]
    got = losses.orpo(sums[:B].astype(np.float32), sums[B:].astype(np.float32), n[:B], n[B:], 0.1)
    np.testing.assert_allclose(got.numpy(), -(sums / n)[:B] - ratio.numpy(), rtol=2e-6, atol=2e-6)


def test_kto():
    from trl.trainer.kto_trainer import KTOTrainer

    logps, reference, mask = answers(60)
    label = np.arange(2 * B) % 3 != 0
    found = torch.tensor(logps, requires_grad=True)
    kl_policy, kl_reference = np.array([-3.0, -5.0, -1.0]), np.array([-4.0, -5.5, -1.2])
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, precompute_ref_logps=True,
        calculate_KL=True, loss_type="kto", beta=0.3, desirable_weight=1.2, undesirable_weight=0.7, _tp_size=1,
        _total_train_tokens=0, _metrics={"train": defaultdict(list)},
        _compute_kl_logps=lambda model, batch: torch.tensor(kl_policy),
    )  # fmt: skip
    outputs = SimpleNamespace(
        log_probs=found, entropy=torch.zeros(logps.shape), mean_logits=torch.zeros(logps.shape),
        is_top1=torch.zeros(logps.shape, dtype=torch.bool),
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.long),
        "attention_mask": torch.ones(mask.shape, dtype=torch.long),
        "completion_mask": torch.tensor(mask),
        "label": torch.tensor(label),
        "ref_logps": torch.tensor(reference),
        "ref_KL_logps": torch.tensor(kl_reference),
    }
    wanted = KTOTrainer._compute_loss(stub, lambda **_: outputs, inputs, False)
    wanted.backward()
    sums = tensor(logps.sum(1).astype(np.float32), requires_grad=True)
    kl = float((kl_policy - kl_reference).mean())
    each = losses.kto(sums, reference, label, kl, 0.3, 1.2, 0.7)
    assert each.numpy().mean() == pytest.approx(wanted.item(), abs=1e-6)
    each.backward(np.full(2 * B, 1 / (2 * B), np.float32))
    assert_close(sums.grad.numpy()[:, None] * np.ones((1, T)), found.grad.numpy())


@pytest.mark.parametrize("margin", [False, True])
def test_reward(margin):
    from trl.trainer.reward_trainer import RewardTrainer

    rng = np.random.default_rng(70)
    rewards = torch.tensor(rng.normal(0, 2, (2 * B, 1)), requires_grad=True)
    margins = rng.normal(0, 1, B)
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, args=SimpleNamespace(center_rewards_coefficient=0.01),
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    inputs = {"attention_mask": torch.ones(2 * B, T)} | ({"margin": torch.tensor(margins)} if margin else {})
    wanted = RewardTrainer.compute_loss(stub, lambda **_: SimpleNamespace(logits=rewards), inputs)
    wanted.backward()
    flat = rewards.detach().numpy()[:, 0].astype(np.float32)
    chosen, rejected = tensor(flat[:B], requires_grad=True), tensor(flat[B:], requires_grad=True)
    each = losses.reward(chosen, rejected, margins if margin else 0.0, 0.01)
    assert each.numpy().mean() == pytest.approx(wanted.item(), abs=1e-6)
    each.backward(np.full(B, 1 / B, np.float32))
    assert_close(np.concatenate([chosen.grad.numpy(), rejected.grad.numpy()]), rewards.grad.numpy()[:, 0])
    figures = stub._metrics["train"]
    assert figures["accuracy"][0] == pytest.approx((flat[:B] > flat[B:]).mean())
    assert figures["margin"][0] == pytest.approx((flat[:B] - flat[B:]).mean(), abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.2])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo"])
def test_grpo(loss_type, beta):
    from trl.trainer.grpo_trainer import GRPOTrainer

    rng = np.random.default_rng(80)
    mask = (np.arange(T)[None] < rng.integers(1, T + 1, B)[:, None]).astype(np.int64)
    logps = -np.abs(rng.normal(0, 1, (B, T)))
    old, reference = logps + rng.normal(0, 0.3, (2, B, T))
    advantages = rng.normal(0, 1, B)
    found = torch.tensor(logps, requires_grad=True)
    high = 5.0 if loss_type == "cispo" else 0.28
    stub = SimpleNamespace(
        model=SimpleNamespace(training=True), accelerator=ACCELERATOR, aux_loss_enabled=False, top_entropy_quantile=1.0,
        off_policy_mask_threshold=None, beta=beta, epsilon_low=0.2, epsilon_high=high, use_vllm=False,
        loss_type="grpo" if loss_type == "gspo" else loss_type,
        importance_sampling_level="sequence" if loss_type == "gspo" else "token",
        current_gradient_accumulation_steps=1, max_completion_length=12, _entropy_bonus_enabled=False,
        args=SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *a, **k: (found, torch.zeros(B, T), None),
    )  # fmt: skip
    inputs = {
        "prompt_ids": torch.zeros(B, 2, dtype=torch.long),
        "prompt_mask": torch.ones(B, 2, dtype=torch.long),
        "completion_ids": torch.zeros(B, T, dtype=torch.long),
        "completion_mask": torch.tensor(mask),
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": torch.tensor(old),
        "ref_per_token_logps": torch.tensor(reference),
        "num_items_in_batch": torch.tensor(float(mask.sum())),
    }
    wanted = GRPOTrainer._compute_loss(stub, None, inputs)
    wanted.backward()
    ours = tensor(logps.astype(np.float32), requires_grad=True)
    got = losses.grpo(ours, old, advantages, mask, loss_type, 0.2, high, beta, reference, max_tokens=12)
    assert got.item() == pytest.approx(wanted.item(), abs=1e-6)
    got.backward()
    assert_close(ours.grad.numpy(), found.grad.numpy())
