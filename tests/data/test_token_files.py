"""Token ids of others: every type and header that is written is read as the same ids, anything else is refused by name."""

import numpy as np
import pytest

from llmcore.data import CorpusError, TokenFile

SMALL, LARGE = 300, 70_000


class Sized:
    """What a token file asks of a tokenizer."""

    def __init__(self, size):
        self.vocab_size, self.end_of_text, self.digest = size, 0, str(size)


def tokenizer(size):
    return Sized(size)


def header(magic, version, count):
    head = np.zeros(256, "<i4")
    head[:3] = magic, version, count
    return head.tobytes()


def ids_of(size):
    return np.random.default_rng(size).integers(1, size - 1, 5000)


def read(path, size, **options):
    whole, held_out = TokenFile(path, tokenizer(size), **options).encode(tokenizer(size))
    return [*np.asarray(whole).tolist(), *held_out.tolist()]


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("dtype", ["<u2", "<u4", "<i4", "<i8", "<u8"])
def test_raw_files_tell_their_type(tmp_path, size, dtype):
    if size > 1 << 16 and dtype == "<u2":
        return  # see below
    ids = ids_of(size).astype(dtype)
    ids.tofile(tmp_path / "a.bin")
    assert read(tmp_path / "a.bin", size) == ids.tolist()


def test_two_bytes_are_too_few_unless_it_is_said(tmp_path):
    path = tmp_path / "a.bin"
    ids = ids_of(60_000).astype("<u2")
    ids.tofile(path)
    with pytest.raises(
        CorpusError, match=r"a\.bin: expected uint32 ids, which a vocabulary of 70000 needs, .*--token-dtype uint16"
    ):
        TokenFile(path, tokenizer(LARGE))
    assert read(path, LARGE, dtype="uint16") == ids.tolist()
    with pytest.raises(ValueError, match="token_dtype of uint16, uint32, int32, int64, got 'float32'"):
        TokenFile(path, tokenizer(LARGE), dtype="float32")


@pytest.mark.parametrize(
    ("magic", "version", "dtype", "size"), [(20240520, 1, "<u2", SMALL), (20240801, 7, "<u4", LARGE)]
)
def test_headers_of_llm_c(tmp_path, magic, version, dtype, size):
    """karpathy/llm.c, dev/data/data_common.py: HEADERS_INFO, write_datafile; modded-nanogpt writes the first."""
    path, ids = tmp_path / "a.bin", ids_of(size).astype(dtype)
    path.write_bytes(header(magic, version, len(ids)) + ids.tobytes())
    assert read(path, size) == ids.tolist()
    wrong = {
        header(magic, version + 1, len(ids))
        + ids.tobytes(): f"version {version} and 5000 tokens .* got version {version + 1}",
        header(magic, version, len(ids) + 1) + ids.tobytes(): "and 5000 tokens in llm.c's header, got .* 5001 tokens",
        header(magic, version, len(ids)) + ids.tobytes()[:-1]: "and 4999 tokens in llm.c's header, got .* 5000 tokens",
        header(magic, version, 0): "and 0 tokens",
        header(magic, version, 7)[:100]: "expected the 1024 bytes of llm.c's header, got 100",
    }
    for data, message in wrong.items():
        path.write_bytes(data)
        with pytest.raises(CorpusError, match=rf"a\.bin: .*{message}"):
            TokenFile(path, tokenizer(size))


def test_other_headers_are_refused(tmp_path):
    path, ids = tmp_path / "a.bin", ids_of(SMALL).astype("<u2")
    for magic, message in {20240522: "got a multiple-choice evaluation of llm.c", 20250101: "got 20250101 at the head",
                           20240326: "got a model of llm.c"}.items():  # fmt: skip
        path.write_bytes(header(magic, 1, len(ids)) + ids.tobytes())
        with pytest.raises(CorpusError, match=message):
            TokenFile(path, tokenizer(SMALL))


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "int32", "int64", ">u4"])
def test_arrays_of_numpy(tmp_path, dtype):
    ids = ids_of(250).astype(dtype)
    np.save(tmp_path / "train.npy", ids)
    assert read(tmp_path / "train.npy", SMALL) == ids.tolist()
    np.save(tmp_path / "val.npy", ids[:50])
    whole, held_out = TokenFile(tmp_path / "train.npy", tokenizer(SMALL)).encode(tokenizer(SMALL))
    assert (np.asarray(whole).tolist(), held_out.tolist()) == (ids.tolist(), ids[:50].tolist())


def test_arrays_that_are_no_ids(tmp_path):
    path = tmp_path / "a.npy"
    for array, message in ((np.ones(9), "got float64 of shape"), (np.ones((3, 3), int), r"int64 of shape \(3, 3\)"),
                           (np.array([], int), r"shape \(0,\)"), (np.array([{}]), r"cannot read .*a\.npy"),
                           (np.array([5, -1] * 9), "got -1 at 1, read as int64")):  # fmt: skip
        np.save(path, array, allow_pickle=True)
        with pytest.raises(CorpusError, match=message):
            TokenFile(path, tokenizer(SMALL))
    np.save(path, ids_of(SMALL))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CorpusError, match="cannot read"):
        TokenFile(path, tokenizer(SMALL))


def test_ids_beyond_the_vocabulary_are_named_with_their_place(tmp_path):
    ids = ids_of(SMALL).astype("<u2")
    ids[1234] = 301
    ids.tofile(tmp_path / "a.bin")
    with pytest.raises(
        CorpusError,
        match=r"a\.bin: expected ids below 300, the tokenizer's vocabulary, got 301 at 1234, read as uint16",
    ):
        TokenFile(tmp_path / "a.bin", tokenizer(SMALL))
