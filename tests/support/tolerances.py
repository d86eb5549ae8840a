"""How far a result may be from its float64 twin: one number per dtype, stated once, each with its reason."""

import numpy as np

# Relative to the largest magnitude in the expected result (an elementwise bound would punish cancellation that every
# summation order has).
# float32: 24-bit significand (6e-8) times a few hundred roundings in a sum of up to a few thousand terms.
FLOAT32 = 2e-5
# bfloat16: 8-bit significand; inputs are exact, one rounding of the result is 2^-9 = 0.2%, intermediate roundings of
# the softmax or gradient operands add about as much again.
BFLOAT16 = 1e-2
# Directional derivatives: central difference of a float64 twin has error ~1e-9; what remains is the kernel's own.
GRADCHECK = {"float32": 1e-4, "bfloat16": 2e-2}


def tolerance(dtype) -> float:
    """Tolerance for a dtype given as a name or numpy dtype."""
    return {"float32": FLOAT32, "bfloat16": BFLOAT16}[np.dtype(dtype).name if not isinstance(dtype, str) else dtype]


def assert_close(got, expected, dtype, factor: float = 1.0) -> None:
    """Assert |got - expected| <= tolerance(dtype) * factor * max|expected|, and the same shape."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, (got.shape, expected.shape)
    if expected.size == 0:
        return
    assert np.array_equal(np.isnan(got), np.isnan(expected)), "NaNs differ"
    scale = max(np.nanmax(np.abs(expected)), 1e-30)
    error = np.nanmax(np.abs(got - expected)) / scale
    assert error <= tolerance(dtype) * factor, f"relative error {error:.3g} > {tolerance(dtype) * factor:.3g}"
