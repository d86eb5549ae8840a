"""Tokenized text on disk: nothing lost, the same bytes whatever happens on the way, the same batches as from memory."""

import gzip
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from llmcore import runtime
from llmcore.data import CorpusError, ShardSet, TokenBatches, read_corpus, shards, tokenize_files
from llmcore.documents import texts
from llmcore.tokenizer import Tokenizer
from llmcore.train import PretrainConfig, Report, pretrain

RNG = random.Random(0)
WORDS = ["the", "cat", "sees", "naïve", "😀", "return", "\n", "x", "<|endoftext|>", "42"]
DOCUMENTS = [" ".join(RNG.choices(WORDS, k=RNG.randint(1, 60))) for _ in range(400)]


@pytest.fixture(scope="module")
def tok():
    return Tokenizer.train(iter(DOCUMENTS), 300)


@pytest.fixture
def files(tmp_path):
    """Documents in JSONL, compressed and not, and two of text; and what is in them."""
    folder = tmp_path / "text"
    folder.mkdir()
    lines = [json.dumps({"text": text}) for text in DOCUMENTS]
    (folder / "a.jsonl").write_text("\n".join(lines[:150]))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress("\n\n".join(lines[150:300]).encode()))
    (folder / "c.txt").write_text("\n".join(DOCUMENTS[300:350]))
    (folder / "d.md").write_text("\n".join(DOCUMENTS[350:]))
    (folder / "e.txt").write_text(" \n")
    texts = [*DOCUMENTS[:300], "\n".join(DOCUMENTS[300:350]), "\n".join(DOCUMENTS[350:])]
    return folder, [text.encode() for text in texts if text.strip()]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def load(folder):
    index = json.loads((folder / "index.json").read_text())
    arrays = [np.load(shards.shard_paths(folder, n)[0], mmap_mode="r") for n in range(len(index["shards"]))]
    tables = [np.load(shards.shard_paths(folder, n)[1]) for n in range(len(index["shards"]))]
    return index, arrays, np.concatenate(tables)


@pytest.mark.parametrize("shard_tokens", [1 << 27, 500])
@pytest.mark.parametrize("end_of_text", [True, False])
def test_round_trip(tok, files, tmp_path, shard_tokens, end_of_text):
    folder, documents = files
    done = tokenize_files([folder], tok, tmp_path / "out", shard_tokens=shard_tokens, end_of_text=end_of_text)
    index, arrays, table = load(tmp_path / "out")
    assert done == index
    stream = np.concatenate(arrays)
    assert stream.dtype == np.uint16
    expected = [tok.encode_ordinary(d) + [tok.end_of_text] * end_of_text for d in documents]
    assert stream.tolist() == [id for ids in expected for id in ids]
    assert table["start"].tolist() == np.cumsum([0, *map(len, expected[:-1])]).tolist()
    assert table["bytes"].tolist() == list(map(len, documents))
    ends = [*table["start"][1:].tolist(), len(stream)]
    for start, end, document in zip(table["start"].tolist(), ends, documents, strict=True):
        assert tok.decode_bytes(stream[start : end - end_of_text].astype(np.int64)) == document
    assert (index["tokens"], index["documents"], index["bytes"]) == (
        len(stream),
        len(documents),
        sum(map(len, documents)),
    )
    assert index["tokenizer"] == tok.digest == Tokenizer.load(tmp_path / "out").digest
    assert all(len(array) >= shard_tokens for array in arrays[:-1])
    assert (len(arrays) == 1) == (shard_tokens > 500)


def test_large_vocabularies_take_uint32(tok, files, tmp_path):
    vocabulary = tok.vocabulary
    large = Tokenizer(vocabulary._replace(special_tokens={"<|endoftext|>": 1 << 16}))
    assert tokenize_files([files[0]], large, tmp_path / "out")["dtype"] == "uint32"
    assert (load(tmp_path / "out")[1][0] == 1 << 16).sum() == len(files[1])


