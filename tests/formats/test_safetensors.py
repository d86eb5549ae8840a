"""Our safetensors files against the `safetensors` package, and hostile files against a single clear error."""

import errno
import json
import os
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.formats.safetensors import dtypes, load_file, save_file


def examples():
    generator = np.random.default_rng(0)
    tensors = {f"layer.{name}": generator.integers(0, 2, (3, 5)).astype(dtype) for name, dtype in dtypes().items()}
    tensors["scalar"] = np.float32(2.5)
    tensors["empty"] = np.zeros((0, 4), np.float32)
    tensors["transposed"] = generator.standard_normal((4, 6)).T
    tensors["big endian"] = np.arange(5, dtype=">i4")
    tensors['ünïcode "quoted"'] = generator.standard_normal(7).astype(ml_dtypes.bfloat16)
    return tensors


def raw_file(path, header, data=b"", length=None):
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(encoded) if length is None else length).to_bytes(8, "little") + encoded + data)
    return path


def test_what_we_write_the_package_reads(tmp_path):
    tensors = examples()
    save_file(tensors, tmp_path / "x.safetensors", {"format": "pt", "note": "ü"})
    read = dict(safetensors.deserialize((tmp_path / "x.safetensors").read_bytes()))
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        entry = read[name]
        assert entry["shape"] == list(array.shape)
        assert dtypes()[entry["dtype"]] == array.dtype.newbyteorder("<")
        assert bytes(entry["data"]) == array.astype(array.dtype.newbyteorder("<")).tobytes()
    with safetensors.safe_open(tmp_path / "x.safetensors", "np") as file:
        assert file.metadata() == {"format": "pt", "note": "ü"}


def test_what_the_package_writes_we_read(tmp_path):
    kinds = ["f8", "f4", "f2", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1", "?"]
    tensors = {f"t.{kind}": np.arange(6).reshape(2, 3).astype(kind) for kind in kinds}
    safetensors.numpy.save_file(tensors, tmp_path / "x.safetensors", {"a": "b"})
    read, metadata = load_file(tmp_path / "x.safetensors")
    assert metadata == {"a": "b"}
    assert set(read) == set(tensors)
    for name, array in tensors.items():
        assert read[name].dtype == array.dtype
        np.testing.assert_array_equal(read[name], array)


def test_every_dtype_comes_back(tmp_path):
    tensors = examples()
    save_file(tensors, tmp_path / "x.safetensors")
    read, metadata = load_file(tmp_path / "x.safetensors")
    assert metadata == {}
    for name, array in tensors.items():
        assert read[name].shape == array.shape
        assert read[name].flags.aligned
        np.testing.assert_array_equal(read[name], array)


def test_no_tensors(tmp_path):
    save_file({}, tmp_path / "x.safetensors")
    assert load_file(tmp_path / "x.safetensors") == ({}, {})


def test_arrays_are_writable_and_private(tmp_path):
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "x.safetensors")
    read, _ = load_file(tmp_path / "x.safetensors")
    read["a"][:] = 1
    np.testing.assert_array_equal(load_file(tmp_path / "x.safetensors")[0]["a"], np.zeros(4))


def test_unaligned_data_is_read_aligned(tmp_path):
    values = np.array([1.5, -2.0], np.float32)
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    for padding in range(4):
        path = raw_file(tmp_path / "x.safetensors", header + b" " * padding, values.tobytes())
        array = load_file(path)[0]["a"]
        assert array.flags.aligned
        np.testing.assert_array_equal(array, values)


def test_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(3)}, path)
    for bad in ({"a": np.array(["text"])}, {"a": np.zeros(2), 3: np.zeros(2)}, {"a": np.zeros(2, complex)}):
        with pytest.raises(TypeError, match=r"\[safetensors\]"):
            save_file(bad, path)
    with pytest.raises(TypeError, match="metadata of strings"):
        save_file({}, path, {"step": 3})
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.safetensors"]
    np.testing.assert_array_equal(load_file(path)[0]["a"], np.ones(3))


