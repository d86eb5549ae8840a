"""Every stage, killed with signal 9 in the middle, goes on bit for bit."""

import dataclasses
import json
import signal
import subprocess
import sys

import pytest

from llmcore import train
from llmcore.train import Report
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint

STAGES = {
    "sft": train.SFTConfig,
    "dpo": train.DPOConfig,
    "kto": train.KTOConfig,
    "reward": train.RewardConfig,
    "grpo": train.GRPOConfig,
    "ppo": train.PPOConfig,
}
KILLED = """
import json, os, sys, time
from llmcore import train
from llmcore.train.checkpoint import latest_checkpoint

class Killed(train.Report):
    def update(self, row):
        if row["step"] == 5:
            while latest_checkpoint(config["out"]) is None:  # the one of step 3 is written in the background
                time.sleep(0.01)
            os.kill(os.getpid(), 9)

stage, config = sys.argv[1], json.loads(sys.argv[2])
kind = {"sft": train.SFTConfig, "dpo": train.DPOConfig, "kto": train.KTOConfig, "reward": train.RewardConfig,
        "grpo": train.GRPOConfig, "ppo": train.PPOConfig}[stage]
getattr(train, stage)(kind(**config), report=Killed())
"""


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """What every stage can learn from."""
    written = [
        {"prompt": f"Is it {i}?", "completion": "yes", "chosen": "yes it is", "rejected": "no", "words": 2}
        for i in range(12)
    ]
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in written))
    return path


@pytest.mark.parametrize("lora_rank", [0, 2])
@pytest.mark.parametrize("stage", STAGES)
def test_killed(base, rows, tmp_path, stage, lora_rank):
    values = {"model": str(base), "data": str(rows), "steps": 8, "epochs": 0.0, "save_every": 3,
              "eval_every": 0, "sample_every": 0, "batch_size": 4, "accumulation": 2, "lr": 1e-3,
              "warmup": 1, "dtype": "float32", "lora_rank": lora_rank, "lora_dropout": 0.1 if lora_rank else 0.0,
              "validation_fraction": 0.0}  # fmt: skip
    if stage in ("grpo", "ppo"):
        values |= {"max_tokens": 8, "rewards": ["length"], "updates": 2}
    kind, run = STAGES[stage], getattr(train, stage)
    run(kind(**values, out=str(tmp_path / "straight")), report=Report())
    killed = kind(**values, out=str(tmp_path / "killed"))
    command = [sys.executable, "-c", KILLED, stage, json.dumps(dataclasses.asdict(killed))]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    run(killed, resume=True, report=Report())
    whole, other = (load_checkpoint(latest_checkpoint(tmp_path / name))[0] for name in ("straight", "killed"))
    assert whole.keys() == other.keys()
    for name, values_of in whole.items():
        assert values_of.tobytes() == other[name].tobytes(), name
