"""The training stages, one file each, on the loop in `llmcore.train.loop`."""
