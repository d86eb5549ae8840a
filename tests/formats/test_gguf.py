"""GGUF files: what stands in them, the `gguf` package as oracle, and hostile files against a single clear error."""

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcore.formats.gguf import TYPES, load_gguf
from support.gguf_files import gguf, string, value

METADATA = {
    "general.architecture": "llama",
    "general.note": "ünïcode 🎉",
    "llama.block_count": np.uint32(3),
    "a.negative": np.int64(-5),
    "a.float": np.float32(0.5),
    "a.double": np.float64(1e300),
    "a.flag": np.bool_(True),
    "an.array": np.arange(5, dtype=np.int32),
    "some.words": ["one", "", "三"],
    "nested": [np.array([1, 2], np.uint8), np.array([], np.uint8)],
}


def tensors():
    rng = np.random.default_rng(0)
    return [
        ("norm", (5,), 0, rng.standard_normal(5).astype("<f4").tobytes()),
        ("half", (3, 4), 1, rng.standard_normal((3, 4)).astype("<f2").tobytes()),
        ("quantized", (2, 64), 3, rng.integers(0, 256, 2 * 2 * 20, np.uint8).tobytes()),
    ]


def load(tmp_path, data: bytes):
    path = tmp_path / "model.gguf"
    path.write_bytes(data)
    return load_gguf(path)


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("alignment", [8, 32, 4096])
def test_reads_what_stands_there(tmp_path, version, alignment):
    metadata = METADATA | {"general.alignment": np.uint32(alignment)}
    file = load(tmp_path, gguf(metadata, tensors(), alignment, version))
    assert file.metadata.keys() == metadata.keys()
    for key, expected in metadata.items():
        np.testing.assert_array_equal(file.metadata[key], expected) if key != "nested" else None
    assert [list(a) for a in file.metadata["nested"]] == [[1, 2], []]
    for name, shape, kind, data in tensors():
        tensor = file.tensors[name]
        assert (tensor.shape, tensor.type) == (shape, TYPES[kind])
        assert tensor.data.tobytes() == data


