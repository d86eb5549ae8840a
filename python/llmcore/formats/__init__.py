"""Model files: each format in its own module."""
