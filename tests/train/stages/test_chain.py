"""Stages one after another, with adapters on adapters: what one taught, the next keeps, for every stage; the model that it is
compared with is the one that it began with; resuming; bases that were moved or replaced."""

import itertools
import json
import shutil

import numpy as np
import pytest

from llmcore import train
from llmcore.formats import safetensors
from llmcore.generate import load
from llmcore.generate.reward_model import RewardModel
from llmcore.models import adapter_files
from llmcore.train import Report
from support.chat_models import FACTS, QUESTIONS
from support.runs import StopsAt, log_of

CONFIGS = {"sft": train.SFTConfig, "dpo": train.DPOConfig, "kto": train.KTOConfig, "reward": train.RewardConfig,
           "grpo": train.GRPOConfig, "ppo": train.PPOConfig}  # fmt: skip
IDS = np.random.default_rng(0).integers(1, 300, (2, 20))


def ones(prompts, completions, **columns):
    return [float(len(c)) for c in completions]


class Notes(Report):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture(scope="session")
def rows(facts, pairs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rows")
    labelled = [{"prompt": q, "completion": f"yes it is {q[8]}", "label": i % 2 == 0} for i, q in enumerate(QUESTIONS)]
    (folder / "kto.jsonl").write_text("".join(json.dumps(r) + "\n" for r in labelled))
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": q}) + "\n" for q, _ in FACTS[:4]))
    prompts = folder / "prompts.jsonl"
    return {"sft": facts, "dpo": pairs, "kto": folder / "kto.jsonl", "reward": pairs, "grpo": prompts, "ppo": prompts}


def run(stage, model, rows, out, report=None, resume=False, **values):
    """One stage with adapters; lr: 0 leaves what it began with as it is (nearly)."""
    own = {"max_tokens": 4, "group": 2} if stage == "grpo" else {"max_tokens": 4} if stage == "ppo" else {}
    settings = {"steps": 2, "batch_size": 4, "context": 90, "lr": 1e-2, "warmup": 0, "dtype": "float32", "lora_rank": 4,
                "validation_fraction": 0.0, "eval_every": 0, "sample_every": 0, "save_every": 0, **own, **values}  # fmt: skip
    more = {"rewards": {"ones": ones}} if stage in ("grpo", "ppo") else {}
    config = CONFIGS[stage](model=str(model), data=str(rows[stage]), out=str(out), **settings)
    return getattr(train, stage)(config, report=report or Report(), resume=resume, overwrite=not resume, **more)


def logits(folder):
    return load(folder, "float32").model(IDS).numpy()


@pytest.fixture(scope="session")
def taught(base, rows, tmp_path_factory):
    """The result of each stage, with adapters."""
    folder = tmp_path_factory.mktemp("taught")
    for stage in CONFIGS:
        run(stage, base, rows, folder / stage)
    return folder


@pytest.mark.parametrize(
    ("first", "second"), [("sft", s) for s in CONFIGS] + [(s, "sft") for s in CONFIGS if s != "sft"]
)
def test_what_a_stage_taught_is_kept(base, taught, rows, tmp_path, first, second):
    before, after = logits(base), logits(taught / first)
    assert np.abs(after - before).max() > 1e-3
    report = Notes()
    run(second, taught / first, rows, tmp_path / "second", report, steps=1, lr=1e-9, lora_rank=3, lora_alpha=5.0)
    np.testing.assert_allclose(logits(tmp_path / "second"), after, atol=1e-5)
    merged = load(tmp_path / "second", "float32").merged()
    np.testing.assert_allclose(merged.model(IDS).numpy(), after, atol=1e-4)
    if "reward" in (first, second):  # a reward model is saved whole
        return
    assert any("is kept, frozen" in note for note in report.notes)
    tensors = safetensors.load_file(tmp_path / "second" / adapter_files.WEIGHTS)[0]
    assert {len(t) for n, t in tensors.items() if n.endswith("lora_A.weight")} == {7}
    assert load(tmp_path / "second").model.runs == (f"{first}: rank 4", f"{second}: rank 3")


def test_three_runs_with_other_layers_each(base, rows, tmp_path):
    """What is saved is what was in memory, and the sum of what each run added."""
    run("sft", base, rows, tmp_path / "1", lora_targets=["q_proj", "down_proj"])
    run("dpo", tmp_path / "1", rows, tmp_path / "2", lora_rank=2, lora_targets=["q_proj", "up_proj"], lora_rslora=True)
    lm = run(
        "sft",
        tmp_path / "2",
        rows,
        tmp_path / "3",
        lora_targets=["k_proj"],
        lora_modules_to_save=["norm"],
        lora_dora=True,
    )
    np.testing.assert_allclose(logits(tmp_path / "3"), lm.model(IDS).numpy(), atol=1e-6)  # the runs are added in one go
    weight = "model.layers.0.{}_proj.weight".format
    whole = [
        dict(load(f, "float32").merged().model.to_hf()) for f in (base, tmp_path / "1", tmp_path / "2", tmp_path / "3")
    ]
    for name, changed in (("mlp.gate", [0, 0, 0]), ("self_attn.q", [1, 1, 0]), ("mlp.down", [1, 0, 0]),
                          ("mlp.up", [0, 1, 0]), ("self_attn.k", [0, 0, 1])):  # fmt: skip
        steps = [np.abs(b[weight(name)] - a[weight(name)]).max() for a, b in itertools.pairwise(whole)]
        assert [s > 1e-4 for s in steps] == [bool(c) for c in changed], (name, steps)
        assert all(s < 1e-6 for s, c in zip(steps, changed, strict=True) if not c), (name, steps)
    assert load(tmp_path / "3").model.runs == ("sft: rank 4", "dpo: rank 2, rsLoRA", "sft: rank 4, DoRA, whole norm")


@pytest.mark.parametrize(("stage", "figure"), [("dpo", "rewards/margins"), ("ppo", "objective/kl"), ("grpo", "kl")])
def test_the_reference_is_the_model_at_the_beginning(taught, rows, tmp_path, stage, figure):
    """At the first update the policy is the reference, the earlier adapter included."""
    more = {"beta": 0.1} if stage == "grpo" else {}
    run(stage, taught / "sft", rows, tmp_path / "run", steps=1, lora_modules_to_save=["norm"], **more)
    assert log_of(tmp_path / "run")[0][figure] == pytest.approx(0, abs=1e-5)


def test_all_weights_on_an_adapter(taught, rows, tmp_path):
    after = logits(taught / "sft")
    run("dpo", taught / "sft", rows, tmp_path / "run", steps=1, lr=1e-9, lora_rank=0)
    assert not (tmp_path / "run" / adapter_files.WEIGHTS).exists()
    np.testing.assert_allclose(logits(tmp_path / "run"), after, atol=1e-4)


def test_a_second_run_on_a_quantized_base_goes_on_bit_for_bit(base, rows, tmp_path):
    load(base).save(tmp_path / "base.gguf", "Q4_1")
    options = {"quantize": "stored", "lora_dropout": 0.2, "save_every": 2, "steps": 6}
    run("sft", tmp_path / "base.gguf", rows, tmp_path / "first", **options)
    options |= {"lora_dora": True, "lora_modules_to_save": ["lm_head"], "accumulation": 2, "batch_size": 2}
    run("dpo", tmp_path / "first", rows, tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        run("dpo", tmp_path / "first", rows, tmp_path / "stopped", StopsAt(4), **options)
    run("dpo", tmp_path / "first", rows, tmp_path / "stopped", resume=True, **options)
    whole, stopped = (safetensors.load_file(tmp_path / n / adapter_files.WEIGHTS)[0] for n in ("whole", "stopped"))
    for name, values in whole.items():
        assert values.tobytes() == stopped[name].tobytes(), name
    lm = load(tmp_path / "whole")
    assert lm.source.name == "base.gguf"
    assert lm.model.blocks[0].attention.out.weight.quantized is not None


def test_a_run_does_not_go_on_on_another_beginning(base, rows, tmp_path):
    run("sft", base, rows, tmp_path / "first")
    with pytest.raises(KeyboardInterrupt):
        run("sft", tmp_path / "first", rows, tmp_path / "second", StopsAt(2), steps=4, save_every=1)
    run("sft", base, rows, tmp_path / "first", steps=3)
    with pytest.raises(ValueError, match="the starting model changed"):
        run("sft", tmp_path / "first", rows, tmp_path / "second", resume=True, steps=4, save_every=1)


def test_a_reward_model_goes_on_with_its_scores(taught, rows, tmp_path):
    question, answer = QUESTIONS[0], f"yes it is {QUESTIONS[0][8]}"
    before = RewardModel.load(taught / "reward", "float32").score(question, answer)
    run("reward", taught / "reward", rows, tmp_path / "again", steps=1, lr=1e-9)
    after = RewardModel.load(tmp_path / "again", "float32").score(question, answer)
    assert after == pytest.approx(before, abs=1e-4)


def test_pretraining_goes_on_from_an_adapter(taught, rows, tmp_path):
    """The result is a whole model, which the next stage begins with."""
    after, text = logits(taught / "sft"), tmp_path / "text.txt"
    text.write_text("the rain in Spain stays mainly in the plain. " * 200)
    settings = {"steps": 1, "lr": 1e-12, "context": 64, "batch_size": 2, "dtype": "float32", "sample_every": 0}
    config = train.PretrainConfig(
        model=str(taught / "sft"), data=str(text), out=str(tmp_path / "continued"), **settings
    )
    train.pretrain(config, report=Report())
    np.testing.assert_allclose(logits(tmp_path / "continued"), after, atol=1e-4)
    run("dpo", tmp_path / "continued", rows, tmp_path / "dpo", steps=1, lr=1e-9)
    np.testing.assert_allclose(logits(tmp_path / "dpo"), after, atol=1e-4)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True, "modules_to_save": ["score"]}])
