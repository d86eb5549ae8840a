"""`llmcore tokenize` and `llmcore train-tokenizer`."""

import base64
import json
from pathlib import Path

import pytest

from llmcore.tokenizer import Tokenizer


def test_data(run, tiny, model_dir):
    text = "The list of\n naïve 🍕\t!"
    got = json.loads(run("tokenize", text, "-t", model_dir, "--json")[1])
    assert got["ids"] == tiny.tokenizer.encode(text)
    assert (got["count"], got["bytes"]) == (len(got["ids"]), len(text.encode()))
    assert run("tokenize", text, "-t", model_dir / "tokenizer.json", "--count") == (0, f"{len(got['ids'])}\n", "")


def test_the_first_command_of_a_new_user(run, monkeypatch, tmp_path):
    """Nothing made, nothing named: a text is shown all the same, and where its tokens come from is said."""
    monkeypatch.chdir(tmp_path)
    code, out, err = run("tokenize", "I love pizza!", "--json")
    got = json.loads(out)
    assert code == 0
    assert "4096 tokens learned now" in err
    assert "".join(got["tokens"]) == "I love pizza!"
    assert len(got["ids"]) < len("I love pizza!")
    code, out, err = run("tokenize", "--out", "shards", "text.txt")
    assert (code, out) == (2, "")
    assert "-t PATH" in err


def test_tiktoken_file(run, tmp_path):
    ids = [*range(256), b"lo", b"lov", b"love"]
    lines = [base64.b64encode(bytes([i]) if isinstance(i, int) else i) + b" %d\n" % n for n, i in enumerate(ids)]
    (tmp_path / "love.tiktoken").write_bytes(b"".join(lines))
    code, out, err = run("tokenize", "I love", "-t", tmp_path / "love.tiktoken", "--json", "--pattern", "gpt2")
    assert (code, err) == (0, "")
    assert json.loads(out)["ids"] == [ord("I"), ord(" "), 258]
    code, out, err = run("tokenize", "I love", "-t", tmp_path / "love.tiktoken")
    assert (code, out) == (2, "")
    assert "love.tiktoken: expected pattern=" in err


def test_file_of_any_bytes(run, tiny, model_dir, tmp_path):
    data = b"The list\xff\xfe\x00 of \xe2\x82"
    (tmp_path / "bytes").write_bytes(data)
    got = json.loads(run("tokenize", "--file", tmp_path / "bytes", "-t", model_dir, "--json")[1])
    assert tiny.tokenizer.decode_bytes(got["ids"]) == data
    assert "\\xff" in got["tokens"]


def test_pieces_stand_over_their_ids_within_the_width(run, tiny, model_dir):
    text = "The function\treturns a list.\n" * 8
    code, out, err = run("tokenize", text, "-t", model_dir)
    assert (code, err) == (0, "")
    *rows, total = out.rstrip("\n").split("\n")
    assert max(map(len, rows)) <= 81  # 80 and a blank
    assert "".join("".join(r.split()) for r in rows[::2]) == text.replace(" ", "␣").replace("\n", "⏎").replace(
        "\t", "⇥"
    )
    ids = [int(i) for r in rows[1::2] for i in r.split()]
    assert ids == tiny.tokenizer.encode(text)
    assert total.startswith(f"{len(ids)} tokens for {len(text)} bytes")
    assert run("tokenize", "T", "-t", model_dir)[1].endswith("\n1 token for 1 byte, 1.00 bytes per token\n")
    for pieces, below in zip(rows[::2], rows[1::2], strict=True):
        for id, start in zip(below.split(), starts(below), strict=True):
            shown = pieces[start:].split(" ")[0]
            assert shown.replace("␣", " ").replace("⏎", "\n").replace("⇥", "\t") == tiny.tokenizer.decode([int(id)])


def starts(line):
    return [i for i, c in enumerate(line) if c != " " and (i == 0 or line[i - 1] == " ")]


@pytest.mark.parametrize(
    ("env", "coloured"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)]
)
def test_colour(run, model_dir, monkeypatch, env, coloured):
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    out = run("tokenize", "The list", "-t", model_dir)[1]
    assert ("\x1b[30;10" in out) == coloured


