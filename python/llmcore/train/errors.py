"""What training raises besides ValueError."""


class TrainingError(RuntimeError):
    """Training cannot go on; the message is one line."""


class Interrupted(TrainingError):
    """Stopped from the keyboard, after a checkpoint was saved."""
