"""Unknown names of arguments, settings and flags: an error that says what is likely to be meant."""

import pytest

import llmcore
from llmcore import train
from llmcore._names import ELSEWHERE, meant
from llmcore.errors import Error
from llmcore.generate import completion
from llmcore.generate.engine.params import SamplingParams
from support.last_token_model import last_token_model

CONFIGS = [train.PretrainConfig, train.SFTConfig, train.DPOConfig, train.KTOConfig, train.RewardConfig,
           train.GRPOConfig, train.PPOConfig]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("temprature", "temperature"), ("topk", "top_k"), ("TopP", "top_p"), ("max_new_tokens", "max_tokens"),
        ("max_length", "max_tokens"), ("num_return_sequences", "n"), ("repeat_penalty", "repetition_penalty"),
        ("stop_strings", "stop"), ("maxtokens", "max_tokens"), ("num_beam", "beams"),
    ],
)  # fmt: skip
def test_of_generation(name, right):
    lm = last_token_model({"a": "b"})
    for call in (lm.generate, lm.stream):
        with pytest.raises(TypeError, match=rf"\[generate\] .* got '{name}' \(did you mean '{right}'\?\)"):
            call("a", **{name: 1})


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("learning_rate", "lr"), ("lerning_rate", "lr"), ("lora_r", "lora_rank"), ("num_train_epochs", "epochs"),
        ("output_dir", "out"), ("batchsize", "batch_size"), ("max_seq_length", "context"), ("epoch", "epochs"),
    ],
)  # fmt: skip
def test_of_settings(name, right):
    for make in (lambda values: train.SFTConfig(**values), train.SFTConfig.from_mapping):
        with pytest.raises(Error, match=rf"a setting of SFTConfig .* got '{name}' \(did you mean '{right}'\?\)"):
            make({name: 1})


def test_of_loading(tmp_path):
    with pytest.raises(TypeError, match=r"\[load\] .* got 'dtpye' \(did you mean 'dtype'\?\)"):
        llmcore.load(tmp_path, dtpye="float32")


def test_nothing_is_suggested_for_what_is_far():
    assert meant("frobnicate", ["temperature", "top_k"]) is None
    with pytest.raises(TypeError, match=r"got 'frobnicate'$"):
        SamplingParams(frobnicate=1)


def test_names_from_elsewhere_lead_somewhere():
    fields = set().union(*(c.__dataclass_fields__ for c in (*CONFIGS, SamplingParams, completion.GenerateOptions)))
    known = fields | {"dtype"}
    assert [names for names in ELSEWHERE.values() if not known & set(names.split())] == []
