"""AdamW as in Algorithm 2 of Loshchilov & Hutter 2019, in float64."""

import numpy as np


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step):
    """New p, m, v."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    update = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    return p - lr * (update + weight_decay * p), m, v
