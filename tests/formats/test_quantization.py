"""Quantized blocks as float32: against a decoder that goes number by number, and against the `gguf` package."""

import struct

import numpy as np
import pytest

from llmcore.formats.gguf import GGUFTensor
from llmcore.formats.quantization import ENCODERS, dequantize, encode
from llmcore.models.weights import Part
from support.quantized import NAMES, random_tensor


def one_by_one(name: str, block: bytes) -> list[float]:
    """A block of 32 as its description reads."""
    half = struct.unpack("<2e", block[:4])
    at = {"Q8_0": 2, "Q4_0": 2, "Q4_1": 4, "Q5_0": 6, "Q5_1": 8}[name]
    if name == "Q8_0":
        return [half[0] * q for q in struct.unpack("<32b", block[at:])]
    fifths = int.from_bytes(block[at - 4 : at], "little") if name.startswith("Q5") else 0
    q = [((block[at + j % 16] >> (4 * (j // 16))) & 15) | ((fifths >> j & 1) << 4) for j in range(32)]
    if name.endswith("_1"):
        return [half[0] * n + half[1] for n in q]
    return [half[0] * (n - (16 if name.startswith("Q5") else 8)) for n in q]


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_blocks_of_32(name):
    t = random_tensor(name)
    blocks = [b.tobytes() for b in t.data.reshape(-1, t.type.bytes)]
    expected = np.array([one_by_one(name, b) for b in blocks]).reshape(t.shape)
    np.testing.assert_allclose(dequantize(t), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16"])
def test_floats(name):
    expected = np.random.default_rng(0).standard_normal((3, 512))
    got = dequantize(random_tensor(name))
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol={"F32": 1e-6, "F16": 1e-3, "BF16": 8e-3}[name], atol=1e-6)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", NAMES)
def test_every_type_as_the_package_does(name, seed):
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    t = random_tensor(name, rows=5, width=1024, seed=seed)
    theirs = package.quants.dequantize(t.data.reshape(5, -1), package.GGMLQuantizationType(NAMES[name][0]))
    assert np.array_equal(dequantize(t), theirs, equal_nan=True)


def test_longer_than_a_chunk():
    t = random_tensor("Q8_0", rows=2049, width=544)
    first = GGUFTensor("w", (1, 544), t.type, t.data[: t.data.size // 2049])
    last = GGUFTensor("w", (1, 544), t.type, t.data[-(t.data.size // 2049) :])
    whole = dequantize(t)
    assert np.array_equal(whole[:1], dequantize(first), equal_nan=True)
    assert np.array_equal(whole[-1:], dequantize(last), equal_nan=True)


def test_rows_of_heads_change_places():
    """The published rule turns Hugging Face's order into GGUF's; reading turns it back, whatever the rows hold."""
    heads, rows, columns = 3, 24, 5
    original = np.random.default_rng(0).standard_normal((rows, columns)).astype("<f4")
    stored = original.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    part = Part("hf", "gguf", (rows, columns), gguf_heads=heads)
    assert np.array_equal(part.from_gguf_rows(stored), original)
    assert np.array_equal(part.to_gguf_rows(original), stored)
    assert np.array_equal(Part("hf", "gguf", (rows, columns)).from_gguf_rows(stored), stored)


def values(rows=7, width=96, seed=0):
    """Ordinary numbers, and blocks of zeros, of one number, of large and of tiny ones."""
    x = np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
    x[1], x[2], x[3, :32], x[4] = 0, 3.25, x[3, :32] * 1e4, x[4] * 1e-2
    return x


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ENCODERS)
def test_encoded_as_the_package_does(name, seed):
    package = pytest.importorskip("gguf", reason="gguf is not installed")
    x = values(seed=seed)
    theirs = package.quants.quantize(x, package.GGMLQuantizationType(NAMES[name][0]))
    np.testing.assert_array_equal(encode(x, name).reshape(-1), theirs.reshape(-1).view(np.uint8))


@pytest.mark.parametrize(("name", "step"), [("Q8_0", 1 / 254), ("Q4_0", 1 / 14), ("Q4_1", 1 / 28)])
def test_encoded_and_back(name, step):
    """Within half a step of the block's range (a whole one at the short end of Q4_0's), and the rounding of scales."""
    x = values()
    kind = NAMES[name][1]
    back = dequantize(GGUFTensor("w", x.shape, kind, encode(x, name).reshape(-1)))
    blocks, back = x.reshape(-1, 32), back.reshape(-1, 32)
    span = np.ptp(blocks, axis=1) if name == "Q4_1" else 2 * np.abs(blocks).max(axis=1)
    scale = np.abs(blocks).max(axis=1) * 2e-3 + 6e-8
    assert (np.abs(back - blocks).max(axis=1) <= span * step * 1.01 + scale).all()
