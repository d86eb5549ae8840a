"""Encoding text and training a vocabulary."""