def test_threads_and_batches_change_no_byte(tok, files, tmp_path, monkeypatch):
    before, made = runtime.num_threads(), []
    try:
        for threads, batch in ((1, 1 << 23), (3, 1 << 23), (2, 100)):
            runtime.set_num_threads(threads)
            monkeypatch.setattr("llmcore.data.tokenizing._BATCH_BYTES", batch)
            tokenize_files([files[0]], tok, tmp_path / f"{threads}", shard_tokens=700)
            made.append(contents(tmp_path / f"{threads}"))
    finally:
        runtime.set_num_threads(before)
    assert made[0] == made[1] == made[2]


SLOWLY = """
import json, sys, time
from llmcore.data import tokenize_files, tokenizing
from llmcore.documents import texts
from llmcore.tokenizer import Tokenizer
source, tokenizer, out, part, pause = sys.argv[1:]
texts.PART_BYTES, tokenizing._BATCH_BYTES = int(part), 2000
tokenize_files([source], Tokenizer.load(tokenizer), out, shard_tokens=400,
               progress=lambda *figures: time.sleep(float(pause)))
"""


@pytest.mark.parametrize("part", [1 << 25, 700])
def test_killed_at_any_moment_goes_on_to_the_same_bytes(tok, files, tmp_path, part):
    """With parts of 700 bytes, shards end in the midst of documents too."""
    tok.save(tmp_path / "tokenizer.json")

    def command(out, pause):
        arguments = [files[0], tmp_path / "tokenizer.json", out, part, pause]
        return [sys.executable, "-c", SLOWLY, *map(str, arguments)]

    subprocess.run(command(tmp_path / "straight", 0), check=True, timeout=60)
    straight = contents(tmp_path / "straight")
    index = json.loads(straight["index.json"])
    assert len(index["shards"]) > 10
    assert any("start" in shard for shard in index["shards"]) == (part == 700)
    out = tmp_path / "killed"
    for shard in (0, 3, 7, len(index["shards"]) - 2):
        process = subprocess.Popen(command(out, 0.01))
        while process.poll() is None and not shards.shard_paths(out, shard)[0].exists():
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
        with pytest.raises(CorpusError, match="is not finished: give the same"):
            ShardSet(out)
    (out / ".shard-00099.npy").write_bytes(b"left by another")
    subprocess.run(command(out, 0), check=True, timeout=60)
    assert contents(out) == straight


def test_what_is_there_is_not_replaced_by_accident(tok, files, tmp_path):
    folder, _ = files
    out = tmp_path / "out"
    first = tokenize_files([folder], tok, out)
    before = contents(out)
    assert tokenize_files([folder], tok, out) == first  # nothing is left to do
    other = Tokenizer.train(iter(DOCUMENTS), 290)
    for arguments, problem in (
        (([folder / "a.jsonl"], tok), "was begun with other files"),
        (([folder], other), "was begun with tokenizer "),
        (([folder], tok, out, "body"), "was begun with field text, not body"),
        (([folder], tok, out, "text", 99), "was begun with shard_tokens"),
    ):
        with pytest.raises(FileExistsError, match=f"{problem}.*give another --out, or --overwrite"):
            tokenize_files(*(*arguments, out)[: max(3, len(arguments))])
    with pytest.raises(FileExistsError, match="holds other files"):
        tokenize_files([folder], tok, folder)
    assert contents(out) == before
    assert tokenize_files([folder / "a.jsonl"], other, out, overwrite=True)["documents"] == 150
    assert Tokenizer.load(out) == other


def test_full_disk_is_one_error_and_nothing_half_written(tok, files, tmp_path):
    """A limit on the size of files stands in for the disk."""
    tok.save(tmp_path / "tokenizer.json")
    arguments = ["tokenize", "--out", tmp_path / "out", files[0], "-t", tmp_path / "tokenizer.json"]
    command = [sys.executable, "-m", "llmcore", *map(str, arguments)]
    limit = os.path.getsize(tmp_path / "tokenizer.json") + 100
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: File too large: ")
    assert done.stderr.count("\n") == 1
    assert sorted(contents(tmp_path / "out")) == ["index.json", "tokenizer.json"]
    assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    tokenize_files([files[0]], tok, tmp_path / "straight")
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