GOOD = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HOSTILE = {
    "header length": (b"{}", b"", 1 << 62),
    "header: not UTF-8": (b"\xff{}", b"", None),
    "header: not valid JSON": (b"{", b"", None),
    "header: not valid JSON ": (b"[" * 100_000, b"", None),
    "a name stands twice": (b'{"a": 1, "a": 2}', b"", None),
    "header: expected a JSON object": ([1], b"", None),
    "__metadata__": ({"__metadata__": {"a": 1}}, b"", None),
    "__metadata__: expected": ({"__metadata__": "a"}, b"", None),
    "a: expected an object": ({"a": 3}, b"", None),
    "a: dtype": ({"a": {**GOOD, "dtype": "F33"}}, bytes(8), None),
    "a: dtype: expected": ({"a": {**GOOD, "dtype": ["F32"]}}, bytes(8), None),
    "a: shape": ({"a": {**GOOD, "shape": [-2]}}, bytes(8), None),
    "a: shape: expected up": ({"a": {**GOOD, "shape": [1] * 33}}, bytes(8), None),
    "a: shape: expected up ": ({"a": {**GOOD, "shape": [2.0]}}, bytes(8), None),
    "a: shape: expected up  ": ({"a": {**GOOD, "shape": [True]}}, bytes(8), None),
    "a: shape: expected up to": ({"a": {"dtype": "F32", "data_offsets": [0, 8]}}, bytes(8), None),
    "a: shape: too large": (
        {"a": {"dtype": "F32", "shape": [0, 1 << 62, 1 << 62], "data_offsets": [0, 0]}},
        b"",
        None,
    ),
    "a: data_offsets": ({"a": {**GOOD, "shape": [1 << 61, 8]}}, bytes(8), None),
    "a: data_offsets: expected two": ({"a": {**GOOD, "data_offsets": [0, 1 << 60]}}, bytes(8), None),
    "a: data_offsets: expected two ": ({"a": {**GOOD, "data_offsets": [8, 0]}}, bytes(8), None),
    "a: data_offsets: expected two  ": ({"a": {**GOOD, "data_offsets": [0, 8, 9]}}, bytes(8), None),
    "a: data_offsets: expected to begin": ({"a": {**GOOD, "data_offsets": [4, 12]}}, bytes(12), None),
    "b: data_offsets: expected to begin": ({"a": GOOD, "b": GOOD}, bytes(8), None),
    "data: expected 8 bytes": ({"a": GOOD}, bytes(12), None),
}


@pytest.mark.parametrize("field", HOSTILE)
def test_hostile_file_is_one_line_naming_file_and_field(tmp_path, field):
    path = raw_file(tmp_path / "x.safetensors", *HOSTILE[field])
    with pytest.raises(ValueError, match=r"^\[safetensors\] ") as caught:
        load_file(path)
    message = str(caught.value)
    assert str(path) in message
    assert field.strip() in message
    assert "\n" not in message
    assert len(message) < len(str(path)) + 400


def test_truncation_anywhere_is_an_error_and_allocates_nothing(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file(examples(), path)
    tracemalloc.start()
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ValueError, match=r"x\.safetensors"):
            load_file(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


@settings(max_examples=300, deadline=None)
@given(position=st.integers(0, 400), value=st.integers(0, 255))
def test_any_changed_byte_is_an_error_or_a_file(tmp_path_factory, position, value):
    path = tmp_path_factory.mktemp("fuzz") / "x.safetensors"
    save_file({"a": np.arange(6, dtype=np.float32), "b": np.zeros((2, 3), np.int8)}, path, {"k": "v"})
    content = bytearray(path.read_bytes())
    content[position % len(content)] = value
    path.write_bytes(content)
    message = f"[safetensors] {path}: "
    try:
        tensors, _ = load_file(path)
    except ValueError as error:
        message = str(error)
    else:
        assert sum(array.nbytes for array in tensors.values()) <= len(content)
    assert message.startswith(f"[safetensors] {path}: ")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        load_file(tmp_path / "absent")


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.arange(6)}, path)
    before = path.read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")  # as write(2) reports it: no name

    monkeypatch.setattr("llmcore.formats.safetensors.write", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*x\.safetensors'"):
        save_file({"a": np.arange(7)}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
