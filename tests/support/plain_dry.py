"""DRY and XTC as they are described, in plain Python: what `generate.engine.dry` must do with arrays."""

import numpy as np


def penalties(tokens, spelled, multiplier, base, allowed, breakers):
    """{token: what its logit loses}: every earlier place is compared with the end of the text, token by token back to the
    last breaker (each text of `breakers` lies within one token here)."""
    broken = [any(b in spelled[t] for b in breakers) for t in tokens]
    found = {}
    for at in range(1, len(tokens)):  # the token here came after those before it
        n = 0
        while n < at and tokens[at - 1 - n] == tokens[-1 - n] and not broken[len(tokens) - 1 - n]:
            n += 1
        if n >= allowed and not any(b in spelled[tokens[at]] for b in breakers):
            found[tokens[at]] = max(found.get(tokens[at], 0.0), multiplier * base ** (n - allowed))
    return found


def without_top(probs, threshold):
    """The distribution without its likely tokens but the least likely of them, the last of equals."""
    order = sorted(range(len(probs)), key=lambda i: (-probs[i], i))
    likely = [i for i in order if probs[i] >= threshold]
    out = np.array(probs, np.float64)
    out[likely[:-1]] = 0
    return out / out.sum()