def test_broken_text_is_named_and_can_be_mended(tok, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n{"text": 2}')
    with pytest.raises(CorpusError, match=r'a\.jsonl:2: "text" is int'):
        tokenize_files([path], tok, tmp_path / "out", shard_tokens=1)
    path.write_text('{"text": "one"}\n{"text":"2"}')
    assert tokenize_files([path], tok, tmp_path / "out", shard_tokens=1, overwrite=True)["documents"] == 2
    (tmp_path / "blank.txt").write_text(" ")
    with pytest.raises(CorpusError, match="expected some text, got 1 files that are empty"):
        tokenize_files([tmp_path / "blank.txt"], tok, tmp_path / "none")
    lacking = tok.vocabulary._replace(tokens=[b"" if t == b"o" else t for t in tok.vocabulary.tokens], merges=[])
    with pytest.raises(CorpusError, match=r"\[tokenize\] .*a\.jsonl: expected text that the vocabulary has tokens for"):
        tokenize_files([path], Tokenizer(lacking), tmp_path / "other")


@pytest.mark.parametrize("fraction", [0.1, 0.4])
def test_batches_and_split_are_those_of_the_text(tok, files, tmp_path, fraction):
    folder, _ = files
    tokenize_files([folder], tok, tmp_path / "out", shard_tokens=300)
    corpus, opened = read_corpus(folder, fraction), ShardSet(tmp_path / "out", fraction)
    assert (opened.train_bytes, opened.validation_bytes) == (corpus.train_bytes, corpus.validation_bytes)
    assert opened.tokenizer == tok
    for ours, expected in zip(opened.encode(tok), corpus.encode(tok), strict=True):
        np.testing.assert_array_equal(np.asarray(ours), expected)
        assert ours.dtype == expected.dtype
        batches, plain = TokenBatches(ours, 4, 16, 1), TokenBatches(expected, 4, 16, 1)
        for step in range(40):
            np.testing.assert_array_equal(batches.batch(step), plain.batch(step))
    assert ShardSet(tmp_path / "out", 0.3).digest != opened.digest == ShardSet(tmp_path / "out", fraction).digest


def test_one_document_has_its_tail_held_out(tok, files, tmp_path):
    tokenize_files([files[0] / "c.txt"], tok, tmp_path / "out", shard_tokens=300)
    opened = ShardSet(tmp_path / "out", 0.2)
    train, validation = map(np.asarray, opened.encode(tok))
    stream = np.concatenate(load(tmp_path / "out")[1])
    np.testing.assert_array_equal(np.concatenate([train, validation]), stream)
    assert len(validation) == round(0.2 * len(stream))
    assert opened.validation_bytes == len(tok.decode_bytes(validation[:-1]))


SIZES = {"context": 16, "layers": 1, "width": 32, "heads": 2, "batch_size": 4, "warmup": 5, "steps": 6, "eval_every": 3}


def test_pretraining_on_shards_is_that_on_the_text(tok, files, tmp_path):
    tok.save(tmp_path / "tok")
    tokenize_files([files[0]], tok, tmp_path / "shards", shard_tokens=1000)
    settings = {**SIZES, "save_every": 3, "tokenizer": str(tmp_path / "tok")}
    pretrain(PretrainConfig(data=str(files[0]), out=str(tmp_path / "text-run"), **settings), report=Report())
    run = PretrainConfig(data=str(tmp_path / "shards"), out=str(tmp_path / "run"), **settings | {"tokenizer": None})
    pretrain(run, report=Report())
    for name in ("model.safetensors", "tokenizer.json"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "text-run" / name).read_bytes()
    losses = [
        [
            json.loads(line)["train/loss"] if "val/bpb" not in line else json.loads(line)["val/bpb"]
            for line in (tmp_path / name / "log.jsonl").read_text().splitlines()
        ]
        for name in ("run", "text-run")
    ]
    assert losses[0] == losses[1]


def test_another_tokenizer_is_refused(tok, files, tmp_path):
    other = Tokenizer.train(iter(DOCUMENTS), 290)
    other.save(tmp_path / "other")
    tokenize_files([files[0]], tok, tmp_path / "out")
    config = PretrainConfig(
        data=str(tmp_path / "out"), out=str(tmp_path / "run"), tokenizer=str(tmp_path / "other"), **SIZES
    )
    with pytest.raises(ValueError, match=r"out was made with another tokenizer \(digest \w{12}, vocabulary of 293\)"):
        pretrain(config, report=Report())
    other.save(tmp_path / "out")
    with pytest.raises(ValueError, match="out was made with another tokenizer"):
        ShardSet(tmp_path / "out").tokenizer  # noqa: B018 - opened when asked for
    with pytest.raises(
        ValueError, match=r"expected tokens by themselves, or --weights for each, got .*out beside others"
    ):
        pretrain(PretrainConfig(data=[str(tmp_path / "out"), "x.txt"], out=str(tmp_path / "run")), report=Report())


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"version": 2}, "format, version: expected llmcore-shards, 1"),
        ({"version": True}, "version: expected int"),
        ({"tokens": 10**30}, "tokens: expected int of at least 0"),
        ({"tokens": -1}, "tokens: expected int of at least 0"),
        ({"documents": 3}, "documents: expected the sum over all shards"),
        ({"dtype": "float64"}, "dtype: expected uint16, got float64"),
        ({"dtype": "O"}, "dtype: expected uint16, got O"),
        ({"end_of_text": 5000}, "end_of_text: expected an id or null"),
        ({"shards": [3]}, r"shards\[0\]\.: expected an object"),
        ({"shards": {}}, "shards: expected list"),
        ({"sources": [{"path": 1}]}, r"sources\[0\].path: expected str"),
        ({"complete": 1}, "complete: expected bool"),
        ([], "expected an object"),
        (b"{", "expected JSON"),
        (b"[" * 10**5, "expected JSON"),
        (b"\xff", "expected JSON"),
    ],
)
def test_bad_index(tok, files, tmp_path, change, problem):
    out = tmp_path / "out"
    index = tokenize_files([files[0]], tok, out)
    if isinstance(change, dict):
        change = index | change
    data = change if isinstance(change, bytes) else json.dumps(change).encode()
    (out / "index.json").write_bytes(data)
    with pytest.raises(CorpusError, match=problem) as caught:
        ShardSet(out)
    assert f"{out}/index.json" in str(caught.value)


