"""The one error that reading training text raises."""


class CorpusError(ValueError):
    """Text unfit to train on. The message is one line naming the source, and the line if there is one."""
