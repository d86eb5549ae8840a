"""What gpu.sh is made of, without a GPU: who runs the tests, the report, torch's side of decoding, the stand-in for ml_dtypes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import llmcore
from benchmarks.gpu import report as gpu_report

ROOT = Path(__file__).parents[2]
FILES = {
    "test_a.py": """
import os, pytest
def test_good(): pass
def test_bad(): assert 1 == 2, "not that"
def test_without(): pytest.importorskip("no_such_package")
def test_that_ends_the_process(): os._exit(70)
def test_behind_it(): pass
@pytest.mark.xfail
def test_known(): assert False
""",
    "test_b.py": "import pytest\npytest.importorskip('no_such_package')\ndef test_never(): pass\n",
    "test_c.py": "import no_such_package\n",
    "test_d.py": "def test_good(): pass\n",
}


def run_tests(folder, out):
    folder.mkdir()
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (folder / "pytest.ini").write_text("[pytest]\n")
    paths = [str(ROOT), str(Path(llmcore.__file__).parents[1])]
    command = [sys.executable, "-m", "benchmarks.gpu.pytest_workers", "2", str(out), "-v", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors", str(folder)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment, cwd=folder)


def test_every_test_has_its_last_word(tmp_path):
    done = run_tests(tmp_path / "suite", tmp_path / "tests.jsonl")
    assert done.returncode != 0, done.stderr
    said = gpu_report.tests(tmp_path, "tests", [{"name": "tests", "status": "failed", "note": ""}], False)
    assert said["verdict"] == "failed"
    counts = {word: said[word] for word in ("of", "passed", "failed", "errors", "skipped")}
    # Errors: what ended its process, and the file that cannot be imported. Skipped: a test, a whole file, a known failure.
    assert counts == {"of": 7, "passed": 3, "failed": 1, "errors": 2, "skipped": 3}
    assert sorted(said["names_failed"]) == [
        "test_a.py::test_bad: AssertionError: not that assert 1 == 2",
        "test_a.py::test_that_ends_the_process: ended the process",
        "test_c.py: E ModuleNotFoundError: No module named 'no_such_package'",
    ]
    missing = "could not import 'no_such_package': No module named 'no_such_package'"
    assert said["why_skipped"] == {missing: 2, "assert False": 1}


@pytest.mark.parametrize(
    ("status", "lines", "verdict"),
    [
        ("done", ["passed", "passed"], "passed"),
        ("done", ["passed", "skipped"], "passed"),
        ("done", ["skipped", "skipped"], "nothing ran"),
        ("done", ["passed"], "did not finish"),  # of two
        ("done", ["passed", "began"], "failed"),
        ("failed", ["passed", "passed"], "failed"),
        ("did not finish", ["passed", "began"], "did not finish"),
        ("did not finish", ["failed", "began"], "failed"),
        ("done", [], "did not finish"),
    ],
)
def test_verdicts(status, lines, verdict, tmp_path):
    said = [{"selected": 2}, *({"id": f"a.py::{i}", "outcome": word} for i, word in enumerate(lines))]
    (tmp_path / "tests.jsonl").write_text("\n".join(json.dumps(s) for s in said) + '\n{"id": "a.py::3", "outc')
    assert (
        gpu_report.tests(tmp_path, "tests", [{"name": "tests", "status": status, "note": ""}], False)["verdict"]
        == verdict
    )


@pytest.mark.parametrize(
    ("log", "verdict"),
    [
        ("========= ERROR SUMMARY: 0 errors", "passed"),
        ("========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)", "passed"),
        (
            "========= Invalid __global__ read\n========= ERROR SUMMARY: 0 errors\n========= ERROR SUMMARY: 3 errors",
            "failed",
        ),
        ("========= Error: Device not supported", "did not finish: Error: Device not supported"),
    ],
)
def test_sanitizers(log, verdict, tmp_path):
    (tmp_path / "memcheck.log").write_text(log)
    said = [{"selected": 9}, {"id": "a.py::a", "outcome": "passed"}]  # as many as there was time for
    (tmp_path / "memcheck.jsonl").write_text("\n".join(json.dumps(s) for s in said))
    assert (
        gpu_report.sanitizer(tmp_path, "memcheck", [{"name": "memcheck", "status": "done", "note": ""}])["verdict"]
        == verdict
    )


def test_odd_bytes_do_not_lose_the_report(tmp_path):
    (tmp_path / "parts.tsv").write_bytes(b"build\tfailed\t3\tan \xff odd\x0b byte\xe2\x80\xa8\nbenchmarks\tnot run\n\n")
    (tmp_path / "rows.json").write_text('{"rows": [')
    parts = gpu_report.read_parts(tmp_path / "parts.tsv")
    assert [p["name"] for p in parts] == ["build", "benchmarks"]
    assert parts[1] == {"name": "benchmarks", "status": "not run", "seconds": "", "note": ""}
    report = gpu_report.collected(tmp_path)
    assert "| build | failed | 3 | an � odd" in gpu_report.rendered(report)
    json.dumps(report)


# ---- torch ----


@pytest.mark.peers
@pytest.mark.parametrize(("kind", "more"), [("gpt2", {}), ("llama", {"kv_heads": 2, "rope_base": 500.0})])
def test_torch_decodes_by_steps_what_it_computes_at_once(kind, more):
    torch = pytest.importorskip("torch")
    from benchmarks.gpu import torch_models as gpu_torch

    torch.manual_seed(0)
    model = gpu_torch.Model(kind, 90, 64, 48, 2, 4, **more)
    decoder = gpu_torch.Decoder(model, 3, 24)
    for seed in (0, 1):  # anew over what the last text left
        prompt = np.random.default_rng(seed).integers(0, 90, (3, 9))
        text = torch.from_numpy(prompt)
        for _ in range(6):
            with torch.no_grad():
                expected = model.logits(text)[:, -1]
            if text.shape[1] == 9:
                torch.testing.assert_close(decoder.logits(prompt), expected)
            else:
                decoder.step()
                torch.testing.assert_close(decoder.scores[:, -1], expected)
            assert decoder.ids.tolist() == expected.argmax(-1, keepdim=True).tolist()
            text = torch.cat((text, decoder.ids), 1)


@pytest.mark.peers
@pytest.mark.parametrize("calls", [0, 1, 4])
def test_a_peer_that_fails_leaves_llmcores_figure(calls, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks.gpu import timing as gpu_timing

    for name, value in {"device": "cpu", "torch_device": "cpu", "tiny": False, "seconds": 0.0}.items():
        monkeypatch.setattr(gpu_timing.where, name, value)
    left = [calls]

    def failing(i):
        left[0] -= 1
        if left[0] < 0:
            raise RuntimeError("no memory\nfor it")
        return [llmcore.tensor(np.ones(3, np.float32))]

    good = lambda i: [llmcore.tensor(np.ones(3, np.float32))]  # noqa: E731
    row = gpu_timing.measured(gpu_timing.Row({"llmcore": good, "a": failing, "b": good}, "float32", asked=2.0))
    assert row["seconds"].keys() == {"llmcore", "b"}
    assert (row["peer"], row["asked_of"], row["without"]) == ("b", "a", "a: no memory")
    assert row["ratio"] > 0
    (cells,) = gpu_report.work({"rows": [row | {"name": "ones", "status": "done"}]})
    assert "2x: unknown" in cells
    with pytest.raises(AssertionError, match="apart"):
        gpu_timing.measured(gpu_timing.Row({"llmcore": good, "a": lambda i: [2 * good(i)[0]]}, "float32"))


def test_the_stand_in_for_ml_dtypes():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).with_name("stand_in.py")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    if "2 skipped" in done.stdout:
        pytest.skip(done.stdout)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
