"""Rotary position embedding (Su et al. 2021) as a rotation of complex numbers, in complex128."""

import numpy as np


def rope(x, cos, sin, positions=None, heads=None):
    """x (B,T,H,D): component i of the first half and component i of the second are one complex number."""
    B, T, H, D = x.shape
    positions = np.broadcast_to(np.arange(T), (B, T)) if positions is None else positions
    turn = np.empty(cos.shape, np.complex128)
    turn.real, turn.imag = cos, sin
    turn = turn[positions][:, :, None]  # (B,T,1,D/2)
    z = (x[..., : D // 2] + 1j * x[..., D // 2 :]) * turn
    out = np.concatenate([z.real, z.imag], axis=-1)
    keep = H if heads is None else heads
    return np.concatenate([out[:, :, :keep], x[:, :, keep:]], axis=2)
