"""Rows in files of every kind are the same rows; what is wrong with one is named with its line, or skipped and counted."""

import csv
import gzip
import io
import json
from decimal import Decimal

import pytest

from llmcore.data import CorpusError
from llmcore.data.rows import read_rows
from llmcore.documents.texts import read_documents

ROWS = [
    {"prompt": "two, plus \"two\"?", "completion": "four\nor so"},
    {"prompt": "ünï \U0001f600\u2028 x", "completion": "a\tb", "group": "g"},
    {"prompt": "NA", "completion": "None"},
]  # fmt: skip


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def table(rows, **options):
    file = io.StringIO()
    writer = csv.DictWriter(file, ["prompt", "completion", "group"], **options)
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue()


FORMS = {
    "lines.jsonl": lines(ROWS),
    "crlf.jsonl": "\r\n" + lines(ROWS).replace("\n", "\r\n\r\n"),
    "nulls.jsonl": lines({"group": None, **row} for row in ROWS),
    "list.json": json.dumps(ROWS, indent=1),
    "list.jsonl": json.dumps(ROWS),
    "lines.json": lines(ROWS),
    "objects.json": "\n\n".join(json.dumps(row, indent=2) for row in ROWS),
    "wrapped.json": json.dumps({"version": "1", "data": ROWS}),
    "commas.csv": table(ROWS),
    "semicolons.csv": table(ROWS, delimiter=";", lineterminator="\n"),
    "quoted.csv": table(ROWS, quoting=csv.QUOTE_ALL) + "\r\n",
    "tabs.tsv": table(ROWS, delimiter="\t"),
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_the_same_rows(tmp_path, name, encoding):
    path = tmp_path / name
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    path.write_bytes((mark + FORMS[name]).encode(encoding))
    assert [row.fields for row in read_rows(path)] == ROWS
    packed = tmp_path / f"{name}.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    assert [row.fields for row in read_rows(packed)] == ROWS
    assert read_documents(path, "prompt") == [row["prompt"].encode() for row in ROWS]


def test_where_rows_stand(tmp_path):
    for name, numbers in {"objects.json": [1, 6, 12], "quoted.csv": [2, 4, 5], "list.json": [2, 6, 11]}.items():
        path = tmp_path / name
        path.write_text(FORMS[name], newline="")
        assert [row.where for row in read_rows(path)] == [f"{path}:{n}" for n in numbers]


def test_folders_of_data_sets(tmp_path):
    """A data set's folder as the hub has it: what describes it is no row."""
    for name, text in {"README.md": "# Rows", "dataset_infos.json": '{"default": {}}', ".hidden.jsonl": "x",
                       "data/train-0.jsonl": lines(ROWS[:1]), "data/train-1.csv": table(ROWS[1:]), "LICENSE": "",
                       "data/test-0.jsonl": lines(ROWS), "loader.py": ""}.items():  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, newline="")
    notes = []
    assert [row.fields for row in read_rows(tmp_path, note=notes.append)] == ROWS
    assert [n.removeprefix(f"{tmp_path}: ") for n in notes] == [
        "4 files are not read: 1 .json, 1 .md, 1 .py, 1 LICENSE",
        "left out beside the training files: data/test-0.jsonl (a file that is named itself is read)",
    ]
    assert len(read_rows(tmp_path / "data" / "test-0.jsonl")) == 3
    (tmp_path / "data" / "train-0.jsonl").rename(tmp_path / "data" / "more.jsonl")
    (tmp_path / "data" / "train-1.csv").unlink()
    assert len(read_rows(tmp_path)) == 4  # nothing is called training
    (tmp_path / "none").mkdir()
    with pytest.raises(CorpusError, match=r"no rows in the folder .* \.jsonl \.ndjson \.json \.csv \.tsv \.parquet"):
        read_rows(tmp_path / "none")
    with pytest.raises(
        CorpusError, match=r"README\.md: expected a \.jsonl, \.json, \.csv, \.tsv, \.parquet or \.arrow file"
    ):
        read_rows(tmp_path / "README.md")


