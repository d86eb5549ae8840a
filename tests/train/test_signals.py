"""Runs that are asked to stop, by real signals in real processes: saved, continued to the bit, 128 + the signal's number."""

import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from llmcore.train import Interrupted, PretrainConfig, Report, pretrain
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint
from support.runs import assert_same_weights, log_of

pytestmark = pytest.mark.host

SIZES = {"vocab_size": 280, "context": 16, "layers": 1, "width": 16, "heads": 2, "batch_size": 4, "threads": 1,
         "save_every": 0, "eval_every": 0, "sample_every": 0, "dtype": "float32"}  # fmt: skip


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(f"the cat number {i} sees {i * 7 % 13} dogs" for i in range(300)))
    return path


def config(corpus, out, **values):
    return PretrainConfig(data=str(corpus), out=str(out), **{"steps": 1_000_000, "warmup": 5, **SIZES, **values})


def command(corpus, out, *more):
    sizes = [f"--{k.replace('_', '-')}={v}" for k, v in SIZES.items()]
    line = ["-m", "llmcore", "pretrain", f"--data={corpus}", f"--out={out}", "--steps=1000000", "--warmup=5"]
    return [sys.executable, *line, *sizes, *more]


def updates(out) -> int:
    log = Path(out, "log.jsonl")
    return log.read_bytes().count(b"\n") if log.exists() else 0


def wait_for(out, count, process):
    end = time.monotonic() + 60
    while updates(out) < count:
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_saved_and_left_with_128_and_more(corpus, tmp_path, name):
    number, out = getattr(signal, name), tmp_path / "run"
    process = subprocess.Popen(command(corpus, out), stderr=subprocess.PIPE, text=True)
    wait_for(out, 3, process)
    process.send_signal(number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    done = updates(out)
    called = "Ctrl-C" if name == "SIGINT" else name
    assert f"{called}: finishing this step, then saving" in said
    assert f"error: stopped at step {done} of 1000000; continue with --resume --out {out}" in " ".join(said.split())
    assert latest_checkpoint(out).name == f"step-{done:08}"


@pytest.mark.parametrize("times", ["one", "all"])
def test_continued_to_the_bit(corpus, tmp_path, times):
    pretrain(config(corpus, tmp_path / "straight", steps=9), report=Report())

    class Asks(Report):
        def update(self, row):
            if row["step"] == 4:
                os.kill(os.getpid(), signal.SIGTERM)
                if times == "all":  # as `timeout` does
                    os.kill(os.getpid(), signal.SIGTERM)
                    os.kill(os.getpid(), signal.SIGHUP)

    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    with pytest.raises(Interrupted, match="stopped at step 4 of 9") as caught:
        pretrain(config(corpus, tmp_path / "stopped", steps=9), report=Asks())
    assert (caught.value.signal, caught.value.exit_code) == (15, 143)
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == before
    pretrain(config(corpus, tmp_path / "stopped", steps=9), report=Report(), resume=True)
    assert_same_weights(tmp_path / "straight", tmp_path / "stopped")


SLOW = """
import sys, time
from llmcore.train import PretrainConfig, Report, pretrain
import json
class Slow(Report):
    def update(self, row):
        if row["step"] == 2:
            print("two", flush=True)
            time.sleep(60)
    def note(self, text):
        print(text, flush=True)
"""
IN_MAIN = SLOW + "pretrain(PretrainConfig(**json.loads(sys.argv[1])), report=Slow())\n"
IN_THREAD = SLOW + (
    "import threading\nt = threading.Thread(target=pretrain, args=(PretrainConfig(**json.loads(sys.argv[1])),), "
    "kwargs={'report': Slow()}, daemon=True)\nt.start()\nt.join()\n"
)


def started(code, settings, **options):
    line = [sys.executable, "-c", code, json.dumps(vars(settings))]
    return subprocess.Popen(line, stdout=subprocess.PIPE, text=True, **options)


def until(process, text):
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"ended without {text!r}")


def test_a_second_one_kills_at_once(corpus, tmp_path):
    process = started(IN_MAIN, config(corpus, tmp_path / "run"))
    until(process, "two")
    process.send_signal(signal.SIGTERM)
    until(process, "SIGTERM: finishing this step")
    time.sleep(0.3)
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM
    assert latest_checkpoint(tmp_path / "run") is None


def test_outside_the_main_thread_signals_do_what_they_did(corpus, tmp_path):
    process = started(IN_THREAD, config(corpus, tmp_path / "run"))
    until(process, "two")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == -signal.SIGTERM


def test_what_is_ignored_stays_ignored(corpus, tmp_path):
    out = tmp_path / "run"
    ignore = lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)  # noqa: E731 - nohup
    process = subprocess.Popen(command(corpus, out, "--quiet"), preexec_fn=ignore)
    wait_for(out, 3, process)
    process.send_signal(signal.SIGHUP)
    at = updates(out)
    wait_for(out, at + 20, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143


def test_handlers_of_others_stay(corpus, tmp_path):
    came = []

    class Asks(Report):
        def update(self, row):
            if row["step"] == 2:
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda *_: came.append(1))
    try:
        pretrain(config(corpus, tmp_path / "run", steps=4), report=Asks())
    finally:
        signal.signal(signal.SIGTERM, before)
    assert came == [1]


def test_a_terminal_that_is_closed(corpus, tmp_path):
    """The run is saved although nobody can be told of it any more."""
    out = tmp_path / "run"
    main, other = pty.openpty()
    process = subprocess.Popen(
        command(corpus, out), stdin=other, stdout=other, stderr=other, start_new_session=True,
        preexec_fn=lambda: __import__("fcntl").ioctl(0, __import__("termios").TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(other)
    reader = threading.Thread(target=lambda: [None for _ in iter(lambda: _read(main), b"")])
    reader.start()
    wait_for(out, 3, process)
    process.poll()
    os.kill(process.pid, 0)
    _close.append(main)
    reader.join(10)
    os.close(main)
    assert process.wait(60) == 129
    assert latest_checkpoint(out).name == f"step-{updates(out):08}"


_close: list[int] = []


def _read(main):
    import select

    while not _close:
        if select.select([main], [], [], 0.05)[0]:
            return os.read(main, 4096)
    return b""


def test_checkpoints_come_by_time(corpus, tmp_path):
    """At most so many seconds are lost, whatever the number of updates."""

    class Waits(Report):
        def update(self, row):
            time.sleep(0.1)

    settings = config(corpus, tmp_path / "run", steps=12, save_minutes=0.3 / 60, keep=100)
    pretrain(settings, report=Waits())
    saved = sorted(p.name for p in Path(settings.out, "checkpoints").iterdir())
    assert 2 <= len(saved) <= 5, saved
    assert saved[-1] == "step-00000012"
    plain = config(corpus, tmp_path / "plain", steps=12, save_minutes=0)
    pretrain(plain, report=Report())
    assert_same_weights(tmp_path / "plain", tmp_path / "run")
    assert load_checkpoint(latest_checkpoint(plain.out))[1]["config"]["save_minutes"] == 0
    assert len(log_of(plain.out)) == 12
