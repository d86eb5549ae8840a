"""What the tests share: twins, tolerances, checks of gradients and of bits, and files written byte by byte."""
