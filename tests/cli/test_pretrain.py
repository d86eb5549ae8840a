"""`llmcore pretrain` and `llmcore demo`."""

import json
import resource
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest

from llmcore import data
from llmcore.demo import measure, second_half
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


def assert_whole(page):
    """Every element that is opened is closed, in its order."""
    opened = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "br"):
                opened.append(tag)

        def handle_startendtag(self, tag, attrs):
            pass

        def handle_endtag(self, tag):
            assert opened.pop() == tag

    Reader().feed(page)
    assert opened == []


def tenth_of(rows):
    return lambda: rows()[::10]


def test_demo(run, monkeypatch):
    """Every stage of it on a part of the text and of the questions, in a few steps."""
    words = "the function returns a list of strings if all characters are digits and raises an error otherwise"
    words = words.split()
    documents = [" ".join(words[(i * j) % len(words)] for j in range(1, 60)).encode() for i in range(1, 80)]
    corpus = data.Corpus("python-docs", documents[8:], documents[:8])
    monkeypatch.setattr(data, "read_corpus", lambda *_: corpus)
    for module in (second_half, measure):
        for name in ("python_qa", "python_qa_pairs"):
            monkeypatch.setattr(module, name, tenth_of(getattr(module, name)))
    measured = []
    monkeypatch.setattr(second_half, "measure", lambda *of: measured.append(measure.measure(*of)) or measured[-1])
    code, out, err = run("demo", "--steps", "3", "--out", "shown", "--quick")
    assert (code, err) == (0, "")
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 81
    for part in ("1. Text becomes tokens", "2. Pretraining", "3. What it learned", "4. From probabilities to text",
                 "5. Fine-tuning", "6. Preferences", "7. Reinforcement", "8. What each stage changed"):  # fmt: skip
        assert part in out
    assert [line.split()[0] for line in out.splitlines() if line.startswith((" base ", " sft ", " dpo ", " grpo "))] == [
        "base", "sft", "dpo", "grpo"
    ]  # fmt: skip
    for stage in ("sft", "dpo", "grpo"):
        assert load(Path("shown") / stage).chat_template is not None
    page = Path("shown/report.html").read_text()
    assert_whole(page)
    assert all(
        title in page for title in ("after fine-tuning", "after preferences", "after rewards", "temperature 1.5")
    )
    assert "http" not in page.replace("http.", "")  # nothing from elsewhere
    for name, bits in data.compressed_bits_per_byte(b"".join(corpus.validation)).items():
        line = next(line for line in out.splitlines() if line.startswith(name))
        assert line.endswith(f" {bits:.3f}")
    assert "A run this short does not beat gzip yet; the full demo, without --quick, usually does." in " ".join(
        out.split()
    )
    final = json.loads(Path("shown/log.jsonl").read_text().splitlines()[-1])
    assert next(line for line in out.splitlines() if line.startswith("this model")).endswith(f" {final['val/bpb']:.3f}")
    assert "temperature 0.2" in out
    assert out.count("• ") == 3
    suggestion = out.split("Ask them yourself:\n")[1].splitlines()[0].split()
    assert suggestion[:2] == ["llmcore", "next"]
    assert run("next", "The function", "--temperature", "0.2", "0.7", "1.5")[0] == 0
    # It replaces its own directory, and can choose the number of steps. What it measures was seen above.
    monkeypatch.setattr(second_half, "measure", lambda *_: measured[-1])
    code, out, _ = run("demo", "--quick", "--minutes", "0.02", "--out", "shown", "--seed", "1")
    assert code == 0
    assert "Ask them yourself" in out
