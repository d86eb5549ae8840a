"""What training raises, besides errors in what it is given."""

from llmcore.errors import FAILED, STOPPED, Error


class TrainingError(Error, RuntimeError):
    """Training cannot go on."""

    exit_code = FAILED


class Interrupted(TrainingError):
    """Stopped from the keyboard, after a checkpoint was saved."""

    exit_code = STOPPED
