"""What a training stage tells the loop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from llmcore._tensor import Tensor
from llmcore.models import CausalLM
from llmcore.nn import Parameter


class Stage:
    """What a stage tells the loop. A batch is whatever the stage likes."""

    name: str
    model: CausalLM
    # Whether `batches` needs the step only: then the next ones are made while an update runs.
    prefetch: ClassVar[bool] = False
    # Whether an update may have another number of rows when a run is resumed: `batches` begins at row `first_row` then.
    resizable: ClassVar[bool] = False
    first_row: int = 0

    def batches(self, step: int) -> Sequence[Any]:
        """The micro-batches of one update: a function of the step, the weights, and what is kept."""
        raise NotImplementedError

    def before(self, step: int, number: int) -> None:
        """Micro-batch `number` of an update comes next, in this process."""

    def tokens(self, batch: Any) -> int:
        """Tokens that the model reads in a batch (for the rate)."""
        raise NotImplementedError

    def loss(self, batch: Any) -> tuple[Tensor, int]:
        """Summed loss of a micro-batch and the number of terms in the sum, which normalise the update."""
        raise NotImplementedError

    def evaluate(self) -> Mapping[str, float]:
        """Figures on held-out data, by their names in the log."""
        raise NotImplementedError

    def samples(self, step: int) -> Sequence[tuple[str, str]]:
        """(prompt, what the model writes)"""
        raise NotImplementedError

    def state(self) -> Mapping[str, object]:
        """What a resumed run must agree on (data, sizes); JSON."""
        raise NotImplementedError

    def begin(self, directory: Path) -> None:
        """Write what a resumed run needs besides the checkpoints."""
        raise NotImplementedError

    def save(self, directory: Path) -> None:
        """Write the finished model."""
        raise NotImplementedError

    # What most stages have nothing special for:

    def trainable(self) -> dict[str, Parameter]:
        """What an update changes, by the names in checkpoints."""
        return self.model.trainable()

    def watched(self) -> Sequence[Mapping[str, Sequence[float]]]:
        """Groups of words with their vectors, which are recorded a hundred times in a run; none."""
        return []

    def flops_per_token(self) -> float:
        """For the rate's part of the processor's peak; 0 where it is not known."""
        return 0.0

    def figures(self) -> Mapping[str, float]:
        """What else the log is to hold of the micro-batches since the last call."""
        return {}

    def kept(self) -> Mapping[str, np.ndarray]:
        """What later updates need of earlier ones, by names that differ from those of `trainable`."""
        return {}

    def restore(self, kept: Mapping[str, np.ndarray]) -> None:
        """The reverse of `kept`. ValueError for what does not fit."""
