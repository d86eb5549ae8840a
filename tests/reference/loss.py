"""Cross entropy in float64."""

import numpy as np


def cross_entropy(logits, targets):
    """Loss of each row; 0 where the target is negative."""
    top = logits.max(-1, keepdims=True)
    lse = np.log(np.exp(logits - top).sum(-1)) + top[..., 0]
    picked = np.take_along_axis(logits, np.maximum(targets, 0)[..., None], -1)[..., 0]
    return np.where(targets < 0, 0.0, lse - picked)


def cross_entropy_backward(dloss, logits, targets):
    p = np.exp(logits - logits.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    onehot = np.arange(logits.shape[-1]) == targets[..., None]
    return np.where((targets < 0)[..., None], 0.0, (p - onehot) * dloss[..., None])
