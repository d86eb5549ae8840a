"""Generation with a pulled model."""
