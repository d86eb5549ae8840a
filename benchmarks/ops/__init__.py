"""Single operations on the CPU, one file per family."""