GOOD = b'{"text": "good"}'
BAD_LINES = {
    "half a line": (b'{"text": "he', "not valid JSON"),
    "two on a line": (GOOD + GOOD, "not valid JSON"),
    "NUL bytes": (b"\0\0\0\0", "not valid JSON"),
    "a raw NUL": (b'{"text": "a\0"}', "not valid JSON"),
    "Latin-1": ('{"text": "é"}'.encode("latin-1"), "not UTF-8 text at byte 10 of the line"),
    "half a pair": (b'{"text": "\\ud83d"}', "half a surrogate pair"),
    "half a pair, deep": (b'{"a": {"b": ["\\uDE00 "]}}', "half a surrogate pair"),
    "a key twice": (b'{"text": "a", "text": "b"}', "the key 'text' comes twice"),
    "NaN": (b'{"text": "a", "score": NaN}', "NaN is no JSON; what is not there is null"),
    "infinity": (b'{"score": -Infinity}', "-Infinity is no JSON"),
    "beyond any number": (b'{"score": 1e999}', "1e999 is beyond any number"),
    "too many digits": (b'{"score": ' + b"9" * 5000 + b"}", "not valid JSON"),
    "nested deeply": (b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "at most 100 levels"),
    "nested without end": (b"[" * 100_000, "not valid JSON"),
    "single quotes": (b"{'text': 'a'}", "not valid JSON"),
    "no object": (b'"text"', "expected a JSON object, got str"),
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_lines(tmp_path, name):
    line, message = BAD_LINES[name]
    path = tmp_path / "a.jsonl"
    path.write_bytes(GOOD + b"\n\n" + line + b"\n" + GOOD)
    with pytest.raises(CorpusError) as caught:
        read_rows(path)
    assert f"{path}:3" in str(caught.value)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    told = []
    assert [row.where for row in read_rows(path, bad=told.append)] == [f"{path}:1", f"{path}:4"]
    assert len(told) == 1
    assert told[0].startswith(f"{path}:3")


def test_whole_pairs_are_read(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "\\ud83d\\ude00 \\u0000"}')
    assert read_rows(path)[0].fields == {"text": "\U0001f600 \0"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"a,b,c", "expected 2 cells, as the first line has, got 3"),
        (b"a", "expected 2 cells, as the first line has, got 1"),
        (b'"a"b,c', "not CSV"),
        (b"a\0,b", "a NUL byte"),
        ("é,b".encode("latin-1"), "not UTF-8 text"),
    ],
)
def test_bad_rows_of_tables(tmp_path, line, message):
    path = tmp_path / "a.csv"
    path.write_bytes(b'prompt,completion\r\n"a\nb",c\r\n\r\n' + line + b"\r\nd,e\r\n")
    with pytest.raises(CorpusError, match=rf"a\.csv:5: .*{message}"):
        read_rows(path)
    told = []
    rows = read_rows(path, bad=told.append)
    assert [row.fields for row in rows] == [{"prompt": p, "completion": c} for p, c in (("a\nb", "c"), ("d", "e"))]
    assert len(told) == 1


