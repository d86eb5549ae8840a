"""Documents out of files of every kind, in bounded memory, and one clear line for what is broken."""

import gzip
import io
import json
import subprocess
import sys
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore.data import CorpusError
from llmcore.documents import reading, texts
from llmcore.documents.texts import read_documents, read_parts

TEXTS = ["plain", "ünïcode 😀", "two\nlines", "  ", "", "x" * 5000]
KEPT = [text.encode() for text in TEXTS if text.strip()]


def parquet_bytes(texts, column="text", **options):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    file = io.BytesIO()
    table = pyarrow.table({"id": list(range(len(texts))), column: texts})
    parquet.write_table(table, file, row_group_size=options.pop("row_group_size", 2), **options)
    return file.getvalue()


def zst(data):
    return pytest.importorskip("zstandard").compress(data)


def jsonl(texts, field="text"):
    return "\n".join(json.dumps({"id": 1, field: text}) for text in texts).encode()


@pytest.mark.parametrize("pack", [lambda data: data, gzip.compress], ids=["", "gz"])
def test_jsonl_field(tmp_path, pack):
    path = tmp_path / ("a.ndjson" if pack(b"a") == b"a" else "a.ndjson.gz")
    path.write_bytes(pack(jsonl([*TEXTS, None], "content")))  # null is no document
    assert read_documents(path, "content") == KEPT
    with pytest.raises(CorpusError, match=r'ndjson.*:1: no "text" field; the fields are: id, content'):
        read_documents(path)


def test_text_in_gz_is_one_document(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"one\n") + gzip.compress(b"two\n"))
    (tmp_path / "b.md").write_bytes(b"three")
    (tmp_path / "c.gz").write_bytes(gzip.compress(b"not known to be text"))
    assert read_documents(tmp_path) == [b"one\ntwo\n", b"three"]
    assert read_documents(tmp_path / "c.gz") == [b"not known to be text"]


@pytest.mark.peers
def test_parquet(tmp_path):
    for name, data in {
        "a.parquet": parquet_bytes(TEXTS),
        "b.parquet.gz": gzip.compress(parquet_bytes(TEXTS, compression="zstd")),
        "null.parquet": parquet_bytes([*TEXTS, None]),
        "c.parquet": parquet_bytes([text.encode() for text in TEXTS]),
    }.items():
        (tmp_path / name).write_bytes(data)
        assert read_documents(tmp_path / name) == KEPT
    parts = list(read_parts(tmp_path / "a.parquet"))
    assert [(part.position, part.ends) for part in parts] == [(1, True), (2, True), (3, True), (6, True)]
    for after in range(7):
        rest = list(read_parts(tmp_path / "a.parquet", after=after))
        assert rest == [part for part in parts if part.position > after]


@pytest.mark.peers
def test_bad_parquet(tmp_path):
    path = tmp_path / "a.parquet"
    whole = parquet_bytes(TEXTS * 50)
    for data, problem in {
        parquet_bytes([1, 2]): 'column "text" is int64, expected strings',
        parquet_bytes(["a"], "body"): 'expected one column "text"; the columns are: id, body',
        whole[:-100]: "a.parquet",
        b"PAR1" + b"\xff" * 100 + b"\xff\xff\xff\x7fPAR1": "a.parquet",
        b"not parquet at all": "not a parquet file",
        b"": "a.parquet",
    }.items():
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=problem) as caught:
            read_documents(path)
        assert str(path) in str(caught.value)


@pytest.mark.peers
def test_damaged_parquet_is_read_or_refused(tmp_path):
    path = tmp_path / "a.parquet"
    whole = parquet_bytes(TEXTS * 50)
    for place in range(4, len(whole), 997):
        path.write_bytes(whole[:place] + b"\xff\x00\xff" + whole[place + 3 :])
        with suppress(CorpusError):  # and nothing else
            read_documents(path)


