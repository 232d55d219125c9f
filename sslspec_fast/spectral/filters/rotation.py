"""Orthogonal matrices that spread a spectrum evenly over the columns."""

from __future__ import annotations

import numpy as np
import scipy.linalg as sla

__all__ = ["schur_horn", "spreading_rotation"]


def schur_horn(s: np.ndarray) -> np.ndarray:
    """Orthogonal V (k, k) with diag(V diag(s) V^T) = mean(s): k - 1 Givens rotations.

    Each step takes the smallest and the largest diagonal entry and rotates their plane until one of
    them equals the mean (Schur-Horn theorem, constructive).
    """
    s = np.asarray(s, dtype=np.float64)
    k = len(s)
    mean = s.mean()
    a, v = np.diag(s).copy(), np.eye(k)
    floor = 1e-15 * max(float(np.abs(s).max()), 1e-300)
    open_ = np.ones(k, dtype=bool)
    for _ in range(k - 1):
        diagonal = np.where(open_, np.diag(a), mean)
        i, j = int(np.argmin(diagonal)), int(np.argmax(diagonal))
        low, high, off = a[i, i] - mean, a[j, j] - mean, a[i, j]
        if high - low <= floor:
            break
        # cos^2 low + 2 cos sin off + sin^2 high = 0 puts entry i on the mean. low <= 0 <= high, so
        # the roots are real; this form of the root never divides by a small number.
        root = np.sqrt(max(off * off - low * high, 0.0))
        t = -low / (off + root) if off >= 0 else (root - off) / high
        cos = 1.0 / np.sqrt(1.0 + t * t)
        rotation = np.array([[cos, t * cos], [-t * cos, cos]])
        a[[i, j]] = rotation @ a[[i, j]]
        a[:, [i, j]] = a[:, [i, j]] @ rotation.T
        v[[i, j]] = rotation @ v[[i, j]]
        open_[i] = False
    return v


def spreading_rotation(k: int) -> np.ndarray | None:
    """A real Hadamard matrix / sqrt(k): equalises *every* diagonal at once; None if none is known.

    Sylvester's orders (powers of two) only; 12, 20, 24, ... exist but are not built here.
    """
    if k & (k - 1):
        return None
    return sla.hadamard(k) / np.sqrt(k)
