"""What training raises, besides errors in what it is given."""

from llmcore.errors import FAILED, STOPPED, Error


class TrainingError(Error, RuntimeError):
    """Training cannot go on."""

    exit_code = FAILED


class Interrupted(TrainingError):
    """Stopped by a signal, after a checkpoint was saved. `signal`: its number; `exit_code`: 128 + that."""

    exit_code = STOPPED

    def __init__(self, where: str, about: object = "", *, signal: int = STOPPED - 128):
        super().__init__(where, about)
        self.signal, self.exit_code = signal, 128 + signal
