"""Reading text from files, folders, globs and JSONL; the split; one clear line for each thing wrong."""

import gzip
import json
import os

import pytest

from llmcore.data import Corpus, CorpusError, read_corpus, stream_documents
from llmcore.data.corpus import split_documents
from llmcore.documents.texts import read_documents

LINES = b"".join(b"line %d of a text\n" % number for number in range(200))


def documents_of(corpus):
    return sorted(corpus.train + corpus.validation)


def test_one_file_holds_out_its_tail_at_a_line_boundary(tmp_path):
    (tmp_path / "a.txt").write_bytes(LINES)
    corpus = read_corpus(str(tmp_path / "a.txt"))
    assert isinstance(corpus, Corpus)
    assert corpus.name == str(tmp_path / "a.txt")
    (train,), (validation,) = corpus.train, corpus.validation
    assert train + validation == LINES
    assert train.endswith(b"\n")
    assert corpus.train_bytes == len(train)
    assert corpus.validation_bytes == len(validation)
    assert abs(len(validation) - len(LINES) / 10) < 20


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        (b"one two three four five six seven", b" "),
        ("äöü".encode() * 50, b""),
        (b"\n" + b"x" * 100, b""),
        (b"x" * 100 + b"\n", b""),
        (b"ab", b""),
        ("äöü".encode()[1:2] * 100, None),
    ],
)
def test_text_without_lines_is_cut_at_a_space_or_a_character(text, cut):
    train, validation = split_documents([text], 0.1)
    assert train[0] + validation[0] == text
    assert 0 < len(validation[0]) <= max(1, len(text) // 4)
    if cut is not None:  # text, not only bytes
        assert train[0].endswith(cut)
        train[0].decode(), validation[0].decode()


def test_few_documents_hold_out_a_tail_each():
    documents = [LINES, LINES.upper(), b"x"]
    train, validation = split_documents(documents, 0.1)
    assert len(train) == 3
    assert len(validation) == 2


@pytest.mark.parametrize("fraction", [0.02, 0.1, 0.5, 0.9])
def test_many_documents_split_by_content(fraction):
    documents = [b"document %d " % number * (1 + number % 7) for number in range(2000)]
    train, validation = split_documents(documents, fraction)
    assert sorted(train + validation) == sorted(documents)
    held, size = sum(map(len, validation)), sum(map(len, documents))
    assert held == pytest.approx(fraction * size, abs=120)
    # chance, not size or place, decides
    assert sum(map(len, validation[:10])) != sum(map(len, documents[:10]))
    assert held / len(validation) == pytest.approx(size / len(documents), rel=0.25)
    # neither order nor repetition moves a document
    again, held_again = split_documents(documents[::-1] * 2, fraction)
    assert set(again) == set(train)
    assert set(held_again) == set(validation)


def test_added_documents_move_only_those_at_the_border():
    documents = [b"document %d" % number for number in range(3000)]
    before = set(split_documents(documents[:2900], 0.1)[1])
    after = set(split_documents(documents, 0.1)[1])
    assert len(before - after) + len(after - before) < 40


@pytest.mark.parametrize("fraction", [0.1, 0.5, 0.9])
def test_neither_side_is_empty(fraction):
    for salt in range(50):
        documents = [b"%d/%d" % (salt, number) for number in range(20)]
        train, validation = split_documents(documents, fraction)
        assert train
        assert validation
        assert len(train) + len(validation) == 20


def test_one_huge_document_among_many_is_trained_on():
    for salt in range(20):
        documents = [b"%d/%d" % (salt, number) for number in range(30)] + [b"%d" % salt * 10_000]
        train, validation = split_documents(documents, 0.1)
        assert documents[-1] in train
        assert validation
        repeated = [b"%d" % salt * 5] * 50 + documents[:30]
        train, validation = split_documents(repeated, 0.1)
        assert repeated[0] not in validation
        assert validation


def test_documents_that_cannot_be_divided(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "the same"}\n' * 30)
    with pytest.raises(CorpusError, match="too short to hold a part out: 240 bytes in 1 distinct"):
        read_corpus(tmp_path / "a.jsonl")


def test_folder_is_recursive_sorted_and_selective(tmp_path):
    for name in (
        "b.txt",
        "a.md",
        "sub/c.rst",
        "sub/d.py",
        ".git/config.txt",
        ".hidden.txt",
        "image.png",
        "e.TXT",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "broken.txt").symlink_to(tmp_path / "absent")
    (tmp_path / "f.jsonl").write_text('{"text": "f"}\n')
    assert read_documents(tmp_path) == [b"a.md", b"b.txt", b"e.TXT", b"f", b"sub/c.rst", b"sub/d.py"]


def test_glob_and_list(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.data").write_bytes(name.encode() + LINES)
    assert read_documents(str(tmp_path / "[ab].data")) == [b"a" + LINES, b"b" + LINES]
    corpus = read_corpus([str(tmp_path / "c.data"), tmp_path / "a.data"])
    assert corpus.train[0].startswith(b"c")
    assert corpus.train[1].startswith(b"a")
    assert corpus.name == f"{tmp_path}/c.data, {tmp_path}/a.data"


def test_a_file_with_glob_characters_in_its_name(tmp_path):
    (tmp_path / "a[1].txt").write_bytes(LINES)
    assert read_documents(str(tmp_path / "a[1].txt")) == [LINES]


def test_any_bytes_are_kept(tmp_path):
    content = bytes(range(256)) * 10
    (tmp_path / "a.txt").write_bytes(content)
    corpus = read_corpus(tmp_path / "a.txt")
    assert corpus.train[0] + corpus.validation[0] == content


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_jsonl(tmp_path, ending):
    texts = ["plain", "ünïcode 😀", "two\nlines", "", "  "]
    content = "\n\n".join(json.dumps({"id": 1, "text": text}) for text in texts).encode()
    path = tmp_path / f"a{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    assert read_documents(path) == [text.encode() for text in texts[:3]]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"{", "not valid JSON"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"text": ' + b"9" * 5000 + b"}", '"text" is int|not valid JSON'),
        (b"\x93NUMPY\x01", "not UTF-8 text at byte 0"),
        (b'"text"', "expected a JSON object.*got str"),
        (b'{"content": "x", "id": 3}', 'no "text" field; the fields are: content, id'),
        (b'{"\\u0007\\n": 3}', 'no "text" field; the fields are: \\?\\?'),
        (b"{}", "the fields are: none"),
        (b'{"text": ["x"]}', '"text" is list, expected a string'),
        (b'{"text": "a\\ud800"}', "half a surrogate pair"),
    ],
)
def test_bad_jsonl_names_file_and_line(tmp_path, line, problem):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "good"}\n\n' + line + b'\n{"text": "good"}\n')
    with pytest.raises(CorpusError, match=problem) as caught:
        read_documents(path)
    assert f"{path}:3: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(b'{"text": "a"}' * 100, mtime=0)[:-20]])
