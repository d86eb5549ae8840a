"""The interface between a training stage and the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmcore._tensor import Tensor
from llmcore.models import CausalLM
from llmcore.nn import Parameter


class Stage:
    """What the loop asks of a training stage. A batch can be anything."""

    name: str
    model: CausalLM
    # Whether `batches` depends on the step alone: then the next ones are made while an update runs.
    prefetch: ClassVar[bool] = False
    # Whether a resumed run may have another number of rows per update: `batches` then starts at row `first_row`.
    resizable: ClassVar[bool] = False
    first_row: int = 0

    def batches(self, step: int) -> Sequence[Any]:
        """Return the micro-batches of one update: a function of the step, the weights, and what `kept` returns."""
        raise NotImplementedError

    def before(self, step: int, number: int) -> None:
        """Prepare for micro-batch `number` of an update, which comes next in this process."""

    def tokens(self, batch: Any) -> int:
        """Return the number of tokens that the model reads in a batch (for the rate)."""
        raise NotImplementedError

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        """Return the summed loss of a micro-batch, and the number of terms in the sum, which normalises the update."""
        raise NotImplementedError

    def evaluate(self) -> Mapping[str, float]:
        """Return figures on held-out data, by their names in the log."""
        raise NotImplementedError

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        """Return pairs of a prompt and what the model writes."""
        raise NotImplementedError

    def state(self) -> Mapping[str, object]:
        """Return what a resumed run must agree on (data, sizes), as JSON."""
        raise NotImplementedError

    def begin(self, directory: Path) -> None:
        """Write what a resumed run needs besides the checkpoints."""
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write the finished model."""
        raise NotImplementedError

    # Most stages need none of these:

    def trainable(self) -> dict[str, Parameter]:
        """Return the parameters that an update changes, by their names in checkpoints."""
        return self.model.trainable()

    def watched(self) -> Sequence[Mapping[str, Sequence[float]]]:
        """Return groups of words with their vectors, which are recorded a hundred times in a run."""
        return []

    def flops_per_token(self) -> float:
        """Return the operations per token, to relate the rate to the processor's peak; 0 if unknown."""
        return 0.0

    def figures(self) -> Mapping[str, float]:
        """Return further figures for the log, about the micro-batches since the last call."""
        return {}

    def kept(self) -> Mapping[str, np.ndarray]:
        """Return what later updates need of earlier ones, by names that differ from those of `trainable`."""
        return {}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """Load what `kept` returned. Raises ValueError if it does not fit."""
