"""Held-out text to exact figures: windows that predict every token once, bits per byte, and compressors'."""

import gzip
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from llmcore.errors import Error

IGNORED = -1


@dataclass(frozen=True)
class EvaluationWindows:
    """`inputs` and `targets`, int32 (W, T); targets of -1 are not predicted and count for nothing."""

    inputs: np.ndarray
    targets: np.ndarray

    @property
    def predicted(self) -> int:
        """How many tokens have a loss."""
        return int(np.count_nonzero(self.targets != IGNORED))

    def batches(self, batch_size: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """`(inputs, targets)` of up to `batch_size` windows, in order."""
        for start in range(0, len(self.inputs), batch_size):
            yield self.inputs[start : start + batch_size], self.targets[start : start + batch_size]


def evaluation_windows(
    tokens: np.ndarray, context: int, end_of_text: int | None = None, begin: Sequence[int] = ()
) -> EvaluationWindows:
    """Consecutive windows that do not overlap and predict every token of `tokens` (N,) once.

    With `end_of_text` the stream is read as following one such token, so that the very first token is
    predicted too, and end-of-text tokens are inputs but never targets: they spell no byte. The nats summed
    over all targets then cost exactly the bytes of the text, and `bits_per_byte` of the two is exact. The same holds
    for the tokens that `begin` every document: the stream is read as beginning with them. Without either the first token
    is only an input, and its bytes are to be left out of the count.

    The last window is padded with inputs of 0 and targets of -1; under causal attention padding changes
    nothing before it.
    """
    if context < 1:
        raise Error("evaluation", expected="a context of at least 1", got=context)
    stream = np.asarray(tokens).astype(np.int32)
    first = list(begin) or ([] if end_of_text is None else [end_of_text])
    if not begin or stream[: len(begin)].tolist() != first:
        stream = np.concatenate([np.array(first, np.int32), stream])
    length = len(stream) - 1
    if length < 1:
        raise Error("evaluation", f"the held-out text has {len(tokens)} tokens, expected at least one to predict")
    rows = -(-length // context)
    inputs = np.zeros(rows * context, np.int32)
    targets = np.full(rows * context, IGNORED, np.int32)
    inputs[:length] = stream[:-1]
    targets[:length] = stream[1:]
    silent = [*begin, *([] if end_of_text is None else [end_of_text])]
    targets[np.isin(targets, silent)] = IGNORED
    return EvaluationWindows(inputs.reshape(rows, context), targets.reshape(rows, context))


def bits_per_byte(nats: float, num_bytes: int) -> float:
    """`nats / (ln 2 · num_bytes)`: the summed loss of a text in bits, for each of its UTF-8 bytes."""
    if num_bytes < 1:
        raise Error("bits_per_byte", expected="at least one byte", got=num_bytes)
    return nats / (math.log(2) * num_bytes)


def compressed_bits_per_byte(data: bytes) -> dict[str, float]:
    """`{"gzip -9": …, "xz -9": …}`: what they make of the same bytes, in bits per byte, headers included.

    A Python built without lzma has no "xz -9" entry.
    """
    if not data:
        raise Error("compressed_bits_per_byte", expected="at least one byte", got="none")
    sizes = {"gzip -9": len(gzip.compress(data, 9))}
    try:
        import lzma
    except ImportError:
        pass
    else:
        sizes["xz -9"] = len(lzma.compress(data, preset=9))
    return {name: 8 * size / len(data) for name, size in sizes.items()}