@pytest.mark.peers
def test_zst(tmp_path):
    path = tmp_path / "a.jsonl.zst"
    frames = zst(jsonl(TEXTS[:3]) + b"\n") + zst(jsonl(TEXTS[3:]))
    path.write_bytes(frames)
    assert read_documents(path) == KEPT
    for data in (frames[:-3], frames[: len(frames) // 2], b"not zstd", frames + b"more"):
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=r"cannot read .*a\.jsonl\.zst"):
            read_documents(path)


@pytest.mark.parametrize(("name", "module"), [("a.parquet", "pyarrow"), ("a.txt.zst", "zstandard")])
def test_a_missing_library_is_named(tmp_path, monkeypatch, name, module):
    (tmp_path / name).write_bytes(b"x")
    for each in (module, "pyarrow.parquet", "compression", "compression.zstd"):
        monkeypatch.setitem(sys.modules, each, None)
    with pytest.raises(CorpusError, match=rf"{name}: reading .* needs {module}: pip install {module}"):
        read_documents(tmp_path / name)


def test_truncated_gz_is_named_and_what_came_before_is_read(tmp_path):
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(jsonl([f"document {n}" for n in range(5000)]))[:-200])
    documents = []
    with pytest.raises(CorpusError, match=r"cannot read .*a\.jsonl\.gz: Compressed file ended"):
        documents.extend(part.data for part in read_parts(path))
    assert documents[0] == b"document 0"


@given(st.lists(st.sampled_from(["ab", "1.", "\n", " ", "é😀", "\n\n"]), max_size=60), st.integers(8, 40))
def test_long_texts_come_in_parts(tmp_path_factory, pieces, size):
    text = "".join(pieces).encode()
    path = tmp_path_factory.getbasetemp() / "long.txt"
    path.write_bytes(text)
    before, texts.PART_BYTES = texts.PART_BYTES, size
    try:
        parts = list(read_parts(path))
    finally:
        texts.PART_BYTES = before
    assert b"".join(part.data for part in parts) == (text if text.strip() or len(text) >= size else b"")
    assert [part.ends for part in parts] == [False] * (len(parts) - 1) + [True] * bool(parts)
    assert [part.position for part in parts] == list(range(1, len(parts) + 1))
    for part in parts:
        assert 0 < len(part.data) <= size
        part.data.decode()  # whole characters


def test_long_lines_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "LONGEST_LINE", 1 << 20)
    (tmp_path / "a.jsonl").write_bytes(jsonl(["fine"]) + b"\n" + b" " * (1 << 20) + b"\n")
    with pytest.raises(CorpusError, match=r"a\.jsonl:2: expected lines of less than 1 MiB"):
        read_documents(tmp_path / "a.jsonl")


BOMB = """
import re, resource, sys
from pathlib import Path
from llmcore.documents.texts import read_parts
import llmcore.tokenizer
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    print(sum(len(part.data) for part in read_parts(Path(sys.argv[1]))))
except ValueError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) // 1024)
"""


@pytest.mark.peers
@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.gz", "a.txt.zst"])
def test_bombs_stay_small(tmp_path, name):
    """Half a gigabyte of blanks out of a file of half a megabyte, or less."""
    size, block = 1 << 29, b" " * (1 << 24)
    path = tmp_path / name
    if name.endswith(".zst"):
        compressor = pytest.importorskip("zstandard").ZstdCompressor(level=1)
        with open(path, "wb") as file, compressor.stream_writer(file) as packed:
            for _ in range(size // len(block)):
                packed.write(block)
    else:
        path.write_bytes(gzip.compress(block, 1) * (size // len(block)))
    done = subprocess.run([sys.executable, "-c", BOMB, path], capture_output=True, text=True, timeout=120)
    told, peak = done.stdout.splitlines()
    assert told == str(size) if ".txt" in name else "lines of less than 256 MiB" in told
    assert int(peak) < 650 if "jsonl" in name else int(peak) < 250