@pytest.mark.peers
def test_reads_what_the_package_writes(tmp_path):
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    path = tmp_path / "theirs.gguf"
    writer = package.GGUFWriter(path, "llama")
    writer.add_uint32("llama.block_count", 2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "é"])
    weights = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
    quantized = package.quants.quantize(weights, package.GGMLQuantizationType.Q8_0)
    writer.add_tensor("w", weights)
    writer.add_tensor("q", quantized, raw_dtype=package.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    file = load_gguf(path)
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == ["a", "é"]
    assert file.tensors["w"].data.tobytes() == weights.tobytes()
    assert file.tensors["q"].shape == (4, 64)
    assert file.tensors["q"].data.tobytes() == quantized.tobytes()
    for number, kind in TYPES.items():
        assert (kind.elements, kind.bytes) == package.GGML_QUANT_SIZES[package.GGMLQuantizationType(number)], kind


def header(tensors: int, keys: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys) + rest


LONG = struct.pack("<Q", 1 << 62)
BROKEN = [
    (b"", "expected a GGUF file, got 0 bytes"),
    (b"GGML" + b"\0" * 40, "expected a file that begins with GGUF, got b'GGML'"),
    (header(0, 0, version=1), "header: expected version 2 or 3, got 1"),
    (header(1 << 60, 0), "header: expected a number of tensors that fits the file"),
    (header(0, 1 << 60), "header: expected a number of keys that fits the file"),
    (header(0, 1, LONG + b"x" * 20), "key 0: expected more bytes, got the end of the file"),
    (header(0, 1, string("k") + struct.pack("<II", 13, 0)), "k: expected a type of value from 0 to 12, got 13"),
    (header(0, 1, string("k") + struct.pack("<I", 8) + LONG), "k: expected more bytes"),
    (header(0, 1, string("k") + struct.pack("<II", 9, 8) + LONG), "k: expected a number of strings that fits the file"),
    (header(0, 1, string("k") + struct.pack("<II", 9, 4) + LONG), "k: expected a number of numbers that fits the file"),
    (header(0, 1, string("k") + struct.pack("<II", 9, 9) + LONG), "k: expected a number of arrays that fits the file"),
    (header(0, 1, string("k") + struct.pack("<IIQ", 9, 8, 1) + LONG), "k: expected more bytes"),
    (header(0, 1, string("k") + struct.pack("<II", 9, 20) + LONG), "k: expected a type of value from 0 to 12, got 20"),
    (header(0, 1, string(b"\xff") + value(np.uint32(1))), "key 0: expected UTF-8"),
    (gguf({"k": b"\xff\xfe"}), "k: expected UTF-8"),
    (gguf({"k": ["fine", b"\xff"]}), "k: expected UTF-8"),
    (gguf([("k", np.uint32(1)), ("k", np.uint32(2))]), "key 1: expected a key of its own, got k"),
    (gguf({"general.alignment": np.uint32(0)}), "general.alignment: expected a number of bytes, got 0"),
    (gguf({"general.alignment": "32"}), "general.alignment: expected a number of bytes, got 32"),
    (gguf({}, [("w", (4,), 0, b"\0" * 16)] * 2), "w: expected a name of its own"),
    (gguf({}, [("w", (4,), 5, b"\0" * 16)]), "w: expected one of the types F32, .*, got type 5"),
    (gguf({}, [("w", (1,) * 5, 0, b"\0" * 4)]), "w: expected 1 to 4 dimensions, got 5"),
    (gguf({}, [("w", (3, 33), 8, b"\0" * 102)]), "w: expected rows of a multiple of 32 elements for Q8_0, got 33"),
    (gguf({}, [("w", (1 << 40, 1 << 40), 0, b"")]), "w: expected 4835703278458516698824704 bytes"),
    (gguf({}, [("w", (8,), 0, b"\0" * 31)]), "w: expected 32 bytes, aligned to 32 and inside the file"),
    (header(1, 0, string("w") + struct.pack("<IQIQ", 1, 1, 0, 3) + b"\0" * 99), "w: .*got offset 3"),
    (header(1, 0, string("w") + struct.pack("<IQIQ", 1, 1, 0, 1 << 63) + b"\0" * 99), "w: .*got offset 9223372036854"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_broken_files_name_the_file_and_the_field(tmp_path, data, message):
    with pytest.raises(ValueError, match=rf"\[gguf\] .*model.gguf: {message}") as error:
        load(tmp_path, data)
    assert "\n" not in str(error.value)


def test_arrays_nested_for_ever(tmp_path):
    nested = struct.pack("<I", 9) + struct.pack("<IQ", 9, 1) * 5000
    with pytest.raises(ValueError, match="k: expected arrays nested 4 deep at most"):
        load(tmp_path, header(0, 1, string("k") + nested))


def test_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_gguf(tmp_path / "none.gguf")


GOOD = gguf(METADATA, tensors())


@settings(max_examples=300)
@given(position=st.integers(0, len(GOOD) - 1), byte=st.integers(0, 255), end=st.integers(0, len(GOOD)))
def test_any_byte_changed_and_any_end(tmp_path_factory, position, byte, end):
    for data in (GOOD[:position] + bytes([byte]) + GOOD[position + 1 :], GOOD[:end]):
        try:
            file = load(tmp_path_factory.mktemp("gguf"), data)
        except ValueError as refused:
            message = str(refused)
        else:
            message = "model.gguf"
            assert sum(t.data.size for t in file.tensors.values()) <= len(data)
        assert "model.gguf" in message


def parts(folder, count=3, **changes):
    """A model split as llama.cpp's gguf-split does: metadata in the first file, tensors in all. changes: of the metadata
    of one part, by its number."""
    paths = []
    for number in range(count):
        own = {
            "split.no": np.uint16(number),
            "split.count": np.uint16(count),
            "split.tensors.count": np.int32(2 * count),
        }
        metadata = {"general.architecture": "llama"} if number == 0 else {}
        metadata = {k: v for k, v in (metadata | own | changes.get(f"part{number}", {})).items() if v is not None}
        tensors = [(f"t{2 * number + i}", (2,), 0, np.full(2, 2 * number + i, "<f4").tobytes()) for i in range(2)]
        path = folder / f"model-{number + 1:05}-of-{count:05}.gguf"
        path.write_bytes(gguf(metadata, tensors))
        paths.append(path)
    return paths


def test_any_part_opens_all(tmp_path):
    for path in parts(tmp_path):
        file = load_gguf(path)
        assert file.metadata["general.architecture"] == "llama"
        assert {n: t.data.view("<f4").tolist() for n, t in file.tensors.items()} == {f"t{i}": [i, i] for i in range(6)}


@pytest.mark.parametrize("count", [0, 1])
def test_a_file_that_was_not_split(tmp_path, count):
    """Its name says nothing then."""
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf({"split.count": np.uint16(count)}))
    assert load_gguf(path).metadata["split.count"] == count


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"part1": {"split.no": np.uint16(2)}}, r"00002-of-00003.gguf: split.no: expected 1, as the name says, got 2"),
        ({"part1": {"split.no": None}}, r"00002-of-00003.gguf: split.no: expected 1, as the name says, got None"),
        (
            {"part2": {"split.count": np.uint16(4)}},
            r"00003-of-00003.gguf: split.count: expected 3, as the name says, got 4",
        ),
        ({"part2": {"split.count": np.ones(3, np.uint16)}}, r"split.count: expected 3, as the name says, got array"),
        (
            {"part0": {"split.count": np.uint16(2)}},
            r"00001-of-00003.gguf: split.count: expected 3, as the name says, got 2",
        ),
        (
            {"part0": {"split.tensors.count": np.int32(7)}},
            r"split.tensors.count: expected 6, as many as the parts have, got 7",
        ),
        (
            {"part0": {"split.tensors.count": "6"}},
            r"split.tensors.count: expected 6, as many as the parts have, got '6'",
        ),
    ],
)
def test_parts_that_contradict(tmp_path, changes, message):
    first, *_ = parts(tmp_path, **changes)
    with pytest.raises(ValueError, match=message):
        load_gguf(first)


def test_parts_that_are_missing_or_too_many(tmp_path):
    first, second, third = parts(tmp_path)
    second.rename(tmp_path / "elsewhere.gguf")
    with pytest.raises(
        FileNotFoundError, match=r"expected all 3 parts of the model, got no .*model-00002-of-00003.gguf"
    ):
        load_gguf(third)
    with pytest.raises(
        ValueError, match=r"expected a name such as model-00001-of-00002.gguf: it is one of several parts"
    ):
        load_gguf(tmp_path / "elsewhere.gguf")
    first.rename(tmp_path / "model-00001-of-99999.gguf")
    with pytest.raises(ValueError, match=r"expected at most 1000 parts, got 99999"):
        load_gguf(tmp_path / "model-00001-of-99999.gguf")


def test_a_tensor_in_two_parts(tmp_path):
    first, second, _ = parts(tmp_path)
    own = {"split.no": np.uint16(1), "split.count": np.uint16(3)}
    second.write_bytes(gguf(own, [("t1", (2,), 0, bytes(8))]))
    with pytest.raises(ValueError, match=r"00002-of-00003.gguf: t1: expected a tensor that no other part has, got one"):
        load_gguf(first)
