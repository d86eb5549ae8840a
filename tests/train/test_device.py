"""Training on the GPU beside the CPU: it learns the same, and goes on bit for bit where it was killed."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmcore import _device
from llmcore.train import PretrainConfig, Report, pretrain
from llmcore.train.checkpoint import latest_checkpoint
from support.runs import assert_same_weights

# host: every test says itself what runs where.
pytestmark = [pytest.mark.gpu, pytest.mark.slow, pytest.mark.host]

# Of the loss at every step. Instruction sets of one CPU are 2e-7 apart after 300 updates in float32, 0.2% in bfloat16.
AGREEMENT = 0.005


@pytest.fixture(scope="module", autouse=True)
def gpu():
    try:
        _device.checked("cuda")
    except RuntimeError as error:
        pytest.skip(str(error))


def config(out, device, **values):
    settings = {"data": "python-docs", "vocab_size": 512, "context": 64, "layers": 2, "width": 64, "heads": 4,
                "batch_size": 8, "warmup": 20, "eval_every": 0, "sample_every": 0, "save_every": 0, "seed": 1}  # fmt: skip
    return PretrainConfig(out=str(out), device=device, **settings | values)


def losses(out):
    return [json.loads(line)["train/loss"] for line in Path(out, "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("architecture", "dtype"), [("gpt2", "float32"), ("gpt2", "bfloat16"), ("llama", "bfloat16"), ("llama", "float32")]
)
def test_learns_what_the_cpu_learns(tmp_path, architecture, dtype):
    for device in ("cpu", "cuda"):
        run = config(tmp_path / device, device, steps=300, architecture=architecture, dtype=dtype)
        lm = pretrain(run, report=Report())
        assert {p.device for p in lm.model.parameters()} == {device}
    on_cpu, on_gpu = losses(tmp_path / "cpu"), losses(tmp_path / "cuda")
    assert len(on_cpu) == len(on_gpu) == 300
    assert on_cpu[-1] < 0.75 * on_cpu[0]
    apart = max(abs(a - b) / b for a, b in zip(on_gpu, on_cpu, strict=True))
    assert apart < AGREEMENT, f"losses are {apart:.2%} apart"


KILLED = """
import json, os, sys
from llmcore.train import PretrainConfig, Report, pretrain

class Killed(Report):
    def update(self, row):
        if row["step"] == 17:
            os.kill(os.getpid(), 9)

pretrain(PretrainConfig(**json.loads(sys.argv[1])), report=Killed())
"""


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
def test_killed_on_the_gpu_continues_bitwise(tmp_path, architecture):
    values = {"steps": 30, "save_every": 7, "accumulation": 2, "batch_size": 4, "architecture": architecture}
    pretrain(config(tmp_path / "straight", "cuda", **values), report=Report())
    killed = config(tmp_path / "killed", "cuda", **values)
    command = [sys.executable, "-c", KILLED, json.dumps(vars(killed))]
    assert subprocess.run(command, capture_output=True, timeout=120).returncode == -signal.SIGKILL
    assert latest_checkpoint(killed.out).name in ("step-00000007", "step-00000014")
    pretrain(killed, resume=True, report=Report())
    assert_same_weights(tmp_path / "straight", tmp_path / "killed")
    assert losses(tmp_path / "straight") == losses(tmp_path / "killed")