def test_reward_adapters_of_peft(base, rows, tmp_path, options):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1).float()
    model.config.pad_token_id = 0
    config = peft.LoraConfig(r=4, task_type="SEQ_CLS", target_modules=["q_proj"], init_lora_weights=False, **options)
    theirs = peft.get_peft_model(model, config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    wanted = theirs(torch.tensor(IDS[:1])).logits.detach().numpy()
    ours = RewardModel.load(tmp_path / "theirs", "float32")
    np.testing.assert_allclose(ours.forward([IDS[0]]).numpy(), wanted[0], rtol=1e-4)
    run("reward", tmp_path / "theirs", rows, tmp_path / "again", steps=1, lr=1e-9)
    again = RewardModel.load(tmp_path / "again", "float32")
    np.testing.assert_allclose(again.forward([IDS[0]]).numpy(), wanted[0], rtol=1e-3)


def test_where_the_base_is(base, rows, tmp_path):
    def begin(name):
        shutil.copytree(base, tmp_path / name / "base")
        run("sft", tmp_path / name / "base", rows, tmp_path / name / "runs" / "adapter", steps=1)
        return tmp_path / name

    one = begin("one")
    wanted = logits(one / "runs" / "adapter")
    moved = one.rename(tmp_path / "moved")  # all of it together
    np.testing.assert_array_equal(logits(moved / "runs" / "adapter"), wanted)
    assert any("the base of the adapter is read from" in note for note in load(moved / "runs" / "adapter").notes)
    (moved / "base").rename(moved / "runs" / "base")  # beside the adapter
    np.testing.assert_array_equal(logits(moved / "runs" / "adapter"), wanted)
    (moved / "runs" / "base").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError) as error:
        load(moved / "runs" / "adapter")
    for part in (str(one / "base"), str(moved / "runs" / "base"), "base_model_name_or_path"):
        assert part in str(error.value)
    assert "\n" not in str(error.value)

    two = begin("two")
    shutil.copytree(base, two / "old")
    run("sft", two / "old", rows, two / "base", steps=1, lora_rank=0)
    with pytest.raises(ValueError, match=r"expected the base that the adapter was trained on .* whose weights differ"):
        load(two / "runs" / "adapter")
    other = load(two / "base", "float32").with_adapter(two / "runs" / "adapter")
    assert any("was trained on another base" in note for note in other.notes)
    path = two / "runs" / "adapter" / adapter_files.WEIGHTS
    safetensors.save_file({n: np.array(t) for n, t in safetensors.load_file(path)[0].items()}, path, {"format": "pt"})
    assert load(two / "runs" / "adapter").notes == ()  # an adapter that says nothing of its base, as others write them
