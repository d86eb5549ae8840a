"""Several processes under mpiexec: the same as one to rounding, the same as themselves to the bit, killed and resumed."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmcore.train import PretrainConfig, Report, pretrain
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint
from support.runs import assert_same_weights, log_of

pytestmark = [pytest.mark.peers, pytest.mark.host]
pytest.importorskip("mpi4py")
if shutil.which("mpiexec") is None:
    pytest.skip("no mpiexec", allow_module_level=True)

SIZES = {"vocab_size": 300, "context": 16, "layers": 2, "width": 32, "heads": 2, "batch_size": 2, "warmup": 5,
         "accumulation": 4, "dtype": "float32", "lr": 2e-3, "eval_every": 20, "sample_every": 0, "threads": 1}  # fmt: skip
RUN = """
import json, sys
from llmcore.train import PretrainConfig, Report, pretrain
class Notes(Report):
    def note(self, text):
        print(text, flush=True)
pretrain(PretrainConfig(**json.loads(sys.argv[1])), resume=sys.argv[2] == "resume", report=Notes())
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(f"the cat number {i} sees {i * 7 % 13} dogs" for i in range(600)))
    return path


def config(corpus, out, **values):
    return PretrainConfig(data=str(corpus), out=str(out), **{"steps": 20, "save_every": 10, **SIZES, **values})


def command(ranks, settings, how="new"):
    return ["mpiexec", "-n", str(ranks), sys.executable, "-c", RUN, json.dumps(dataclasses.asdict(settings)), how]


