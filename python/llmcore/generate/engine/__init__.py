"""The engine: requests in, sampled tokens out, any number of sequences in one running batch."""