def test_bad_arrays(tok, files, tmp_path):
    tokenize_files([files[0]], tok, tmp_path / "out", shard_tokens=3000)
    tokens, table = shards.shard_paths(tmp_path / "out", 1)
    whole, records = tokens.read_bytes(), np.load(table)
    for data in (
        b"",
        b"junk",
        whole[:100],
        whole[:-1],
        whole.replace(b"<u2", b"<i2", 1),
        whole.replace(b"'<u2'", b"'|O' "),
    ):
        tokens.write_bytes(data)
        with pytest.raises(CorpusError, match=r"shard-00001\.npy"):
            ShardSet(tmp_path / "out")
        with pytest.raises(CorpusError, match=r"shard-00001\.npy"):
            tokenize_files([files[0]], tok, tmp_path / "out", shard_tokens=3000)
    tokens.write_bytes(whole)
    records["start"][-1] = 2**63
    np.save(table, records)
    with pytest.raises(CorpusError, match="expected documents whose starts ascend"):
        ShardSet(tmp_path / "out")
    tokens.unlink()
    with pytest.raises(CorpusError, match=r"cannot read .*shard-00001\.npy: No such file"):
        ShardSet(tmp_path / "out")


@pytest.mark.parametrize("pattern", ["cl100k", r"[\s\S]{1,7}"])
def test_parts_of_long_texts_are_encoded_as_the_whole(pattern, tmp_path, monkeypatch):
    """Where lines end between words, as they do in text; what an expression has go on there is not cut."""
    tok = Tokenizer.train(iter(DOCUMENTS), 300, pattern=pattern)
    text = "\n".join(f"line {n} of a text" for n in range(500)).encode()
    (tmp_path / "a.txt").write_bytes(text)
    monkeypatch.setattr(texts, "PART_BYTES", 1000)
    tokenize_files([tmp_path / "a.txt"], tok, tmp_path / "out", end_of_text=False)
    _, (ids,), table = load(tmp_path / "out")
    assert ids.tolist() == tok.encode_ordinary(text)
    assert table["bytes"].tolist() == [len(text)]
