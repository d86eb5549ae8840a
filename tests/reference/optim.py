"""Optimizers in float64, by their papers."""

import numpy as np


def adamw(p, g, m, v, lr, beta1, beta2, eps, weight_decay, step):
    """New p, m, v: Algorithm 2 of Loshchilov & Hutter 2019."""
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    update = (m / (1 - beta1**step)) / (np.sqrt(v / (1 - beta2**step)) + eps)
    return p - lr * (update + weight_decay * p), m, v


def lion(p, g, m, lr, beta1, beta2, weight_decay):
    """New p, m: Program 1 of Chen et al. 2023."""
    update = np.sign(beta1 * m + (1 - beta1) * g)
    return p - lr * (update + weight_decay * p), beta2 * m + (1 - beta2) * g


def sgd(p, g, m, lr, momentum, nesterov, weight_decay):
    """New p, m: Sutskever et al. 2013 as torch has it (no dampening), with decoupled decay."""
    m = momentum * m + g
    update = g + momentum * m if nesterov else m
    return p - lr * (update + weight_decay * p), m


def newton_schulz(x, rounds=5):
    """Jordan et al. 2024: the quintic of x / ‖x‖, on the shorter side."""
    a, b, c = 3.4445, -4.7750, 2.0315
    turned = x.shape[0] > x.shape[1]
    x = (x.T if turned else x) / np.linalg.norm(x)
    for _ in range(rounds):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.T if turned else x


def muon(p, g, m, lr, momentum, weight_decay, parts):
    """New p, m: Nesterov momentum of Jordan et al. 2024 with the scale of Liu et al. 2025, each part by itself."""
    m = momentum * m + (1 - momentum) * g
    update = (1 - momentum) * g + momentum * m
    ends = np.cumsum(parts)[:-1]
    made = [newton_schulz(u) * 0.2 * np.sqrt(max(u.shape)) for u in np.split(update, ends)]
    return p - lr * (np.concatenate(made) + weight_decay * p), m
