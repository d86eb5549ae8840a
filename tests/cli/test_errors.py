"""Wrong use and bad input: one line that says what is wrong, and the exit code."""

import json
import shlex
import shutil
import subprocess
import sys

import pytest

from llmcore.cli.app import app
from llmcore.cli.errors import describe
from llmcore.cli.options import remember_model

COMMANDS = [
    "demo",
    "pull",
    "train-tokenizer",
    "tokenize",
    "pretrain",
    "sft",
    "prefer",
    "dpo",
    "kto",
    "reward",
    "ppo",
    "grpo",
    "generate",
    "chat",
    "next",
    "score",
    "embed",
    "eval",
    "plot",
    "convert",
    "info",
    "bench machine",
    "bench model",
]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(run, command):
    code, out, err = run(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"Example: llmcore {command}" in out
    assert max(map(len, out.splitlines())) <= 80
    for leaked in ("<str", "<path", "<list", "<int", "<float", "x>=", "<=x", "[[", "...]...", "  /"):
        assert leaked not in out


def test_all_commands_are_listed(run):
    for arguments in ((), ("--help",), ("-h",)):
        code, out, err = run(*arguments)
        assert (code, err) == (0, "")
        listed = [line.split()[0] for line in out.split("Commands:\n")[1].splitlines()]
        assert listed == list(dict.fromkeys(c.split()[0] for c in COMMANDS))
        assert "..." not in out.split("Commands:\n")[1]
    assert len(app.registered_commands) + len(app.registered_groups) == len(listed)


def test_help_loads_nothing_heavy():
    code = "import sys; from llmcore.cli import main; main(['--help']); print([m for m in ('numpy', 'yaml', 'rich.table', 'llmcore._core') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] in ("[]", "['yaml']"), done.stderr


BAD = {
    "no command of that name": (("frobnicate",), "no such command 'frobnicate'; see llmcore --help"),
    "a command nearly right": (
        ("pretrian",),
        "no such command 'pretrian' (did you mean 'pretrain'?); see llmcore --help",
    ),
    "wrong flag": (("pretrain", "--batchsize", "4"), "no such option --batchsize (did you mean --batch-size?)"),
    "wrong flag of another command": (
        ("tokenize", "x", "--warmup", "4"),
        "no such option --warmup; see llmcore tokenize --help",
    ),
    "wrong type": (("pretrain", "--steps", "many"), "invalid value for '--steps'"),
    "missing text": (("next",), "missing argument 'TEXT'; see llmcore next --help"),
    "missing value": (("generate", "x", "--seed"), "--seed"),
    "missing corpus": (("pretrain", "--data", "absent.txt"), "absent.txt does not exist: expected a text file"),
    "no file matches": (("pretrain", "--data", "absent/*.txt"), "no file matches absent/*.txt"),
    "empty corpus": (("pretrain", "--data", "empty.txt"), "empty.txt is empty: expected some text"),
    "corpus of blanks": (("train-tokenizer", "--data", "blank.txt"), "blank.txt is empty"),
    "corpus too short": (
        ("pretrain", "--data", "short.txt", "--vocab-size", "257"),
        "expected at least 257 for a context of 256: give more text or a shorter context",
    ),
    "bad JSONL": (("pretrain", "--data", "bad.jsonl"), 'bad.jsonl:2: no "text" field; the fields are: words'),
    "vocabulary too small": (
        ("pretrain", "--data", "text.txt", "--vocab-size", "255"),
        "expected vocab_size of at least 257 (256 bytes and 1 special tokens), got 255",
    ),
    "the same for a tokenizer": (
        ("train-tokenizer", "--data", "text.txt", "--vocab-size", "20"),
        "vocab_size of at least 257",
    ),
    "unknown pattern": (("train-tokenizer", "--data", "text.txt", "--pattern", "gpt9"), "gpt9"),
    "unknown architecture": (
        ("pretrain", "--architecture", "rnn"),
        "expected architecture gpt2 or llama, got 'rnn'",
    ),
    "steps of less than none": (("pretrain", "--steps", "-1"), "expected steps >= 0, got -1"),
    "heads that do not divide": (
        ("pretrain", "--data", "text.txt", "--vocab-size", "260", "--heads", "7", "--context", "8"),
        "heads",
    ),
    "no key/value heads": (("pretrain", "--architecture", "llama", "--kv-heads", "0"), "expected kv_heads >= 1, got 0"),
    "a rate that is no number": (("pretrain", "--lr", "nan"), "expected lr a finite number, got nan"),
    "a rate without end": (("pretrain", "--lr", "inf"), "expected lr a finite number, got inf"),
    "a seed of too many bits": (("pretrain", "--seed", str(2**64)), "expected seed below 2^63, got a larger number"),
    "YAML of billions": (("pretrain", "--config", "bomb.yaml"), "expected lr of type float, got list"),
    "YAML of great depth": (("pretrain", "--config", "deep.yaml"), "deep.yaml: expected YAML, got one that is nested"),
    "YAML with no such day": (("pretrain", "--config", "date.yaml"), "date.yaml: expected YAML, got month"),
    "YAML with a long number": (("pretrain", "--config", "long.yaml"), "expected steps below 2^63"),
    "missing config": (("pretrain", "--config", "absent.yaml"), "absent.yaml, which does not exist"),
    "unknown key in config": (("pretrain", "--config", "bad.yaml"), "got 'lerning_rate'"),
    "config that is no YAML": (("pretrain", "--config", "broken.yaml"), "broken.yaml: expected YAML"),
    "nothing to resume": (("pretrain", "--resume", "--out", "nowhere"), "expected a checkpoint in nowhere, got none"),
    "no such model": (
        ("next", "x", "-m", "nowhere"),
        "got nowhere, which is not there: make a model with `llmcore demo`",
    ),
    "a directory that is no model": (("next", "x", "-m", "."), "config.json, which is not there"),
    "no such tokenizer": (("tokenize", "x", "-t", "absent.json"), "absent.json, which is not there"),
    "two texts": (("tokenize", "x", "--file", "text.txt"), "expected a TEXT or --file FILE, got both"),
    "words without quotes": (("tokenize", "x", "y"), "expected one TEXT, got 2: put it in quotes"),
    "shards of nothing": (("tokenize", "--out", "x", "-t", "."), "expected files, folders or globs to write to --out"),
    "shards and a count": (("tokenize", "--out", "x", "--count", "y"), "expected --out DIR with files alone"),
    "no such file": (("tokenize", "--file", "absent.txt", "-t", "."), "No such file or directory: absent.txt"),
    "bad temperature": (("generate", "x", "--temperature", "-1"), "expected temperature >= 0, got -1"),
    "bad top-p": (("next", "x", "--top-p", "0"), "expected top_p in (0, 1]"),
    "no number": (("generate", "x", "-m", "absent", "--dry-base", "nan"), "expected dry_base >= 1, got nan"),
    "an empty stop": (("generate", "x", "-m", "absent", "--stop="), "expected stop texts that are not empty"),
    "a seed beyond": (("generate", "x", "--seed", "9" * 20), "expected seed an integer of 64 bits"),
    "two forms": (("generate", "x", "--regex", "a", "--choice", "a"), "got regex and choices"),
    "bad XTC in a chat": (("chat", "-m", "absent", "--xtc-probability", "2"), "expected xtc_probability in [0, 1]"),
    "a bias of no token": (("chat", "--logit-bias", "99999=1"), "expected logit_bias in [0, "),
    "a grammar that is none": (
        ("generate", "x", "--grammar", "empty.txt"),
        "grammar: expected what llguidance accepts",
    ),
    "zero of them": (("next", "x", "-k", "0"), "-k"),
    "no time": (("demo", "--minutes", "0"), "expected minutes > 0, got 0"),
    "a demo over other files": (("demo", "--out", "."), "was not made by the demo"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_exit_2(run, model_dir, name):
    remember_model(model_dir)
    inputs = {
        "empty.txt": "",
        "blank.txt": " \n\n ",
        "short.txt": "too short\n" * 8,
        "text.txt": "enough text for a tokenizer\n" * 40,
        "bad.jsonl": '{"text": "fine"}\n{"words": "not fine"}\n',
        "bad.yaml": "lerning_rate: 1",
        "bomb.yaml": "lr:\n- &a0 [x]\n" + "".join(f"- &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 13)),
        "deep.yaml": "lr: " + "[" * 5000 + "]" * 5000,
        "date.yaml": "lr: 2020-99-99",
        "long.yaml": "steps: " + "9" * 400,
        "broken.yaml": "steps: [1, 2\nlr: }",
    }
    for path, content in inputs.items():
        with open(path, "w") as file:
            file.write(content)
    arguments, message = BAD[name]
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert "bug" not in err


BROKEN = {
    "weights cut short": ("model.safetensors", lambda b: b[:-1000]),
    "weights of another model": ("config.json", lambda b: b.replace(b'"hidden_size": 32', b'"hidden_size": 48')),
    "weights that are none": ("model.safetensors", lambda b: b"\xff" * 64),
    "config that is no JSON": ("config.json", lambda b: b[:40]),
    "config without a type": (
        "config.json",
        lambda b: b.replace(b"model_type", b"kind").replace(b"architectures", b"a"),
    ),
    "no key/value heads": (
        "config.json",
        lambda b: b.replace(b'"num_key_value_heads": 2', b'"num_key_value_heads": 0'),
    ),
    "a number beyond floats": ("config.json", lambda b: b.replace(b'"rope_theta": ', b'"rope_theta": 1' + b"0" * 400)),
    "an epsilon that is none": ("config.json", lambda b: b.replace(b'"rms_norm_eps": ', b'"rms_norm_eps": -')),
    "an architecture we lack": ("config.json", lambda b: b.replace(b'"llama"', b'"mamba"')),
    "broken tokenizer": ("tokenizer.json", lambda b: b[: len(b) // 2]),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_model_is_one_line_and_exit_2(run, model_dir, name):
    shutil.copytree(model_dir, "broken")
    file, damage = BROKEN[name]
    with open(f"broken/{file}", "rb+") as f:
        content = damage(f.read())
        f.seek(0)
        f.truncate()
        f.write(content)
    code, out, err = run("generate", "x", "-m", "broken")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert "broken" in err
    assert "bug" not in err


def test_debug_shows_the_traceback(run):
    for arguments in (("--debug", "next", "x", "-m", "nowhere"), ("next", "x", "-m", "nowhere", "--debug")):
        code, _, err = run(*arguments)
        assert code == 2
        assert err.startswith("Traceback")
        assert err.splitlines()[-1].startswith("error: expected a model folder")


def test_debug_after_two_dashes_is_text(run, model_dir):
    code, out, _ = run("score", "-m", model_dir, "--json", "--", "--debug")
    assert code == 0
    assert "".join(s["text"] for s in json.loads(out)["scores"]) == "--debug"


def test_exit_codes_of_what_fails_at_work():
    assert describe(OSError(28, "No space left on device", "run/log.jsonl")) == (
        1,
        "No space left on device: run/log.jsonl",
    )
    assert describe(PermissionError(13, "Permission denied", "run")) == (2, "Permission denied: run")
    assert describe(MemoryError())[0] == 1
    assert describe(KeyboardInterrupt()) == (130, "stopped from the keyboard")
    assert describe(RuntimeError("[matmul] not implemented on cuda")) == (1, "not implemented on cuda")
    code, line = describe(ZeroDivisionError("division by zero"))
    assert code == 1
    assert "bug in llmcore" in line


def test_reader_that_leaves_is_no_error(model_dir):
    command = [sys.executable, "-m", "llmcore", "tokenize", "--file", "/dev/stdin", "-t", str(model_dir)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"The function returns a list. " * 20000)
    process.stdin.close()
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    process.wait(timeout=60)


def test_closed_streams_are_no_error(model_dir):
    for arguments, close in (
        (("generate", "The", "--max-tokens", "3"), ">&-"),
        (("next", "The"), ">&- 2>&- <&-"),
        (("generate", "-", "--max-tokens", "3"), "<&-"),
    ):
        command = shlex.join([sys.executable, "-m", "llmcore", *arguments, "--quiet", "--model", str(model_dir)])
        done = subprocess.run(f"{command} {close}", shell=True, capture_output=True, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
