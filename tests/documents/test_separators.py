"""Documents with a text between them, as TinyStories' files have: apart where that is asked for, else with a word about it."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore import Tokenizer
from llmcore.data import ShardSet, read_corpus, stream_documents, tokenize_files
from llmcore.documents import texts
from llmcore.documents.separators import count_known, told
from llmcore.documents.texts import read_documents, read_parts
from llmcore.train import PretrainConfig, Report, pretrain

END = "<|endoftext|>"
STORIES = [f"{a} {b} a {c}.\n" for a in ("Ann", "Ben") for b in ("saw", "had") for c in ("cat", "dog", "hat")]


def test_stories_are_documents(tmp_path):
    path = tmp_path / "stories.txt"
    path.write_text(f"{END}\n".join(STORIES))  # TinyStoriesV2-GPT4-train.txt has its mark on a line by itself
    assert read_documents(path) == ["".join(f"{END}\n".join(STORIES)).encode()]
    assert read_documents(path, separators=[END]) == [s.encode() for s in STORIES]
    path.write_bytes(f"\r\n{END}\r\n".join(["one", "", "two", " "]).encode())
    assert read_documents(path, separators=[END]) == [b"one\r\n", b"two\r\n"]
    rows = tmp_path / "a.jsonl"
    rows.write_text("".join(json.dumps({"text": t}) + "\n" for t in (f"a{END}b", "c", f"d</s>e{END}")))
    assert read_documents(rows, separators=[END, "</s>"]) == [b"a", b"b", b"c", b"d", b"e"]
    assert list(stream_documents([rows], separators=["</s>"]))[-1] == b"e<|endoftext|>"
    with pytest.raises(ValueError, match="expected separators that are texts, got ''"):
        read_documents(rows, separators=[""])


@given(
    st.lists(st.sampled_from(["ab", "c\n", "<|", "|>", "<||>", "<||>\n", " ", "é"]), max_size=40), st.integers(8, 40)
)
def test_long_documents_come_in_parts(tmp_path_factory, pieces, size):
    """The parts between separators are str.split's, wherever the file is cut; and reading goes on from any of them."""
    text = "".join(pieces)
    path = tmp_path_factory.getbasetemp() / "separated.txt"
    path.write_text(text)
    before, texts.PART_BYTES = texts.PART_BYTES, size
    try:
        parts = list(read_parts(path, separators=["<||>"]))
        rest = [list(read_parts(path, after=n, separators=["<||>"])) for n in range(len(parts) + 1)]
    finally:
        texts.PART_BYTES = before
    whole, document = [], b""
    for part in parts:
        document += part.data
        if part.ends:
            whole.append(document)
            document = b""
    right = text.replace("<||>\n", "<||>").split("<||>")
    assert document == b""
    assert [d.strip() for d in whole] == [d.encode().strip() for d in right if d.strip()]
    assert rest == [parts[n:] for n in range(len(parts) + 1)]
    assert [part.position for part in parts] == list(range(1, len(parts) + 1))


def test_shards_are_those_of_the_documents(tmp_path):
    tokenizer = Tokenizer.train(iter(STORIES), 280)
    (tmp_path / "a.txt").write_text(END.join(STORIES))
    (tmp_path / "b.jsonl").write_text("".join(json.dumps({"text": s}) + "\n" for s in STORIES))
    one = tokenize_files([tmp_path / "a.txt"], tokenizer, tmp_path / "one", shard_tokens=20, separators=[END])
    two = tokenize_files([tmp_path / "b.jsonl"], tokenizer, tmp_path / "two", shard_tokens=20)
    assert (one["documents"], one["tokens"], one["marks"]) == (len(STORIES), two["tokens"], {})
    each = [np.asarray(ShardSet(tmp_path / n).encode(tokenizer)[0]).tolist() for n in ("one", "two")]
    assert each[0] == each[1]
    with pytest.raises(FileExistsError, match=r"was begun with separators \['<\|endoftext\|>'\], not \[\]"):
        tokenize_files([tmp_path / "a.txt"], tokenizer, tmp_path / "one", shard_tokens=20)
    three = tokenize_files([tmp_path / "a.txt"], tokenizer, tmp_path / "three")
    assert (three["documents"], three["marks"]) == (1, {END: len(STORIES) - 1})


def test_marks_in_a_text_are_told(tmp_path):
    counts = count_known([b"a</s>b", b"<|im_end|><|im_end|> <x>"], ["<x>"])
    assert counts == {"</s>": 1, "<|im_end|>": 2, "<x>": 1}
    assert told(counts).startswith(
        "<|im_end|> stands 2 times in the text (also </s>, <x>) and is taken as letters: --separators '<|im"
    )
    path = tmp_path / "stories.txt"
    path.write_text(f"{END}\n".join(STORIES * 9))

    class Hears(Report):
        def note(self, text):
            said.append(text)

    for separators, times in (([], 1), ([END], 0)):
        said = []
        config = PretrainConfig(data=str(path), out=str(tmp_path / "run"), separators=separators, vocab_size=270, layers=1,
                                width=32, heads=1, context=16, steps=1, batch_size=1, sample_every=0, eval_every=0)  # fmt: skip
        pretrain(config, report=Hears(), overwrite=True)
        assert sum(f"{END} stands 107 times" in text for text in said) == times
    corpus = read_corpus(path, separators=[END])
    assert sorted({*corpus.train, *corpus.validation}) == sorted(s.encode() for s in STORIES)
