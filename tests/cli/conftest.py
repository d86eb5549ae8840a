"""A tiny model with its tokenizer, and the command line run in this process or another."""

import os
import subprocess
import sys

import pytest

from llmcore import cli, models, terminal
from llmcore.generate import LanguageModel, load
from llmcore.tokenizer import Tokenizer

TEXT = "The function returns a list of strings. The list returns the function.\n" * 20


@pytest.fixture(scope="session")
def corpus_text():
    return TEXT


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory):
    tokenizer = Tokenizer.train(iter([TEXT]), 290)
    config = models.LlamaConfig(vocab_size=tokenizer.vocab_size, context=32, width=32, layers=2, heads=2)
    model = models.Llama(config, "float32", seed=1)
    # Fresh weights make every token about as likely; larger ones give the temperature something to do.
    for _, p in model.named_parameters():
        p.assign(p.numpy() * 4)
    return LanguageModel(model, tokenizer).save(tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="session")
def tiny(model_dir):
    return load(model_dir)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Away from the user's cache and models, in a narrow terminal."""
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def run(capsys, monkeypatch):
    """run(*arguments) -> (exit code, stdout, stderr), in this process. stderr: without the line that says which model was
    taken; the last such lines are in run.taken."""

    def run(*arguments):
        run.taken = []
        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(terminal, "say_dim", run.taken.append)
            code = cli.main([str(a) for a in arguments])
        out, err = capsys.readouterr()
        return code, out, err

    run.taken = []
    return run


@pytest.fixture
def shell():
    """shell(*arguments) -> the finished process, apart from this one."""

    def shell(*arguments, **options):
        command = [sys.executable, "-m", "llmcore", *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, timeout=120, env={**os.environ, **options.pop("env", {})}, **options
        )

    return shell