def start(ranks, settings, how="new"):
    done = subprocess.run(command(ranks, settings, how), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_as_one_process(corpus, tmp_path, ranks, optimizer):
    values = {"optimizer": optimizer, "ema": 0.9, "recompute": ranks == 4}
    pretrain(config(corpus, tmp_path / "one", **values), report=Report())
    start(ranks, config(corpus, tmp_path / "many", **values))
    start(ranks, config(corpus, tmp_path / "again", **values))
    assert_same_weights(tmp_path / "many", tmp_path / "again")
    one, many = log_of(tmp_path / "one"), log_of(tmp_path / "many")
    for a, b in zip(one, many, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=2e-5)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        assert b["tokens"] == a["tokens"]
        assert 0 <= b["comm/hidden"] <= 1
    (whole, state), (other, state2) = (load_checkpoint(latest_checkpoint(tmp_path / n)) for n in ("one", "many"))
    assert whole.keys() == other.keys()
    assert state["agree"] == state2["agree"]
    for name, w in whole.items():
        np.testing.assert_allclose(w, other[name], atol=2e-4, err_msg=name)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_a_process_is_killed(corpus, tmp_path, ranks):
    """The others stop; the run goes on with any number of them, with as many to the bit."""
    values = {"steps": 60, "save_every": 7}
    settings = config(corpus, tmp_path / "killed", **values)
    process = subprocess.Popen(
        command(2, settings), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    log, deadline = tmp_path / "killed/log.jsonl", time.monotonic() + 120
    while not (log.exists() and log.read_bytes().count(b"\n") >= 20):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    found = subprocess.run(
        ["pgrep", "-g", str(os.getpgid(process.pid)), "-f", "pretrain"], capture_output=True, text=True
    )
    below = subprocess.run(["pgrep", "-f", json.dumps(str(tmp_path / "killed"))], capture_output=True, text=True)
    workers = [int(p) for p in (found.stdout + below.stdout).split() if is_worker(int(p))]
    os.kill(workers[-1], signal.SIGKILL)
    said = process.communicate(timeout=60)[0]
    assert process.returncode != 0
    assert said.count(f"2 processes: if one is killed, all stop; continue with --resume --out {settings.out}\n") == 1
    start(ranks, settings, "resume")
    rows = log_of(tmp_path / "killed")
    assert [r["step"] for r in rows] == list(range(1, 61))
    if ranks == 2:
        start(2, config(corpus, tmp_path / "straight", **values))
        assert_same_weights(tmp_path / "straight", tmp_path / "killed")


@pytest.mark.parametrize(
    ("whom", "name"), [(0, "SIGTERM"), (1, "SIGTERM"), (1, "SIGHUP"), ("mpiexec", "SIGTERM"), ("mpiexec", "SIGINT")]
)
def test_one_of_them_or_all_are_asked_to_stop(corpus, tmp_path, whom, name):
    """All save together and leave alike, whichever of them gets the signal; said once."""
    number, out = getattr(signal, name), tmp_path / "run"
    line = ["pretrain", *flags(corpus, out=out, steps=100000, save_every=0)[2:]]
    code = f"""
import sys
from mpi4py import MPI
from llmcore.cli import main
rank = MPI.COMM_WORLD.Get_rank()
import os
open({str(tmp_path)!r} + f"/pid{{rank}}", "w").write(str(os.getpid()))
code = main({line!r})
open({str(tmp_path)!r} + f"/code{{rank}}", "w").write(str(code))
sys.exit(code)
"""
    process = subprocess.Popen(
        ["mpiexec", "-n", "2", sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    log, deadline = out / "log.jsonl", time.monotonic() + 60
    while not (log.exists() and log.read_bytes().count(b"\n") >= 5):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid if whom == "mpiexec" else int((tmp_path / f"pid{whom}").read_text()), number)
    said = process.communicate(timeout=60)[1]
    assert process.returncode != 0
    assert said.count("error: stopped at step") == 1, said
    assert [(tmp_path / f"code{rank}").read_text() for rank in (0, 1)] == [str(128 + number)] * 2
    assert latest_checkpoint(out).name == f"step-{len(log_of(out)):08}"


def is_worker(pid):
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return b"python" in line[0] and b"-c" in line[:3]


def run_commands(folder, *arguments, ranks=2):
    """`llmcore` in each process with its own arguments."""
    folder.mkdir(exist_ok=True)
    code = (
        "import json, sys; from mpi4py import MPI; from llmcore.cli import main\n"
        "sys.exit(main(json.loads(sys.argv[1])[MPI.COMM_WORLD.Get_rank()]))"
    )
    given = arguments * ranks if len(arguments) == 1 else arguments
    return subprocess.run(
        ["mpiexec", "-n", str(ranks), sys.executable, "-c", code, json.dumps(given)],
        capture_output=True, text=True, timeout=120, cwd=folder, env=os.environ | {"LLMCORE_CACHE": str(folder / "cache")},
    )  # fmt: skip


def flags(corpus, **more):
    given = {**SIZES, "data": corpus, "out": "run", "steps": 6, "accumulation": 2} | more
    return ["pretrain", "-q", *(str(x) for k, v in given.items() for x in (f"--{k.replace('_', '-')}", v))]


def test_what_all_do_wrong_is_said_once(corpus, tmp_path):
    done = run_commands(tmp_path, flags(corpus, accumulation=3))
    assert done.returncode == 2
    assert done.stderr.count("expected accumulation a multiple of 2, the number of processes, got 3") == 1
    done = run_commands(tmp_path, flags(tmp_path / "none.txt"))
    assert done.returncode == 2
    assert done.stderr.count("none.txt") == 1


@pytest.mark.parametrize("rank", [0, 1])
def test_what_one_does_wrong_ends_all(corpus, tmp_path, rank):
    """Before anything is shared, too."""
    given = [flags(corpus), flags(corpus)]
    given[rank] = flags(tmp_path / "none.txt")
    done = run_commands(tmp_path, *given)
    assert done.returncode != 0
    assert "none.txt" in done.stderr


@pytest.mark.parametrize("more", [{"steps": 9}, {"optimizer": "sgd"}, {"seed": 4}])
def test_processes_that_would_not_do_the_same(corpus, tmp_path, more):
    done = run_commands(tmp_path, flags(corpus), flags(corpus, **more))
    assert done.returncode != 0
    (name, value), *_ = more.items()
    assert f"expected {name}" in done.stderr
    assert f"in every process, as in the first, got {value!r}" in done.stderr


def test_stages_one_after_another(corpus, tmp_path):
    """The model that all return is the one that was saved; adapters that leave inputs out are those of one process."""
    (tmp_path / "rows.jsonl").write_text(
        "\n".join(json.dumps({"text": f"cat number {i} sees {i * 3 % 7} dogs"}) for i in range(40))
    )
    code = f"""
import sys
import numpy as np
from llmcore import train
from llmcore.train import Report
base = train.PretrainConfig(**{{**{SIZES!r}, "context": 64, "steps": 8, "ema": 0.9, "data": {str(corpus)!r}, "out": "base"}})
lm = train.pretrain(base, report=Report())
saved = np.asarray(train.checkpoint.load_checkpoint(train.checkpoint.latest_checkpoint("base"))[0]["ema.tokens.weight"])
assert np.array_equal(lm.model.tokens.weight.numpy(), saved)
lm = train.sft(train.SFTConfig(model="base", out="tuned", data={str(tmp_path / "rows.jsonl")!r}, epochs=0.0, steps=5, dtype="float32",
                               lora_rank=2, lora_dropout=0.3, lr=1e-2, warmup=0, batch_size=2, accumulation=4, context=32,
                               sample_every=0, packing=False), report=Report())
"""
    code = code.replace("from llmcore import train\n", "from llmcore import train\nimport llmcore.train.checkpoint\n")
    for ranks, folder in ((1, "one"), (2, "two")):
        (tmp_path / folder).mkdir()
        done = subprocess.run(
            ["mpiexec", "-n", str(ranks), sys.executable, "-c", code],
            capture_output=True, text=True, timeout=120, cwd=tmp_path / folder,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
    one, two = (log_of(tmp_path / folder / "tuned") for folder in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        assert b["train/loss"] == pytest.approx(a["train/loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)


def test_all_processes_stop_at_the_best_model(corpus, tmp_path):
    settings = {"lr": 0.2, "warmup": 60, "steps": 60, "eval_every": 4, "patience": 2, "keep_best": True}
    for run in ("two", "again"):
        start(2, config(corpus, tmp_path / run, **settings))
    assert len(log_of(tmp_path / "two")) == len(log_of(tmp_path / "again")) < 60
    assert_same_weights(tmp_path / "two", tmp_path / "again")
    best = tmp_path / "two/best/model.safetensors"
    assert best.read_bytes() == (tmp_path / "two/model.safetensors").read_bytes()