def test_tables_without_an_end(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('prompt,completion\na,b\n"c,d\ne,f\n')
    with pytest.raises(CorpusError, match=r"a\.csv:3: not CSV \(unexpected end of data\)"):
        read_rows(path)
    path.write_text("a,a\nb,c\n")
    with pytest.raises(CorpusError, match=r"a\.csv:1: expected columns with names of their own, got 'a' twice"):
        read_rows(path)
    path.write_text(",prompt,x\n0,a,\n1,b,c\n")  # pandas puts its index first
    assert [row.fields for row in read_rows(path)] == [{"prompt": "a"}, {"prompt": "b", "x": "c"}]
    path.write_text("prompt\n" + "x" * 200_000 + "\n")  # longer than Python's limit
    assert len(read_rows(path)[0].fields["prompt"]) == 200_000


def test_lists_that_end_early(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[\n{"text": "a"},\n3,\n{"text": "é"},\n{"text": "b')
    told = []
    assert [row.fields["text"] for row in read_rows(path, bad=told.append)] == ["a", "é"]
    assert [problem.partition(" ")[0] for problem in told] == [f"{path}:3:", f"{path}:5:"]
    path.write_text('[{"text": "a"}\n{"text": "b"}]')
    with pytest.raises(CorpusError, match=r"a\.json:2: not valid JSON \(expected a comma or the end of the list\)"):
        read_rows(path)
    path.write_bytes(b"\xff\xfea\0b")
    with pytest.raises(CorpusError, match=r"cannot read .*a\.json as its byte order mark says"):
        read_rows(path)
    path.write_text("")
    with pytest.raises(CorpusError, match="expected some rows, got none"):
        read_rows(path)


def test_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("q,a\none,two\n")
    assert read_rows(path, {"prompt": "q", "completion": "a"})[0].fields == {"prompt": "one", "completion": "two"}
    with pytest.raises(
        CorpusError, match=r"\[data\] .*a\.csv:2: expected a column 'x', as --columns says; the columns are: q, a"
    ):
        read_rows(path, {"prompt": "x"})


# ---- parquet ----


@pytest.mark.peers
def test_every_type_of_parquet(tmp_path):
    """Every type that pyarrow can write is read as its plain value, or named."""
    import datetime

    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    text, message = "ab", pa.struct([("role", pa.string()), ("content", pa.string_view()), ("name", pa.string())])
    said = [{"role": "user", "content": "hi", "name": None}]
    moment = datetime.datetime(2024, 5, 20, 1, 2, 3)
    columns = {
        "string": (pa.array([text]), text),
        "large_string": (pa.array([text], pa.large_string()), text),
        "string_view": (pa.array([text], pa.string_view()), text),
        "binary": (pa.array([b"ab"]), text),
        "large_binary": (pa.array([b"ab"], pa.large_binary()), text),
        "binary_view": (pa.array([b"ab"], pa.binary_view()), text),
        "fixed_size_binary": (pa.array([b"ab"], pa.binary(2)), text),
        "no_text": (pa.array([b"\xff\xfe"]), b"\xff\xfe"),
        "dictionary": (pa.array([text]).dictionary_encode(), text),
        "list": (pa.array([[text, None]], pa.list_(pa.string())), [text, None]),
        "large_list": (pa.array([[text]], pa.large_list(pa.large_string())), [text]),
        "fixed_size_list": (pa.array([[1, 2]], pa.list_(pa.int8(), 2)), [1, 2]),
        "messages": (pa.array([said], pa.list_(message)), said),
        "list_of_dictionaries": (pa.array([[text]], pa.list_(pa.dictionary(pa.int32(), pa.string()))), [text]),
        "map": (pa.array([[("k", 1)]], pa.map_(pa.string(), pa.int64())), {"k": 1}),
        "bool": (pa.array([True]), True),
        "uint64": (pa.array([2**64 - 1], pa.uint64()), 2**64 - 1),
        "float16": (pa.array([1.5], pa.float16()), 1.5),
        "double": (pa.array([1.25]), 1.25),
        "decimal": (pa.array([Decimal("1.50")]), "1.50"),
        "timestamp": (pa.array([moment]), "2024-05-20 01:02:03"),
        "date": (pa.array([moment.date()]), "2024-05-20"),
        "time": (pa.array([moment.time()]), "01:02:03"),
        "duration": (pa.array([datetime.timedelta(1)]), "1 day, 0:00:00"),
    }
    path = tmp_path / "a.parquet"
    for name, (array, value) in columns.items():
        parquet.write_table(pa.table({name: array}), path)
        assert [row.fields for row in read_rows(path)] == [{name: value}], name
    whole = pa.table({name: array for name, (array, _) in columns.items()} | {"null": pa.nulls(1)})
    for new, name in ((pa.ipc.new_file, "file.arrow"), (pa.ipc.new_stream, "stream.arrow")):
        with new(tmp_path / name, whole.schema) as writer:
            writer.write_table(whole)
        assert [row.fields for row in read_rows(tmp_path / name)] == [{n: v for n, (_, v) in columns.items()}]
        assert read_documents(tmp_path / name, "string_view") == [b"ab"]
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-200])
        with pytest.raises(CorpusError, match=name):
            read_rows(tmp_path / name)
    parquet.write_table(whole, path)
    assert [row.fields for row in read_rows(path)] == [{name: value for name, (_, value) in columns.items()}]
    for name in ("string", "large_string", "string_view", "binary", "large_binary", "binary_view", "dictionary"):
        assert read_documents(path, name) == [b"ab"]
    with pytest.raises(CorpusError, match=r'column "messages" is list<.*expected strings'):
        read_documents(path, "messages")


@pytest.mark.peers
def test_parquet_that_cannot_be_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table([pa.array(["a"]), pa.array(["b"])], ["text", "text"]), path)
    with pytest.raises(CorpusError, match="expected columns with names of their own, got 'text' twice"):
        read_rows(path)
    invalid = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0"), pa.py_buffer(b"a\xff")]
    )
    parquet.write_table(pa.table({"text": invalid}), path)
    with pytest.raises(CorpusError, match=r"a\.parquet: row 2: column 'text' of type string cannot be read"):
        read_rows(path)
    told = []
    assert [row.fields for row in read_rows(path, bad=told.append)] == [{"text": "a"}]
    assert len(told) == 1


@pytest.mark.peers
def test_what_datasets_writes(tmp_path):
    """`datasets` fills what some rows lack with null, in files of every kind that it writes."""
    datasets = pytest.importorskip("datasets")
    rows = [
        {"messages": [{"role": "user", "content": "hi"}], "group": None},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}], "group": "g"},
    ]  # fmt: skip
    made = datasets.Dataset.from_list(rows)
    made.to_parquet(tmp_path / "a.parquet")
    made.to_json(tmp_path / "a.jsonl")
    made.to_json(tmp_path / "a.json", lines=False)
    found = [[row.fields for row in read_rows(tmp_path / name)] for name in ("a.parquet", "a.jsonl", "a.json")]
    made.save_to_disk(tmp_path / "saved")  # .arrow beside dataset_info.json and state.json
    found.append([row.fields for row in read_rows(tmp_path / "saved")])
    assert found[0] == found[1] == found[2] == found[3]
    assert found[0][0] == {"messages": [{"role": "user", "content": "hi", "tool_calls": None}]}
