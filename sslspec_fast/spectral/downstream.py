"""What a downstream linear readout can reach from an embedding, and how a graph relates to a task.

    E(Z, Y) = min_{W, b} |Y - Z W - 1 b^T|_F^2 = |(I - P_Z) H Y|_F^2     (docs/closed_forms.md)

P_Z projects on the left singular vectors of H Z with non-zero singular value: the error depends on
the left singular space and the rank only, not on the filter or a rotation.
Source: Balestriero & LeCun 2022 (arXiv 2205.11508), key points 1-3; the formula is derived.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.linalg as sla

from .._arrays import host_array
from ._target import Target, checked_array
from .closed_form import ClosedForm

__all__ = ["active_span", "alignment", "downstream_error"]

Array = np.ndarray


def _targets(y: Any, n: int) -> Array:
    """(n, m) targets; integer labels (n,) become one column per class."""
    array = host_array(y)
    if array.shape[:1] != (n,) or array.ndim not in (1, 2):
        raise ValueError(f"Y must be ({n},) labels or ({n}, m) targets, got shape {array.shape}")
    if array.ndim == 1 and array.dtype.kind in "iubUSO":
        _, codes = np.unique(array, return_inverse=True)
        return np.eye(int(codes.max()) + 1)[codes]
    return checked_array(array.reshape(n, -1), "Y", 2)


def active_span(z: Array, relative: float = 1e-12) -> Array:
    """(n, r) orthonormal basis of the columns of z; singular values count by their squares."""
    if z.shape[1] == 0:  # scipy before 1.14 has no SVD of an empty matrix
        return z
    u, s, _ = sla.svd(z, full_matrices=False)
    return u[:, s**2 > relative * s.max(initial=0.0) ** 2] if s.size and s[0] > 0 else u[:, :0]


def downstream_error(closed_form_or_z: ClosedForm | Any, Y: Any) -> float:
    """Least-squares error of the best affine readout of Y from the embedding, with all labels.

    Args:
        closed_form_or_z: `ClosedForm`, or z (n, k).
        Y: (n, m) or (n,) real targets, or (n,) integer labels (one-hot).

    Returns:
        ``|(I - P_Z) H Y|_F^2``, summed over rows and targets.

    Raises:
        ValueError: Y and z have different numbers of rows, or hold what is not finite.
    """
    source = closed_form_or_z
    z = source.embedding if isinstance(source, ClosedForm) else source
    z = checked_array(z, "z", 2)
    y = _targets(Y, z.shape[0])
    y = y - y.mean(axis=0)
    centred = z - z.mean(axis=0)
    # scales of columns are the readout's: only what rounding left of a constant column is dropped
    size, floor = np.linalg.norm(centred, axis=0), 1e-12 * np.linalg.norm(z, axis=0)
    keep = size > floor
    span = active_span(centred[:, keep] / size[keep])
    return float(((y - span @ (span.T @ y)) ** 2).sum())


def alignment(graph: Any, Y: Any) -> float:
    """How well the graph fits the task: tr(Y^T Ghat Y) / tr(Y^T Dhat Y), at most 1.

    Ghat = G - d d^T/vol, Dhat = D - d d^T/vol: the correlation of Y across the ends of an edge. 1
    iff no edge joins two different values, about 0 for a graph that ignores Y, negative for one
    that avoids it; for labels, Newman's assortativity (doi 10.1103/PhysRevE.67.026126).

    Args:
        graph: symmetric; in the forms of `vicreg`.
        Y: (n,) integer labels, or (n,) / (n, m) real targets.

    Returns:
        The correlation.

    Raises:
        ValueError: Y is constant on the edges, or does not match the graph.
    """
    target = Target(graph)
    y = _targets(Y, target.n)
    if target.volume <= 0:
        raise ValueError(f"graph must have at least one edge, got none among {target.n} nodes")
    y = y - target.degree @ y / target.volume
    spread = float((target.degree @ y**2).sum())
    if spread <= 1e-14 * float((target.degree @ np.abs(y)).sum() + 1.0):
        raise ValueError("Y must vary between nodes with edges, got a constant target")
    return float((y * target.matmul(y)).sum()) / spread
