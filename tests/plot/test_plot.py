"""Pictures are of the kind that was asked for, and hold what the logs say."""

import json

import numpy as np
import pytest

from llmcore.plot import draw_curves, draw_drift
from llmcore.plot.drift import projection

pytestmark = pytest.mark.peers


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    rows = [
        {"step": i, "train/loss": 5 / i, "lr": 1e-3, "grad_norm": 1.0, "tok/s": 1e4}
        | ({"val/loss": 5.5 / i} if i % 20 == 0 else {})
        for i in range(1, 61)
    ]
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + '{"step": 61, "tr')
    return folder


@pytest.mark.parametrize(("ending", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")])
def test_curves(run, tmp_path, ending, magic):
    path = draw_curves([run, run], tmp_path / f"new/curves.{ending}")
    assert path.read_bytes().startswith(magic)
    if ending == "svg":
        assert "held out" in path.read_text() or path.stat().st_size > 10_000


def test_means_lie_where_their_points_are(run, tmp_path, monkeypatch):
    """Runs of different length have one window, and a mean stands in its middle."""
    from llmcore.plot import curves

    drawn = {}

    class Axis:
        def plot(self, x, y, **options):
            drawn[options["label"]] = x, y

    rows = [{"step": i, "lr": 2.0 * i} for i in range(1, 11)]
    curves._line(Axis(), rows, "lr", "C0", 5, "a")
    x, y = drawn["a"]
    np.testing.assert_allclose(x, np.arange(3, 9))
    np.testing.assert_allclose(y, 2 * np.arange(3, 9))
    assert draw_curves([run], tmp_path / "noending").name == "noending.png"


def test_what_cannot_be_drawn(run, tmp_path):
    with pytest.raises(
        ValueError, match=r"\[plot\] expected the directory of a run, got .*none, which has no log.jsonl"
    ):
        draw_curves([tmp_path / "none"], tmp_path / "x.png")
    with pytest.raises(ValueError, match=r"\[plot\] cannot write .*x.docx"):
        draw_curves([run], tmp_path / "x.docx")
    (run / "log.jsonl").write_text("[]\n{}\nnull\n")
    with pytest.raises(ValueError, match="expected lines of a run's log, got none"):
        draw_curves([run], tmp_path / "x.png")
    with pytest.raises(ValueError, match="expected words recorded by `pretrain --watch`"):
        draw_drift(run, tmp_path / "x.gif")


def test_drift(run, tmp_path):
    rng = np.random.default_rng(0)
    rows = [
        {"step": i, "groups": [{w: rng.normal(size=8).tolist() for w in "ab"}, {"c": rng.normal(size=8).tolist()}]}
        for i in range(5)
    ]
    (run / "words.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    path = draw_drift(run, tmp_path / "words.gif", seconds=1)
    data = path.read_bytes()
    assert data.startswith(b"GIF89a")
    assert data.count(b"\x21\xf9\x04") >= 5  # a frame each
    with pytest.raises(ValueError, match=r"expected a file that ends in \.gif"):
        draw_drift(run, tmp_path / "words.png")


def test_the_plane_is_that_of_the_largest_differences():
    x = np.zeros((20, 6))
    x[:, 2] = np.linspace(-5, 5, 20)
    x[:, 4] = np.random.default_rng(0).normal(size=20)
    plane = projection(x.astype(np.float32))
    assert np.abs(plane[2, 0]) > 0.99
    assert np.abs(plane[4, 1]) > 0.99


def test_logs_with_anything_in_them(run, tmp_path):
    """What is no number is left out, and so is what was recorded with other words."""
    with (run / "log.jsonl").open("a") as log:
        log.write('\n{"step": 70, "train/loss": 1.0, "lr": 1e-3, "tok/s": 5.0, "grad_norm": "abc", "reward": "a"}\n')
        log.write('{"step": 71, "train/loss": NaN, "lr": 1e-3, "tok/s": 5.0}\n')
        log.write('{"step": 72, "train/loss": 1' + "0" * 400 + ', "lr": 1e-3, "tok/s": 5.0}\n')
    draw_curves([run], tmp_path / "curves.png", smooth=1000)
    good = {"step": 3, "groups": [{"a$_{": [1.0, 2.0], "b": [3.0, 1.0]}]}
    bad = [
        {"step": 1, "groups": []},
        {"step": 1, "groups": [["a"]]},
        {"step": 1, "groups": [{"a": [1.0, 2.0]}, 3]},
        {"step": 1, "groups": [{"a": [1.0, 2.0], "b": [1.0]}]},
        {"step": 1, "groups": [{"a": [float("nan")]}]},
        {"step": 2, "groups": [{"other": [1.0, 2.0]}]},
    ]
    path = run / "words.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*bad, good, {**good, "step": 4}]))
    assert draw_drift(run, tmp_path / "words.gif", seconds=1).read_bytes().startswith(b"GIF89a")
    path.write_text("".join(json.dumps(r) + "\n" for r in bad[:5]))
    with pytest.raises(ValueError, match="expected words recorded by"):
        draw_drift(run, tmp_path / "words.gif")
