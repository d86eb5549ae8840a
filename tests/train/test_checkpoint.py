"""Checkpoints through kills, full disks and damage: what is named one is whole, nothing older is lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from llmcore.train import checkpoint as module
from llmcore.train.checkpoint import CheckpointError, latest_checkpoint, load_checkpoint, save_checkpoint

ml_dtypes = pytest.importorskip("ml_dtypes")


def tensors_of(step):
    generator = np.random.default_rng(step)
    return {
        "weight": generator.standard_normal((16, 8)).astype(np.float32),
        "momentum": generator.standard_normal(9).astype(ml_dtypes.bfloat16),
    }


def save(run, step, keep=2):
    return save_checkpoint(run, step, tensors_of(step), {"loss": 0.1 + step, "rng": [step, 2**63]}, keep)


def assert_is(path, step):
    tensors, state = load_checkpoint(path)
    assert state == {"loss": 0.1 + step, "rng": [step, 2**63], "step": step}
    expected = tensors_of(step)
    assert set(tensors) == set(expected)
    for name, array in expected.items():
        assert tensors[name].dtype == array.dtype
        assert tensors[name].tobytes() == array.tobytes()


def names(run):
    return sorted(path.name for path in Path(run, "checkpoints").iterdir())


def test_round_trip(tmp_path):
    path = save(tmp_path / "run", 100)
    assert path == tmp_path / "run/checkpoints/step-00000100"
    assert_is(path, 100)
    safetensors = pytest.importorskip("safetensors")
    with safetensors.safe_open(path / "tensors.safetensors", "np") as file:
        np.testing.assert_array_equal(file.get_tensor("weight"), tensors_of(100)["weight"])


def test_keeps_the_newest(tmp_path):
    for step in (1, 2, 3, 4):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000003", "step-00000004"]
    assert_is(latest_checkpoint(tmp_path), 4)


def test_later_checkpoints_outlive_a_run_that_went_back(tmp_path):
    save(tmp_path, 30)
    for step in (10, 20, 25):
        save(tmp_path, step, keep=2)
    assert names(tmp_path) == ["step-00000020", "step-00000025", "step-00000030"]


def test_same_step_is_replaced(tmp_path):
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, {"a": np.ones(2)}, {"second": True})
    assert names(tmp_path) == ["step-00000005"]
    assert load_checkpoint(latest_checkpoint(tmp_path))[1] == {"second": True, "step": 5}


def test_a_kill_between_two_renames_loses_nothing(tmp_path):
    save(tmp_path, 4)
    folder = tmp_path / "checkpoints"
    (folder / "step-00000004").rename(folder / ".replaced-step-00000004")
    (folder / ".unfinished-step-00000004").mkdir()
    (folder / ".deleted-step-00000001").mkdir()
    assert_is(latest_checkpoint(tmp_path), 4)
    save(tmp_path, 5)
    assert names(tmp_path) == ["step-00000004", "step-00000005"]


def test_none_where_there_is_none(tmp_path):
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def damage(path, kind):
    tensors, state = path / "tensors.safetensors", path / "state.json"
    record = json.loads(state.read_text())
    if kind == "truncated":
        tensors.write_bytes(tensors.read_bytes()[:-1])
    elif kind == "bit":
        content = bytearray(tensors.read_bytes())
        content[-7] ^= 4
        tensors.write_bytes(content)
    elif kind == "no tensors":
        tensors.unlink()
    elif kind == "no state":
        state.unlink()
    elif kind == "empty state":
        state.write_bytes(b"")
    elif kind == "bad json":
        state.write_bytes(state.read_bytes()[:-9])
    elif kind == "nested json":
        state.write_bytes(b"[" * 100_000)
    elif kind == "version":
        state.write_text(json.dumps({**record, "version": 99}))
    elif kind == "format":
        state.write_text(json.dumps({**record, "format": "other"}))
    elif kind == "changed state":
        record["state"]["loss"] += 1
        state.write_text(json.dumps(record))
    elif kind == "no digest":
        state.write_text(json.dumps({**record, "tensors": {}}))
    elif kind == "state is a list":
        state.write_text(json.dumps({**record, "state": []}))


DAMAGE = {
    "truncated": r"tensors.safetensors is damaged: expected \d+ bytes, got \d+",
    "bit": "tensors.safetensors is damaged: its SHA-256",
    "no tensors": "cannot read .*tensors.safetensors: No such file",
    "no state": "has no state.json",
    "empty state": "state.json is damaged: not valid JSON",
    "bad json": "state.json is damaged: not valid JSON",
    "nested json": "state.json is damaged: not valid JSON",
    "version": "state.json: version: expected 1, got 99",
    "format": "state.json: format",
    "changed state": "state.json is damaged: state does not match",
    "no digest": "state.json: tensors: expected",
    "state is a list": "state.json: state: expected",
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damage_is_one_line_and_the_one_before_is_taken(tmp_path, kind):
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    damage(newest, kind)
    with pytest.raises(CheckpointError, match=DAMAGE[kind]) as caught:
        load_checkpoint(newest)
    assert "\n" not in str(caught.value)
    warned = []
    assert_is(latest_checkpoint(tmp_path, warned.append), 1)
    assert len(warned) == 1
    assert "step-00000002" in warned[0]
    assert warned[0].endswith("falling back to step-00000001")


def test_all_broken_is_an_error_not_a_new_start(tmp_path):
    for step in (1, 2):
        damage(save(tmp_path, step), "bit")
    with pytest.raises(CheckpointError, match=r"step-00000002.*no other of the 2"):
        latest_checkpoint(tmp_path)


def test_missing_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match="absent does not exist"):
        load_checkpoint(tmp_path / "absent")


def test_a_damaged_newest_is_replaced_when_its_step_comes_again(tmp_path):
    save(tmp_path, 1)
    damage(save(tmp_path, 2), "truncated")
    save(tmp_path, 2)
    assert_is(latest_checkpoint(tmp_path), 2)


@pytest.mark.parametrize("state", [{"a": object()}, {"a": {(1, 2): 3}}, {"a": np.float32(1)}])
def test_state_that_json_cannot_hold_writes_nothing(tmp_path, state):
    with pytest.raises(TypeError, match="expected a state that JSON can hold"):
        save_checkpoint(tmp_path, 1, {}, state)
    assert list(tmp_path.iterdir()) == []


def test_state_with_colliding_keys_and_odd_floats_loads(tmp_path):
    state = {1: "a", "1": "b", "nan": float("nan"), "tiny": 5e-324, "text": "\ud800"}
    loaded = load_checkpoint(save_checkpoint(tmp_path, 1, {}, state))[1]
    assert loaded["1"] == "b"
    assert loaded["nan"] != loaded["nan"]
    assert loaded["tiny"] == 5e-324


@pytest.mark.parametrize(("step", "keep"), [(-1, 2), (10**18, 2), (1, 0)])
def test_invalid_arguments(tmp_path, step, keep):
    with pytest.raises(ValueError, match=r"\[checkpoint\] expected"):
        save_checkpoint(tmp_path, step, {}, {}, keep)


@pytest.mark.parametrize("call", range(1, 9))
@pytest.mark.parametrize("where", ["fsync", "rename", "write"])
def test_full_disk_at_any_call_leaves_earlier_ones(tmp_path, monkeypatch, where, call):
    save(tmp_path, 1)
    save(tmp_path, 2)
    calls = 0

    def failing(original):
        def wrapper(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == call:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return original(*args, **kwargs)

        return wrapper

    target, name = {
        "fsync": (os, "fsync"),
        "rename": (Path, "rename"),
        "write": (module._HashingFile, "write"),
    }[where]
    with monkeypatch.context() as patch:
        patch.setattr(target, name, failing(getattr(target, name)))
        try:
            save(tmp_path, 3)
        except CheckpointError as error:
            failed = str(error)
        else:
            failed = ""
    assert bool(failed) == (calls >= call)
    assert "\n" not in failed
    assert all(name.startswith("step-") for name in names(tmp_path))
    kept = {path: int(path.name[5:]) for path in Path(tmp_path, "checkpoints").iterdir()}
    for path, step in kept.items():
        assert_is(path, step)
    assert {1, 2} <= set(kept.values()) if failed and 3 not in kept.values() else 3 in kept.values()
    save(tmp_path, 4)
    assert_is(latest_checkpoint(tmp_path), 4)


def run_python(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def test_file_size_limit(tmp_path):
    save(tmp_path, 1)
    result = run_python(
        "import resource, sys, numpy as np\n"
        "from llmcore.train.checkpoint import save_checkpoint\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "save_checkpoint(sys.argv[1], 2, {'a': np.ones(1 << 20)}, {})\n",
        tmp_path,
    )
    assert "CheckpointSaveError: [checkpoint] cannot save" in result.stderr.splitlines()[-1]
    assert "File too large; earlier checkpoints are untouched" in result.stderr
    assert names(tmp_path) == ["step-00000001"]
    assert_is(latest_checkpoint(tmp_path), 1)


def test_full_disk(tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("mounting a tiny disk is not permitted here")
    try:
        save(tmp_path, 1)
        with pytest.raises(CheckpointError, match="the disk is full; earlier checkpoints are untouched"):
            save_checkpoint(tmp_path, 2, {"a": np.ones(1 << 20)}, {})
        assert names(tmp_path) == ["step-00000001"]
        assert_is(latest_checkpoint(tmp_path), 1)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


SAVER = """
import sys, numpy as np
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint, save_checkpoint
run = sys.argv[1]
newest = latest_checkpoint(run)
step = load_checkpoint(newest)[1]["step"] if newest else 0
first = step
while True:
    step += 1
    if step == first + 4:
        print("ready", flush=True)  # however slow the disk is, there is a checkpoint
    save_checkpoint(run, step - step % 3, {"a": np.full(200_000, step - step % 3, np.float64)}, {"even":
    step})
"""


def test_kill_while_saving_leaves_only_whole_checkpoints(tmp_path):
    generator = np.random.default_rng(7)
    newest = -1
    for _ in range(8):
        process = subprocess.Popen([sys.executable, "-c", SAVER, tmp_path], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"ready\n"
        time.sleep(0.02 + 0.1 * generator.random())
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        folder = tmp_path / "checkpoints"
        for path in folder.iterdir() if folder.exists() else ():
            if path.name.startswith("step-"):
                step = int(path.name[5:])
                tensors, state = load_checkpoint(path)
                assert state["step"] == step
                np.testing.assert_array_equal(tensors["a"], np.full(200_000, step))
        latest = latest_checkpoint(tmp_path, pytest.fail)
        if latest:
            assert int(latest.name[5:]) >= newest
            newest = int(latest.name[5:])
    assert newest > 0
    save(tmp_path, newest + 3)
    assert all(name.startswith("step-") for name in names(tmp_path))
