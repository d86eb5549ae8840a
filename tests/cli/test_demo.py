"""`llmcore demo`: every stage of a model's life, and the page that shows them."""

import json
from html.parser import HTMLParser
from pathlib import Path

from llmcore import data
from llmcore.demo import measure, second_half
from llmcore.generate import load


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
    assert [line for line in out.splitlines() if len(line) > 81] == [
        line
        for line in out.splitlines()
        if line.startswith("python-docs: ")  # a note, which a pipe gets in one line
    ]
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