def test_broken_gzip(tmp_path, content):
    (tmp_path / "a.jsonl.gz").write_bytes(content)
    with pytest.raises(CorpusError, match=r"a\.jsonl\.gz"):
        read_documents(tmp_path / "a.jsonl.gz")


def test_missing_empty_and_unreadable(tmp_path):
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/x.png").write_text("x")
    os.mkfifo(tmp_path / "pipe")
    for source, problem in {
        "absent.txt": "absent.txt does not exist",
        "empty.txt": "empty.txt is empty",
        "blank.txt": "blank.txt is empty",
        "*.txt": "all 2 files are empty",
        "*.csv": "no file matches .*csv",
        "folder": "no text in the folder .*folder: looked for files ending in .txt",
        "pipe": "pipe is not a regular file",
        "x" * 300: "cannot read .*File name too long",
        "nul\0": "expected the path of a text",
    }.items():
        with pytest.raises(CorpusError, match=problem) as caught:
            read_corpus(f"{tmp_path}/{source}")
        assert "\n" not in str(caught.value)
    with pytest.raises(CorpusError, match="expected the path"):
        read_corpus("")
    with pytest.raises(CorpusError, match="an empty list"):
        read_corpus([])


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_forbidden_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(LINES)
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(CorpusError, match=r"cannot read .*a\.txt: Permission denied"):
        read_corpus(tmp_path / "a.txt")


def test_read_error_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_bytes(LINES)

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("llmcore.documents.reading.open_decompressed", denied)
    with pytest.raises(CorpusError, match=r"^\[corpus\] cannot read .*a.txt: Permission denied$"):
        read_corpus(tmp_path / "a.txt")


def test_too_short_to_divide(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"x")
    with pytest.raises(CorpusError, match="too short to hold a part out: 1 bytes"):
        read_corpus(tmp_path / "a.txt")


def test_wrong_arguments(tmp_path):
    for fraction in (0, 1, -0.1, float("nan")):
        with pytest.raises(ValueError, match="validation_fraction between 0 and 1"):
            read_corpus(tmp_path, fraction)
    for source in (3, None, b"bytes", [3]):
        with pytest.raises(TypeError, match=r"\[corpus\] expected a path"):
            read_corpus(source)


def test_digest_follows_content_and_split():
    corpus = Corpus("a", [b"ab", b"c"], [b"d"])
    assert corpus.digest == Corpus("other name", [b"ab", b"c"], [b"d"]).digest
    assert corpus.digest != Corpus("a", [b"a", b"bc"], [b"d"]).digest
    assert corpus.digest != Corpus("a", [b"ab"], [b"c", b"d"]).digest


def test_what_a_folder_holds_and_is_not_read_is_counted_by_kind(tmp_path):
    (tmp_path / "a.txt").write_text("some text to learn from\n" * 9)
    for name in ("b.cpp", "c.cpp", "d.pod", "Makefile", ".hidden"):
        (tmp_path / name).write_text("x")
    notes = []
    read_corpus(tmp_path, note=notes.append)
    list(stream_documents([tmp_path], note=notes.append))
    assert notes == [f"{tmp_path}: 4 files are not read: 2 .cpp, 1 .pod, 1 Makefile"] * 2
