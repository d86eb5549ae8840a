"""`llmcore pretrain`: flags and YAML, resuming, and what can go wrong."""

import json
import resource
import shutil
from pathlib import Path

import pytest

from llmcore.generate import load
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint

SMALL = [
    "--vocab-size",
    "280",
    "--context",
    "16",
    "--layers",
    "1",
    "--width",
    "32",
    "--heads",
    "2",
    "--batch-size",
    "2",
]
SMALL += ["--steps", "6", "--save-every", "2", "--data", "text.txt"]


@pytest.fixture(autouse=True)
def written(corpus_text):
    Path("text.txt").write_text(corpus_text)


def stored(run="run"):
    return load_checkpoint(latest_checkpoint(run))[1]["config"]


def test_trains_and_says_what_to_type_next(run):
    code, out, err = run("pretrain", *SMALL)
    assert code == 0
    assert "saved a model of" in out
    assert "in run" in out
    suggestion = out.split("next: llmcore ")[1].strip()
    assert suggestion.startswith("next ")
    assert "step 6: held-out loss" in err
    assert "\x1b" not in err
    assert load("run").config.width == 32
    code, out, err = run("next", "The", "--temperature", "0.2", "0.7", "1.5")
    assert (code, err) == (0, "")


def test_quiet(run):
    assert run("pretrain", *SMALL, "--quiet") == (0, "", "")


def test_flags_win_over_yaml(run):
    Path("config.yaml").write_text("lr: 1e-4\nbatch-size: 3\nweight_decay: 0\nsample_prompts: [one, two]\n")
    assert run("pretrain", "--config", "config.yaml", *SMALL, "--lr", "2e-3", "-q")[0] == 0
    config = stored()
    assert (config["lr"], config["batch_size"], config["weight_decay"]) == (2e-3, 2, 0.0)
    assert config["sample_prompts"] == ["one", "two"]


def test_several_sources(run, corpus_text):
    Path("more.txt").write_text(corpus_text.upper())
    assert run("pretrain", *SMALL, "--data", "more.txt", "--sample-prompts", "a", "--sample-prompts", "b", "-q")[0] == 0
    assert stored()["data"] == ["text.txt", "more.txt"]
    assert stored()["sample_prompts"] == ["a", "b"]


def test_a_run_is_kept_unless_told_otherwise(run):
    assert run("pretrain", *SMALL, "-q")[0] == 0
    before = Path("run/model.safetensors").read_bytes()
    code, out, err = run("pretrain", *SMALL, "--seed", "1", "-q")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "--resume" in err
    assert "--overwrite" in err
    assert Path("run/model.safetensors").read_bytes() == before
    assert run("pretrain", *SMALL, "--seed", "1", "--overwrite", "-q")[0] == 0
    assert Path("run/model.safetensors").read_bytes() != before


def test_resume_needs_no_other_flag(run):
    assert run("pretrain", *SMALL, "--out", "whole", "-q")[0] == 0
    shutil.copytree("whole", "cut")
    shutil.rmtree("cut/checkpoints/step-00000006")
    Path("cut/model.safetensors").unlink()
    code, _, err = run("pretrain", "--resume", "--out", "cut")
    assert code == 0
    assert "resuming cut at step 4 of 6" in err
    assert Path("cut/model.safetensors").read_bytes() == Path("whole/model.safetensors").read_bytes()
    assert [json.loads(line)["step"] for line in Path("cut/log.jsonl").read_text().splitlines()] == [1, 2, 3, 4, 5, 6]


def test_resume_with_other_settings_is_refused_by_name(run):
    assert run("pretrain", *SMALL, "-q")[0] == 0
    code, _, err = run("pretrain", "--resume", "--lr", "0.5", "--threads", "1")
    assert code == 2
    assert err.splitlines()[-1].startswith("error: expected lr 0.002 as in run/checkpoints/step-00000006, got 0.5: ")


def test_resume_passes_a_broken_checkpoint(run):
    assert run("pretrain", *SMALL, "-q")[0] == 0
    path = Path("run/checkpoints/step-00000006/tensors.safetensors")
    path.write_bytes(path.read_bytes()[:-4])
    code, _, err = run("pretrain", "--resume")
    assert code == 0
    assert "falling back to step-00000004" in " ".join(err.split())
    path.write_bytes(path.read_bytes()[:-4])
    path = Path("run/checkpoints/step-00000004/state.json")
    path.write_text("{")
    code, _, err = run("pretrain", "--resume")
    assert (code, err.count("\n")) == (2, 1)
    assert "damaged" in err


def test_full_disk_is_one_line_exit_1_and_loses_nothing(run, shell):
    """A limit on the size of files stands in for the disk."""
    assert run("pretrain", *SMALL, "-q")[0] == 0
    shutil.rmtree("run/checkpoints/step-00000006")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    size = Path("run/checkpoints/step-00000004/tensors.safetensors").stat().st_size
    assert size > 100_000
    done = shell("pretrain", "--resume", "-q", preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert "cannot save run/checkpoints/step-00000006" in done.stderr.decode()
    assert "earlier checkpoints are untouched" in done.stderr.decode()
    load_checkpoint("run/checkpoints/step-00000004")
    assert run("pretrain", "--resume", "-q") == (0, "", "")


def test_diverging_is_exit_1(run):
    code, _, err = run("pretrain", *SMALL, "--lr", "1e30", "--warmup", "0", "-q")
    assert (code, err.count("\n")) == (1, 1)
    assert "try a lower --lr" in err
