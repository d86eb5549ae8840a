"""Token streams and batches: nothing lost, nothing twice, any step at once; exact held-out figures."""

import gzip
import lzma
import math
import shutil
import subprocess
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmcore.data import (
    TokenBatches,
    bits_per_byte,
    compressed_bits_per_byte,
    encode_documents,
    evaluation_windows,
)
from llmcore.data.batches import permute


class Bytes:
    """A tokenizer of bytes, for tests."""

    def __init__(self, vocab_size=257, end_of_text=256):
        self.vocab_size = vocab_size
        self.end_of_text = end_of_text
        self.begin = ()

    def encode_ordinary_batch(self, texts):
        return [np.frombuffer(text, np.uint8).astype(np.uint32) for text in texts]


def test_encode_documents():
    tokens = encode_documents([b"ab", b"", b"c"], Bytes())
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [97, 98, 256, 256, 99, 256]
    assert encode_documents([b"ab", b"c"], Bytes(end_of_text=None)).tolist() == [97, 98, 99]
    assert encode_documents([], Bytes()).shape == (0,)


@pytest.mark.parametrize(("size", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_the_smallest_type_that_holds_every_id(size, dtype):
    tokens = encode_documents([b"a"], Bytes(size, size - 1))
    assert tokens.dtype == dtype
    assert tokens.tolist() == [97, size - 1]


def test_ids_beyond_the_vocabulary_never_wrap():
    with pytest.raises(ValueError, match="end_of_text below vocab_size 257, got 300"):
        encode_documents([b"a"], Bytes(end_of_text=300))
    with pytest.raises(ValueError, match="ids below vocab_size 98, got 98"):
        encode_documents([b"ab"], Bytes(98, 0))


@given(size=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_permute_is_a_permutation(size, key):
    result = permute(np.arange(size, dtype=np.uint64), size, key)
    assert sorted(result.tolist()) == list(range(size))
    # one index at a time gives the same
    assert permute(np.array([size // 2], np.uint64), size, key)[0] == result[size // 2]


@pytest.mark.parametrize("size", [3, 5, 8])
def test_every_place_is_equally_likely(size):
    trials = 2000
    counts = np.zeros((size, size))
    for key in range(trials):
        counts[np.arange(size), permute(np.arange(size, dtype=np.uint64), size, key).astype(int)] += 1
    expected = trials / size
    # chi-square over size² cells; 99.99% of fair draws stay below this
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = (size - 1) ** 2
    assert statistic < freedom + 4 * math.sqrt(2 * freedom) + 8


def test_permute_large():
    size = 10**12 + 39
    indices = np.arange(0, size, size // 5000, dtype=np.uint64)
    result = permute(indices, size, 3)
    assert len(set(result.tolist())) == len(indices)
    assert result.max() < size
    assert abs(np.corrcoef(indices.astype(float), result.astype(float))[0, 1]) < 0.06


@pytest.mark.parametrize(
    ("count", "batch", "context"), [(1000, 4, 16), (17, 3, 16), (33, 1, 16), (257, 7, 1), (100, 9, 10)]
)
def test_an_epoch_takes_every_window_once(count, batch, context):
    batches = TokenBatches(np.arange(count, dtype=np.uint32), batch, context, seed=3)
    windows = count // context
    assert batches.windows_per_epoch == windows
    steps = -(-3 * windows // batch)
    inputs = np.concatenate([batches.batch(step)[0] for step in range(steps)])
    orders = []
    for epoch in range(3):
        seen = inputs[epoch * windows : (epoch + 1) * windows]
        assert seen.shape == (windows, context)
        # every token is its own position here: no position twice, and all but fewer than `context` are there
        assert len(np.unique(seen)) == windows * context
        orders.append(seen[:, 0].tolist())
    if windows > 4:
        assert len({order[0] % context for order in orders} | {tuple(order) for order in orders}) > 1
        assert orders[0] != orders[1] != orders[2]


def test_targets_follow_inputs():
    tokens = np.random.default_rng(0).integers(0, 500, 400).astype(np.uint16)
    batches = TokenBatches(tokens, 5, 32, seed=1)
    for step in range(20):
        inputs, targets = batches.batch(step)
        assert inputs.shape == targets.shape == (5, 32)
        assert inputs.dtype == targets.dtype == np.int32
        assert inputs.flags.c_contiguous
        assert targets.flags.c_contiguous
        for start, row, target in zip(
            batches.window_starts(np.arange(5 * step, 5 * step + 5)), inputs, targets, strict=True
        ):
            circle = np.roll(tokens, -start)
            np.testing.assert_array_equal(row, circle[:32])
            np.testing.assert_array_equal(target, circle[1:33])


def test_epochs_begin_at_other_places_and_all_tokens_serve_equally():
    batches = TokenBatches(np.arange(105), 10, 10, seed=0)
    counts, cuts = Counter(), set()
    for step in range(400):
        counts.update(batches.batch(step)[1].ravel().tolist())
        cuts.add(int(min(batches.window_starts(np.arange(10 * step, 10 * step + 10)) % 105)))
    assert set(counts) == set(range(105))
    # 400 epochs of 100 of 105 tokens: each is missed 19 times on average
    assert all(340 <= count <= 400 for count in counts.values())
    assert len(cuts) > 5


def test_the_step_alone_decides():
    tokens = np.arange(5000) % 300
    straight = [TokenBatches(tokens, 4, 8, seed=5).batch(step) for step in range(400)]
    batches = TokenBatches(tokens, 4, 8, seed=5)
    for step in (399, 3, 200, 3):
        np.testing.assert_array_equal(batches.batch(step), straight[step])
    other = TokenBatches(tokens, 4, 8, seed=6)
    assert any((other.batch(step)[0] != straight[step][0]).any() for step in range(3))
    assert batches.batch(10**15)[0].shape == (4, 8)
    assert batches.epoch(625) == 4


def test_a_batch_layout_does_not_change_the_order():
    tokens = np.arange(1000)
    whole = TokenBatches(tokens, 8, 10, seed=2).batch(3)[0]
    parts = [TokenBatches(tokens, 1, 10, seed=2).batch(step)[0] for step in range(24, 32)]
    np.testing.assert_array_equal(whole, np.concatenate(parts))


def python_starts(count, batch, context, seed, step):
    """The definition in plain integers: SplitMix64 keys, a Feistel network, cycle walking, a cut."""
    mask = 2**64 - 1

    def final(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
        z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
        return z ^ z >> 31

    def mix(state, value):
        return final((state + 1) * 0x9E3779B97F4A7C15 + value & mask)

    size, starts = count // context, []
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    for row in range(batch):
        epoch, place = divmod(step * batch + row, size)
        key = mix(mix(mix(0, seed), epoch), 1)
        while True:
            left, right = place >> half, place % 2**half
            for number in range(10):
                left, right = right, left ^ final(right ^ mix(key, 16 + number)) % 2**half
            place = left << half | right
            if place < size:
                break
        starts.append((place * context + mix(key, 2)) % count)
    return starts


@pytest.mark.parametrize(
    ("count", "batch", "context", "seed", "step"),
    [(17, 4, 16, 0, 5), (99999, 3, 64, 2**63, 10**6), (70, 8, 7, -1, 12)],
)
def test_window_starts_are_as_defined(count, batch, context, seed, step):
    batches = TokenBatches(np.zeros(count, np.uint16), batch, context, seed)
    expected = [start % count for start in python_starts(count, batch, context, seed, step)]
    assert batches.window_starts(np.arange(step * batch, (step + 1) * batch)).tolist() == expected


def test_memory_mapped_tokens(tmp_path):
    np.arange(1000, dtype=np.uint16).tofile(tmp_path / "tokens.bin")
    mapped = TokenBatches(np.memmap(tmp_path / "tokens.bin", np.uint16, "r"), 4, 16, 0)
    for step in range(20):
        np.testing.assert_array_equal(mapped.batch(step), TokenBatches(np.arange(1000), 4, 16, 0).batch(step))


def test_batches_errors():
    with pytest.raises(ValueError, match="the text has 64 tokens, expected at least 65 for a context of 64"):
        TokenBatches(np.zeros(64, np.uint16), 1, 64, 0)
    TokenBatches(np.zeros(65, np.uint16), 1, 64, 0).batch(0)
    with pytest.raises(ValueError, match="batch_size and context of at least 1"):
        TokenBatches(np.zeros(64, np.uint16), 0, 8, 0)
    with pytest.raises(TypeError, match="integer tokens"):
        TokenBatches(np.zeros(64), 1, 8, 0)
    with pytest.raises(TypeError, match="integer tokens"):
        TokenBatches(np.zeros((8, 8), np.uint16), 1, 8, 0)
    with pytest.raises(ValueError, match="rows of at least 0"):
        TokenBatches(np.zeros(64, np.uint16), 1, 8, 0).batch(-1)


@pytest.mark.parametrize("count", [1, 2, 15, 16, 17, 100])
def test_evaluation_predicts_every_token_once(count):
    tokens = np.arange(1, count + 1, dtype=np.uint16)
    windows = evaluation_windows(tokens, 16, end_of_text=0)
    assert windows.inputs.shape == windows.targets.shape == (-(-count // 16), 16)
    assert windows.inputs.dtype == windows.targets.dtype == np.int32
    kept = windows.targets.ravel()[windows.targets.ravel() >= 0]
    np.testing.assert_array_equal(kept, tokens)
    np.testing.assert_array_equal(windows.inputs.ravel()[:count], [0, *tokens[:-1]])
    assert windows.predicted == count
    assert [len(rows) for rows, _ in windows.batches(4)] == [
        min(4, len(windows.inputs) - i) for i in range(0, len(windows.inputs), 4)
    ]


def test_evaluation_leaves_special_tokens_and_padding_out():
    windows = evaluation_windows(np.array([5, 9, 6, 9]), 3, end_of_text=9)
    assert windows.inputs.tolist() == [[9, 5, 9], [6, 0, 0]]
    assert windows.targets.tolist() == [[5, -1, 6], [-1, -1, -1]]
    assert windows.predicted == 2


def test_evaluation_without_end_of_text():
    windows = evaluation_windows(np.array([5, 9, 6]), 4)
    assert windows.inputs.tolist() == [[5, 9, 0, 0]]
    assert windows.targets.tolist() == [[9, 6, -1, -1]]


def test_evaluation_errors():
    with pytest.raises(ValueError, match="the held-out text has 1 tokens"):
        evaluation_windows(np.array([5]), 4)
    with pytest.raises(ValueError, match="the held-out text has 0 tokens"):
        evaluation_windows(np.array([], np.uint16), 4, end_of_text=3)
    with pytest.raises(ValueError, match="context of at least 1"):
        evaluation_windows(np.array([5, 6]), 0)


def test_bits_per_byte_of_a_known_model():
    """A model that gives every byte 1/256 needs 8 bits a byte, over documents and windows of any length."""
    documents = [b"some text", b"x" * 50, b"more"]
    windows = evaluation_windows(encode_documents(documents, Bytes()), 7, end_of_text=256)
    nats = sum((targets >= 0).sum() * math.log(256) for _, targets in windows.batches(2))
    assert bits_per_byte(nats, sum(map(len, documents))) == pytest.approx(8, rel=1e-12)
    with pytest.raises(ValueError, match="at least one byte"):
        bits_per_byte(1.0, 0)


def test_compressors():
    data = b"".join(b"%d squared is %d\n" % (n, n * n) for n in range(3000))
    figures = compressed_bits_per_byte(data)
    assert figures["gzip -9"] == len(gzip.compress(data, 9)) * 8 / len(data)
    assert figures["xz -9"] == len(lzma.compress(data, preset=9)) * 8 / len(data)
    for name, figure in figures.items():
        if shutil.which(name.split()[0]):
            size = len(subprocess.run([*name.split(), "-c"], input=data, capture_output=True, check=True).stdout)
            assert figure == pytest.approx(8 * size / len(data), rel=0.02)
    with pytest.raises(ValueError, match="at least one byte"):
        compressed_bits_per_byte(b"")