def test_train_tokenizer(run, corpus_text, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text(corpus_text)
    code, out, err = run("train-tokenizer", "--data", source, "--vocab-size", 300, "--out", tmp_path / "made")
    assert (code, err) == (0, "")
    path = tmp_path / "made/tokenizer.json"
    tokenizer = Tokenizer.load(path)
    assert tokenizer.special_tokens == {"<|endoftext|>": tokenizer.vocab_size - 1}
    assert tokenizer.decode(tokenizer.encode(corpus_text)) == corpus_text
    assert f"{tokenizer.vocab_size} tokens" in out
    before = path.read_bytes()
    code, out, err = run("train-tokenizer", "--data", source, "--out", tmp_path / "made")
    assert (code, out) == (2, "")
    assert "is already there" in err
    assert path.read_bytes() == before
    flags = ("--special-token", "<s>", "--special-token", "</s>", "--pattern", "gpt2", "--overwrite", "--quiet")
    assert run("train-tokenizer", "--data", source, "--out", path, *flags) == (0, "", "")
    assert set(Tokenizer.load(path).special_tokens) == {"<s>", "</s>"}
    assert Tokenizer.load(path).pattern == "gpt2"


def test_merges(run, tiny, model_dir):
    code, out, err = run("tokenize", "The list", "-t", model_dir, "--merges")
    assert (code, err) == (0, "")
    got = json.loads(run("tokenize", "The list", "-t", model_dir, "--merges", "--json")[1])
    assert [piece["piece"] for piece in got["pieces"]] == ["The", " list"]
    assert [id for piece in got["pieces"] for id in piece["tokens"]] == tiny.tokenizer.encode("The list")
    blocks = [block.splitlines() for block in out.strip().split("\n\n")]
    assert [block[0] for block in blocks] == ["The", "␣list"]
    for block, piece in zip(blocks, got["pieces"], strict=True):
        assert block[1].split() == ["rank", "merge", "id"]
        assert block[2].split() == ["bytes", *(got["tokens"][str(id)] for id in piece["start"])]
        for line, merge in zip(block[3:], piece["merges"], strict=True):
            left, right = (got["tokens"][str(merge[side])] for side in ("left", "right"))
            tokens = [got["tokens"][str(id)] for id in merge["tokens"]]
            assert line.split() == [str(merge["rank"]), left, "+", right, str(merge["id"]), *tokens]
    code, out, err = run("tokenize", "x" * 1001, "-t", model_dir, "--merges")
    assert (code, out) == (2, "")
    assert "expected a text of up to 1000 bytes, got 1001" in err


def test_shards_and_pretraining_on_them(run, corpus_text, model_dir):
    lines = [json.dumps({"body": f"{number}: {corpus_text}"}) for number in range(30)]
    Path("text.jsonl").write_text("\n".join(lines))
    arguments = (
        "tokenize",
        "--out",
        "shards",
        "text.jsonl",
        "--columns",
        "text=body",
        "-t",
        model_dir,
        "--threads",
        "1",
    )
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    assert "of 30 documents" in out
    assert "next: llmcore pretrain --data shards" in out
    got = json.loads(run(*arguments, "--json")[1])  # nothing is left to do
    assert (got["documents"], got["shards"], got["dtype"]) == (30, 1, "uint16")
    code, out, err = run("tokenize", "--out", "shards", "text.jsonl", "-t", model_dir)
    assert (code, out) == (2, "")
    assert "shards was begun with field body, not text: give another --out, or --overwrite" in err
    sizes = ("--context", "16", "--layers", "1", "--width", "32", "--heads", "2", "--batch-size", "2", "--steps", "2")
    assert run("pretrain", "--data", "shards", *sizes, "-q") == (0, "", "")
    assert Tokenizer.load("run") == Tokenizer.load(model_dir)
    run(
        "train-tokenizer",
        "--data",
        "text.jsonl",
        "--columns",
        "text=body",
        "--vocab-size",
        "270",
        "--out",
        "other",
        "-q",
    )
    code, out, err = run("pretrain", "--data", "shards", *sizes, "--tokenizer", "other", "--out", "no")
    assert (code, out) == (2, "")
    assert "shards was made with another tokenizer" in err
    assert err.count("\n") == 1


def test_training_a_tokenizer_on_all_of_the_text(run, corpus_text):
    Path("a.txt").write_text(corpus_text)
    flags = ("--data", "a.txt", "--vocab-size", "280", "--validation-fraction", "0")
    assert "held-out" not in run("train-tokenizer", *flags, "--out", "all.json")[1]
    assert Tokenizer.load("all.json") == Tokenizer.train("a.txt", 280)
