"""Reward models: what they read, that they learn, their files, resuming."""

import numpy as np
import pytest

from llmcore.generate import load
from llmcore.generate.reward_model import RewardModel
from llmcore.train import Report, RewardConfig, reward
from support.arrays import assert_repeats
from support.chat_models import QUESTIONS, save_chat_model
from support.runs import StopsAt, assert_same_weights, log_of


def config(base, pairs, out, **values):
    settings = {"steps": 8, "epochs": 0.0, "save_every": 3, "eval_every": 0, "sample_every": 0, "batch_size": 4,
                "context": 90, "lr": 3e-3, "warmup": 1, "dtype": "float32", "validation_fraction": 0.25, **values}  # fmt: skip
    return RewardConfig(model=str(base), data=str(pairs), out=str(out), **settings)


@pytest.mark.parametrize("lora_rank", [0, 4])
def test_it_learns_and_is_read_again(base, pairs, tmp_path, lora_rank):
    model = reward(config(base, pairs, tmp_path / "run", steps=40, lora_rank=lora_rank), report=Report())
    last = log_of(tmp_path / "run")[-1]
    assert last["val/accuracy"] == 1.0
    assert last["val/margin"] > 0.5
    again = RewardModel.load(tmp_path / "run", "float32")
    for q in QUESTIONS[:3]:
        good, bad = model.score(q, f"yes it is {q[8]}"), model.score(q, f"no it is not {q[8]}")
        assert good > bad
        assert again.score(q, f"yes it is {q[8]}") == pytest.approx(good, abs=1e-4)
    assert str(load(tmp_path / "run", "float32").generate("a", 2)) is not None  # it is a language model still


def test_rewards_are_those_of_the_last_token_alone_and_in_a_batch(base):
    lm = load(base, "float32")
    rng = np.random.default_rng(0)
    model = RewardModel(lm, rng.normal(0, 1, (1, 32)).astype(np.float32))
    prompts, answers = QUESTIONS[:20], [f"yes {'very ' * (i % 7)}much" for i in range(20)]
    got = model(prompts, answers)
    end = lm.end_ids[0]
    for p, a, r in zip(prompts, answers, got, strict=True):
        ids = model.ids(p, a)
        assert ids[-1] == end
        hidden = lm.model.hidden(ids[None]).numpy()[0, -1].astype(np.float64)
        assert r == pytest.approx(float(hidden @ model.head.weight.numpy()[0].astype(np.float64)), abs=1e-4)
        assert_repeats(model.score(p, a), r, np.float32)


def test_eight_at_once_are_eight_one_by_one(base, pairs, tmp_path):
    for name, rows, times in (("a", 8, 1), ("b", 1, 8)):
        reward(config(base, pairs, tmp_path / name, batch_size=rows, accumulation=times, steps=3), report=Report())
    a, b = (RewardModel.load(tmp_path / n, "float32") for n in "ab")
    for (key, w), other in zip(a.model.state_dict().items(), b.model.state_dict().values(), strict=True):
        np.testing.assert_allclose(other, w, atol=5e-5, err_msg=key)
    np.testing.assert_allclose(a.head.weight.numpy(), b.head.weight.numpy(), atol=5e-5)


def test_a_stopped_run_goes_on_bit_for_bit(base, pairs, tmp_path):
    reward(config(base, pairs, tmp_path / "straight"), report=Report())

    stopped = config(base, pairs, tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        reward(stopped, report=StopsAt(5))
    reward(stopped, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


def test_what_is_no_reward_model_is_refused(base):
    with pytest.raises(ValueError, match=r"expected a reward model with a tensor score.weight \(1, 32\), got none"):
        RewardModel.load(base)
    model = RewardModel(load(base, "float32"))
    with pytest.raises(ValueError, match=r"\[reward\] expected at most 128 tokens, got"):
        model.score("a b c " * 60, "d")


@pytest.mark.peers
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_transformers_reads_it(architecture, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    lm = load(save_chat_model(tmp_path / "base", QUESTIONS, 300, architecture), "float32")
    model = RewardModel(lm, np.random.default_rng(0).normal(0, 1, (1, 32)).astype(np.float32))
    model.save(tmp_path / "judge")
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "judge").eval()
    ids = model.ids(QUESTIONS[0], "yes it is")
    # They look for the last token that is no padding, and we pad with what ends texts: a padding id that is not there.
    theirs.config.pad_token_id = 0
    with torch.no_grad():
        wanted = theirs(torch.tensor(ids[None].astype(np.int64))).logits.item()
    assert model.score(QUESTIONS[0], "yes it is") == pytest.approx(wanted, abs=1e-3)
