"""Every program of this folder runs without a GPU, with little work, on llmcore's and torch's CPU."""

import json
import shutil
import subprocess

import pytest

from benchmarks.harness.process import ROOT, command

CPU = ("--tiny", "--device", "cpu")


def test_run(tmp_path):
    pytest.importorskip("torch")
    result = tmp_path / "rows.json"
    subprocess.run(command("benchmarks.gpu.run", *CPU, "--json", result), check=True, cwd=ROOT)
    assert {row["status"] for row in json.loads(result.read_text())["rows"]} == {"done"}


def test_torch_models():
    pytest.importorskip("torch")
    subprocess.run(command("benchmarks.gpu.torch_models", *CPU), check=True, cwd=ROOT)


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="it would run everything")
def test_the_script_says_what_did_not_run(tmp_path):
    done = subprocess.run(["benchmarks/gpu.sh", str(tmp_path)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1
    assert "nvidia-smi finds no GPU" in (tmp_path / "gpu.md").read_text(), done.stderr
