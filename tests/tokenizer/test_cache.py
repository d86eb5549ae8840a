"""The cache of pieces: whatever it holds, has dropped or never kept, the ids are the same. With the 256 bytes as the only
tokens and no merges, a text's ids are its bytes."""

import random

import numpy as np
import pytest

from llmcore.tokenizer import Tokenizer, Vocabulary


@pytest.fixture
def bytes_only() -> Tokenizer:
    return Tokenizer(Vocabulary([bytes([byte]) for byte in range(256)], [], "gpt2"))


def agree(tokenizer: Tokenizer, text: bytes) -> bool:
    return np.array_equal(tokenizer.encode_array(text), np.frombuffer(text, np.uint8))


def words(count: int, lengths: range, seed: int = 0) -> bytes:
    chance = random.Random(seed)
    return b" ".join(
        b"".join(chance.choices((b"a", b"b", b"c", b"d", b"e"), k=chance.choice(lengths))) for _ in range(count)
    )


@pytest.mark.parametrize("lengths", [range(1, 4), range(4, 15), range(12, 18), range(17, 300)])
def test_pieces_of_every_length_first_and_again(bytes_only, lengths):
    text = words(3_000, lengths)
    assert agree(bytes_only, text)
    assert agree(bytes_only, text)


def test_more_pieces_than_the_cache_holds(bytes_only):
    text = words(700_000, range(8, 13))
    assert agree(bytes_only, text)
    assert agree(bytes_only, text[-1_000_000:])


def test_more_ids_than_the_cache_holds(bytes_only):
    text = words(150_000, range(16, 30)) + words(1_000, range(1, 30), seed=1)
    assert agree(bytes_only, text)
    assert agree(bytes_only, text[-1_000_000:])


def test_zeros_belong_to_a_piece(bytes_only):
    text = b"".join(b"!" * i + b"\0" * j + b"a" for i in range(17) for j in range(17))
    assert agree(bytes_only, text + text)
