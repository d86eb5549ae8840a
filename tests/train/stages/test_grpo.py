"""Group relative policy optimisation: the better arm is found, accumulation, resuming, rewards that fail, the figures."""

import json
import sys

import numpy as np
import pytest

from llmcore.errors import CorpusError
from llmcore.generate import load
from llmcore.train import GRPOConfig, Report, SFTConfig, grpo, sft
from llmcore.train.stages.grpo import GRPOStage
from llmcore.train.stages.rewards import BUILT_IN, Rewards, open_rewards
from support.chat_models import save_chat_model
from support.runs import StopsAt, assert_same_weights, log_of

ARMS = ("left", "right")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A model that answers left or right, as often."""
    folder = tmp_path_factory.mktemp("base")
    texts = ["Which way? left right user assistant\n"] * 9
    save_chat_model(folder / "raw", texts, 300, context=64, kv_heads=2)
    data = folder / "data.jsonl"
    rows = [{"prompt": f"Which way? {i % 4}", "completion": ARMS[i // 4 % 2]} for i in range(64)]
    data.write_text("".join(json.dumps(r) + "\n" for r in rows))
    sft(SFTConfig(model=str(folder / "raw"), data=str(data), out=str(folder / "able"), steps=150, epochs=0.0, lr=5e-3,
                  batch_size=16, context=60, validation_fraction=0.0, eval_every=0, sample_every=0, save_every=0,
                  dtype="float32"), report=Report())  # fmt: skip
    return folder / "able"


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": f"Which way? {i}", "good": ARMS[0]}) + "\n" for i in range(4)))
    return path


def better(prompts, completions, good, **columns):
    assert len(prompts) == len(completions) == len(good)
    return [float(c == g) for c, g in zip(completions, good, strict=True)]


def config(base, prompts, out, **values):
    settings = {"steps": 6, "epochs": 0.0, "save_every": 2, "eval_every": 0, "sample_every": 0, "batch_size": 8,
                "accumulation": 2, "group": 8, "context": 60, "max_tokens": 6, "lr": 2e-3, "warmup": 0,
                "dtype": "float32", "validation_fraction": 0.0, **values}  # fmt: skip
    return GRPOConfig(model=str(base), data=str(prompts), out=str(out), **settings)


def test_both_arms_are_likely_at_first(base):
    lm = load(base, "float32")
    prompts = [lm.chat_prompt([{"role": "user", "content": f"Which way? {i}"}]) for i in range(4)] * 64
    answers = [str(c) for c in lm.generate(prompts, 6, temperature=1.0, seed=0)]
    assert 0.2 < np.mean([a == ARMS[0] for a in answers]) < 0.8


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo"])
def test_it_reaches_the_better_arm(base, prompts, tmp_path, loss_type):
    lm = grpo(config(base, prompts, tmp_path / "run", steps=60, loss_type=loss_type, save_every=0), report=Report(),
              rewards={"better": better})  # fmt: skip
    assert np.mean([row["reward"] for row in log_of(tmp_path / "run")[-10:]]) > 0.9  # of 160 answers
    done = lm.chat([{"role": "user", "content": "Which way? 2"}], 6, temperature=0)
    assert done.text == "left"
    assert done.finish_reason == "stop"


def test_what_training_and_the_engine_think_of_answers_agrees(base, prompts, tmp_path):
    grpo(config(base, prompts, tmp_path / "run"), report=Report(), rewards={"better": better})
    for row in log_of(tmp_path / "run"):
        assert row["sampling/sampling_logp_difference/max"] < 1e-4
        assert row["clip_ratio/region_mean"] == 0.0  # of a policy that is the one that wrote


def test_a_policy_that_stays_near_its_reference(base, prompts, tmp_path):
    ends = {}
    for beta in (0.0, 5.0):
        options = {"steps": 15, "save_every": 0, "beta": beta}
        grpo(config(base, prompts, tmp_path / f"{beta}", **options), report=Report(), rewards={"better": better})
        ends[beta] = log_of(tmp_path / f"{beta}")
    assert ends[5.0][0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert 0 < ends[5.0][-1]["kl"] < 0.2
    assert ends[5.0][-1]["reward"] < ends[0.0][-1]["reward"]


@pytest.mark.parametrize(("updates", "lora"), [(1, 0), (3, 0), (2, 4)])
def test_a_stopped_run_goes_on_bit_for_bit(base, prompts, tmp_path, updates, lora):
    options = {"updates": updates, "beta": 0.1, "lora_rank": lora, "save_every": 4}

    def run(out, **how):
        return grpo(config(base, prompts, out, **options), rewards={"better": better}, **{"report": Report(), **how})

    run(tmp_path / "straight")

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", report=StopsAt(5))
    run(tmp_path / "stopped", resume=True)
    if lora:
        names = [tmp_path / n / "adapter_model.safetensors" for n in ("straight", "stopped")]
        assert names[0].read_bytes() == names[1].read_bytes()
    else:
        assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dapo", "dr_grpo", "cispo", "gspo"])
def test_eight_at_once_are_eight_one_by_one(base, prompts, tmp_path, loss_type):
    for name, rows in (("a", 8), ("b", 1)):
        options = {"batch_size": rows, "accumulation": 8 // rows, "group": 4, "updates": 2, "steps": 4}
        grpo(config(base, prompts, tmp_path / name, loss_type=loss_type, beta=0.1, **options), report=Report(),
             rewards={"better": better})  # fmt: skip
    a, b = (load(tmp_path / n, "float32").model.state_dict() for n in "ab")
    for key, w in a.items():
        np.testing.assert_allclose(b[key], w, atol=1e-4, err_msg=key)


def test_threads_change_nothing(base, prompts, tmp_path):
    for threads in (1, 2):
        grpo(
            config(base, prompts, tmp_path / f"{threads}", threads=threads), report=Report(), rewards={"better": better}
        )
    assert_same_weights(tmp_path / "1", tmp_path / "2")


def test_rewards_that_are_all_alike_are_told(base, prompts, tmp_path):
    class Hears(Report):
        def note(self, text):
            notes.append(text)

    notes = []
    before = load(base, "float32").model.state_dict()
    lm = grpo(
        config(base, prompts, tmp_path / "run"), report=Hears(), rewards={"same": lambda p, c, **_: [1.0] * len(c)}
    )
    assert log_of(tmp_path / "run")[0]["frac_reward_zero_std"] == 1.0
    assert sum("nothing to learn from" in n for n in notes) == 1
    for key, w in lm.model.state_dict().items():
        np.testing.assert_array_equal(w, before[key])


# ---- rewards ----


def failing(prompts, completions, **columns):
    raise RuntimeError("no such table")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (failing, r"\[rewards\] mine failed at answers to .*prompts.jsonl:\d: RuntimeError: no such table"),
        (lambda p, c, **_: [float("nan")] * len(c), r"mine returned nan for an answer to .*prompts.jsonl:\d: '"),
        (lambda p, c, **_: [1.0], r"\[rewards\] expected 16 rewards of mine, got 1"),
        (lambda p, c, **_: ["good"] * len(c), r"mine failed .* could not convert string to float"),
    ],
)
def test_bad_rewards_are_named(base, prompts, tmp_path, function, message):
    with pytest.raises(CorpusError, match=message) as error:
        grpo(config(base, prompts, tmp_path / "run"), report=Report(), rewards={"mine": function})
    assert "\n" not in str(error.value)


def test_bad_rewards_can_be_skipped(base, prompts, tmp_path):
    def sometimes(prompts, completions, **columns):
        return [float("nan") if i % 3 == 0 else float(c == "left") for i, c in enumerate(completions)]

    class Hears(Report):
        def warn(self, text):
            warnings.append(text)

    warnings = []
    grpo(config(base, prompts, tmp_path / "run", bad_rows="skip", steps=2), report=Hears(), rewards={"mine": sometimes})
    assert log_of(tmp_path / "run")[0]["rewards/failed"] == 6
    assert any("6 answers skipped" in w for w in warnings)


def test_weights_and_columns():
    rewards = Rewards({"a": lambda p, c, x, **_: x, "b": lambda p, c, **_: [1.0, 2.0]}, [2.0, 0.5], "error", Report())
    total, each = rewards(["p", "q"], ["c", "d"], [{"x": 3, "y": 1}, {"x": 4}], ["r1", "r2"])
    np.testing.assert_array_equal(total, [6.5, 9.0])
    np.testing.assert_array_equal(each["a"], [3, 4])
    with pytest.raises(ValueError, match="expected 2 reward_weights, one for each, got 1"):
        Rewards({"a": failing, "b": failing}, [1.0], "error", Report())


def test_built_in_rewards():
    ask = BUILT_IN["arithmetic"]
    texts = ["17 + 25 = 42.", "It is 42", "42 or 43", "none", "-42", "1,042"]
    assert list(ask(texts, texts, answer=["42"] * 5 + ["1042"])) == [1, 1, 0, 0, 0, 1]
    texts = ["x = 1", "```python\nprint(1)\n```", "Sure:\n```\nx = (\n```", "so what?", "", "```python\n```"]
    assert list(BUILT_IN["valid_python"](texts, texts)) == [1, 1, 0, 0, 0, 0]
    assert list(BUILT_IN["length"](["a"] * 3, ["one two", "one", "a b c d e"], words=[2, 2, 2])) == [1, 0.5, 0]


def test_functions_of_files(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def reward(prompts, completions, **columns):\n    return [len(c) for c in completions]\n")
    found = open_rewards([f"{file}:reward", "length"])
    assert found[f"{file}:reward"](["a"], ["four"]) == [4]
    for name, message in (
        (f"{file}:other", r"\[rewards\] expected a function other in .*mine.py, got none"),
        ("nothing", r"\[rewards\] expected one of arithmetic, valid_python, length, FILE.py:FUNCTION"),
        (f"{tmp_path / 'no.py'}:f", r"no.py, which does not exist"),
    ):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            open_rewards([name])
    file.write_text("def (")
    with pytest.raises(ValueError, match=r"mine.py: SyntaxError"):
        open_rewards([f"{file}:reward"])
    assert "llmcore_rewards" not in sys.modules


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"group": 3}, r"expected group of at least 2 that divides batch_size \* accumulation = 16, got 3"),
        ({"loss_type": "ppo"}, "expected loss_type grpo, bnpo"),
        ({"temperature": 0.0}, "expected temperature > 0, got 0"),
        ({"max_tokens": 60}, "expected max_tokens from 1 to below context, got 60"),
        ({"reward_weights": [1, 2]}, "expected 1 reward_weights, one for each reward, got 2"),
    ],
)
def test_bad_options(base, prompts, tmp_path, values, message):
    with pytest.raises(ValueError, match=message):
        config(base, prompts, tmp_path / "run", **values)


def test_bad_prompts_are_named(base, tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a"}\n{"asked": "b"}\n' + json.dumps({"prompt": "a b " * 40}) + "\n")
    with pytest.raises(CorpusError, match=r"\[grpo\] .*p.jsonl:2: expected a prompt, .*; the columns are: asked"):
        grpo(config(base, path, tmp_path / "run"), report=Report(), rewards={"better": better})
    path.write_text(json.dumps({"prompt": "a b " * 40}) + "\n")
    with pytest.raises(CorpusError, match=r"p.jsonl:1: expected a prompt of at most 54 tokens"):
        grpo(config(base, path, tmp_path / "run"), report=Report(), rewards={"better": better})


def test_every_prompt_comes_once_in_an_epoch(base, prompts, tmp_path):
    lm = load(base, "float32")
    stage = GRPOStage(config(base, prompts, tmp_path / "x"), lm, None, Report(), {"better": better})
    seen = [t.where for number in range(2) for t in stage.train.batch(number)]
    assert len(set(seen)) == 4


def test_rewards_abstain():
    class Hears(Report):
        def warn(self, text):
            warnings.append(text)

    warnings = []
    adds, writes = [1.0, None, None, 3.0], [None, 2.0, None, -1.0]
    both = {"adds": lambda p, c, **_: adds, "writes": lambda p, c, **_: writes}
    rewards = Rewards(both, [2.0, 0.5], "error", Hears())
    total, each = rewards("abcd", "wxyz", [{}] * 4, ["f:1", "f:2", "f:3", "f:4"])
    np.testing.assert_array_equal(total, [2.0, 1.0, np.nan, 5.5])
    np.testing.assert_array_equal(each["adds"], [1.0, np.nan, np.nan, 3.0])
    assert rewards.unrewarded == 1
    rewards("abcd", "wxyz", [{}] * 4, ["f"] * 4)
    assert len(warnings) == 1
    assert "all rewards are None for 1 of 4 answers, such as one to f:3" in warnings[0]


def test_answers_without_a_reward_leave_their_group(base, prompts, tmp_path):
    def half(prompts, completions, **columns):
        return [None if i % 2 else float(i) for i in range(len(completions))]

    lm = load(base, "float32")
    stage = GRPOStage(config(base, prompts, tmp_path / "x"), lm, None, Report(), {"half": half})
    stage.batches(0)
    a = stage.experience.advantages.reshape(-1, 8)
    assert not a[:, 1::2].any()
    known = np.array([0.0, 2.0, 4.0, 6.0])
    right = (known - 3.0) / (np.std(known, ddof=1) + 1e-4)
    np.testing.assert_allclose(a[:, ::2], [right, right], rtol=1e-5)
    figures = stage.figures()
    assert (figures["rewards/none"], figures["rewards/failed"], figures["reward"]) == (8, 0, 7.0)
