"""The generator against the known answers published with Random123 (kat_vectors, philox4x32 10)."""

import numpy as np
import pytest

from llmcore import _core
from reference.philox import philox

ONES = 2**64 - 1
KNOWN = [  # key, counter (low half, high half), words
    (0, 0, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    (ONES, ONES, ONES, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        0x299F31D0A4093822,
        0x85A308D3243F6A88,
        0x0370734413198A2E,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("key", "lo", "hi", "words"), KNOWN)
def test_known_answers(key, lo, hi, words):
    assert _core.philox(key, lo, hi) == words
    assert philox(key, lo, hi) == words


def test_random_keys_and_counters():
    for key, lo, hi in np.random.default_rng(0).integers(0, 2**64, (50, 3), dtype=np.uint64).tolist():
        assert _core.philox(key, lo, hi) == philox(key, lo, hi)
