"""Philox4x32-10 (Salmon et al. 2011) in Python integers."""

MASK = 0xFFFFFFFF


def philox(key: int, lo: int, hi: int) -> list[int]:
    """Four 32-bit words for a 64-bit key and a 128-bit counter in two halves."""
    k0, k1 = key & MASK, key >> 32
    c = [lo & MASK, lo >> 32, hi & MASK, hi >> 32]
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(p1 >> 32) ^ c[1] ^ k0, p1 & MASK, (p0 >> 32) ^ c[3] ^ k1, p0 & MASK]
        k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
    return c
