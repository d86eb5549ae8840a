"""`llmcore prefer`: every choice is kept at once, can be undone, and a stopped session goes on."""

import io
import json
import shutil

import pytest

from llmcore.data.choices import ChoiceFile
from llmcore.errors import CorpusError

PROMPTS = ["one", "two", "three"]


def rows(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_choices_are_pairs(tmp_path):
    file = ChoiceFile(tmp_path / "c.jsonl", PROMPTS)
    file.choose(["a", "b", "a", "c"], 0)
    file.pass_over()
    file.choose(["x", "x"], 1)  # there is nothing to tell apart
    assert file.next == 3
    assert rows(tmp_path / "c.jsonl") == [
        {"prompt": "one", "chosen": "a", "rejected": "b"},
        {"prompt": "one", "chosen": "a", "rejected": "c"},
    ]


def test_undo_and_resume(tmp_path):
    path = tmp_path / "c.jsonl"
    file = ChoiceFile(path, PROMPTS)
    assert not file.undo()
    file.choose(["a", "b"], 0)
    file.choose(["c", "é\n日本"], 1)
    again = ChoiceFile(path, PROMPTS)
    assert again.next == 2
    assert again.undo()
    again.choose(["c", "d"], 0)
    assert [r["chosen"] for r in rows(path)] == ["a", "c"]
    with path.open("ab") as f:  # killed while it wrote
        f.write(b'{"prompt": "thr')
    last = ChoiceFile(path, PROMPTS)
    assert last.next == 2
    assert [r["chosen"] for r in rows(path)] == ["a", "c"]


def test_other_files_are_not_touched(tmp_path):
    path = tmp_path / "c.jsonl"
    path.write_text("mine\n")
    with pytest.raises(CorpusError, match="give another --out"):
        ChoiceFile(path, PROMPTS)
    path.unlink()
    ChoiceFile(path, PROMPTS).choose(["a", "b"], 0)
    with pytest.raises(CorpusError, match="is about other prompts"):
        ChoiceFile(path, ["four"])
    path.write_text("")
    with pytest.raises(CorpusError, match="it was changed"):
        ChoiceFile(path, PROMPTS)
    for bad in (b"{", b"[]", b'{"sizes": [1], "prompts": []}'):
        (tmp_path / "c.jsonl.progress").write_bytes(bad)
        with pytest.raises(CorpusError, match="expected the progress of a session"):
            ChoiceFile(path, PROMPTS)


def test_the_command(run, tiny, model_dir, tmp_path, monkeypatch):
    prompts, out = tmp_path / "p.txt", tmp_path / "out.jsonl"
    prompts.write_text("the cat\n\nthe dog\nthe mat\n")
    command = (
        "prefer",
        "-m",
        model_dir,
        "--prompts",
        prompts,
        "--out",
        out,
        "-n",
        "3",
        "--max-tokens",
        "6",
        "--seed",
        "4",
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("9\n2\nq\n"))
    code, text, _ = run(*command)
    assert code == 0
    assert "1 of 3" in text
    assert "expected 1-3 the best" in text
    answers = [str(c) for c in tiny.generate("the cat", 6, n=3, temperature=1.0, top_p=0.95, seed=4)]
    assert [(r["chosen"], r["rejected"]) for r in rows(out)] == [(answers[1], a) for a in answers if a != answers[1]]
    assert f"2 pairs in {out}, 2 prompts left\n" in text
    assert text.endswith(f"next: llmcore dpo --model {model_dir} --data {out}\n")
    monkeypatch.setattr("sys.stdin", io.StringIO("u\ns\nt\n1\n"))
    code, text, _ = run(*command)
    assert code == 0
    assert "2 of 3" in text
    assert {r["prompt"] for r in rows(out)} <= {"the mat"}
    assert "0 prompts left" in text
    out.with_suffix(".jsonl.progress").unlink(), out.unlink()
    shutil.copytree(model_dir, "sft")  # what dpo takes by itself
    monkeypatch.setattr("sys.stdin", io.StringIO("2\n2\nq\n"))
    _, text, _ = run(*("sft" if a == model_dir else a for a in command))
    assert ", 1 prompt left\n" in text
    assert text.endswith(f"next: llmcore dpo --data {out}\n")


@pytest.mark.parametrize(("content", "message"), [("\n", "expected prompts in"), ("{}\n", "expected prompts in")])
def test_files_without_prompts(run, model_dir, tmp_path, content, message):
    path = tmp_path / ("p.txt" if content == "\n" else "p.jsonl")
    path.write_text(content)
    code, _, err = run("prefer", "-m", model_dir, "--prompts", path)
    assert code == 2
    assert "expected" in err
    assert err.count("\n") == 1
