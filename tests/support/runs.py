"""What tests of training runs share."""

import json
from pathlib import Path

from llmcore.train import Report
from llmcore.train.checkpoint import latest_checkpoint, load_checkpoint


class StopsAt(Report):
    """Stops a run when it reports a step."""

    def __init__(self, step: int):
        self.step = step

    def update(self, row):
        if row["step"] == self.step:
            raise KeyboardInterrupt


def log_of(run) -> list[dict]:
    """Return the rows of a run's log."""
    return [json.loads(line) for line in Path(run, "log.jsonl").read_text().splitlines()]


def assert_same_weights(one, other) -> None:
    """Check that the model and the last checkpoint of two runs are equal to the bit."""
    assert Path(one, "model.safetensors").read_bytes() == Path(other, "model.safetensors").read_bytes()
    (tensors, _), (tensors2, _) = (load_checkpoint(latest_checkpoint(run)) for run in (one, other))
    assert tensors.keys() == tensors2.keys()
    for key, values in tensors.items():
        assert values.tobytes() == tensors2[key].tobytes(), key
