"""`arithmetic`: sums and differences with their answers, made up at run time. What a reward can check exactly."""

from __future__ import annotations

import numpy as np

LARGEST = 99


def arithmetic(count: int = 2000, seed: int = 0) -> list[dict[str, str]]:
    """Rows {"prompt", "completion", "answer"} of distinct problems, the same for one seed; both numbers and the result are
    from 0 to 99."""
    rng = np.random.Generator(np.random.Philox(key=seed))
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < count:
        a, b = sorted(rng.integers(0, LARGEST + 1, 2).tolist(), reverse=True)
        sign, result = ("+", a + b) if rng.integers(2) else ("-", a - b)
        if result <= LARGEST:
            prompt = f"What is {a} {sign} {b}?"
            rows[prompt] = {"prompt": prompt, "completion": f"{a} {sign} {b} = {result}.", "answer": str(result)}
    return list(rows.values())
