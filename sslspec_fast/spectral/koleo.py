"""KoLeo's optimum where the rows fit on a simplex, and its bound.

    -mean_il log |u_i - u_jl(i)|  >=  -1/2 log(2 m / (m - 1)),

m rows of a group: the squared distance to the nearest rows is at most the mean one, which over all
rows is at most 2 m / (m - 1); then Jensen's inequality. The m <= d + 1 vertices of a regular
simplex attain it, which is also InfoNCE's optimum on cliques (`infonce.py`).

Source: Sablayrolles et al. 2018 (arXiv 1806.03198) for the loss; derived in docs/closed_forms.md.
"""

from __future__ import annotations

import math

import numpy as np
import scipy.linalg as sla
import torch

from .._checks import count
from ..graph import PairGraph
from ._checks import check_positive
from ._eigen import known_info
from ._target import Target
from .closed_form import ClosedForm, package, pad

__all__ = ["koleo", "simplex"]

Array = np.ndarray


def simplex(vertices: int, width: int) -> Array:
    """(vertices, width) unit rows with the same inner product -1 / (vertices - 1) of any two."""
    rows = np.zeros((vertices, width))
    rows[:, : vertices - 1] = sla.helmert(vertices).T * math.sqrt(vertices / (vertices - 1))
    return rows


def koleo(
    n: int,
    d: int,
    *,
    k: int = 1,
    group_size: int | None = None,
    eps: float = 1e-8,
) -> ClosedForm:
    """Optimum of ``F.koleo(z, k=k, group_size=group_size, eps=eps)`` over z (n, d).

    Args:
        n: rows, at least 2.
        d: embedding dimensions, at least m - 1 for the m = group_size or n rows of a group.
        k, group_size: as in ``F.koleo``, without ids.
        eps: as there; the loss of the embedding is within eps (1 + sqrt(d)) of ``loss``.

    Returns:
        `ClosedForm`. ``loss`` is -1/2 log(2 m / (m - 1)), that of eps = 0, and ``lower_bound`` what
        no z with this eps is below. ``eigenvalues`` and ``filter`` are those of Z^T Z.

    Raises:
        ValueError: n, k or group_size out of range; more rows than a simplex in d dimensions has.
        TypeError: wrong types.
    """
    n = count("koleo", "n", n, 2)
    size = n if group_size is None else count("koleo", "group_size", group_size, 2)
    if n % size:
        raise ValueError(f"koleo: group_size must divide n = {n}, got {size}")
    d, k = count("koleo", "d", d, 1), count("koleo", "k", k, 1)
    if k >= size:
        raise ValueError(f"koleo: k must be less than the {size} rows of a group, got {k}")
    if d < size - 1:
        raise ValueError(
            f"koleo: d must be at least {size - 1} for a simplex of {size} rows, got {d}; with "
            "fewer dimensions there is a bound, but no closed form"
        )
    eps = check_positive(eps, "eps")
    distance = math.sqrt(2 * size / (size - 1))
    target = Target(PairGraph.from_labels(torch.arange(n) // size))
    spectrum = np.full(size - 1, n / (size - 1))
    info = known_info(target, spectrum, size - 1)
    info.regime = "simplex"
    info.lower_bound = -math.log(distance + eps * (1 + math.sqrt(d)))
    return package(
        target,
        embedding=np.tile(simplex(size, d), (n // size, 1)),
        eigenvalues=pad(spectrum, d, 0.0),
        filter_=pad(spectrum, d, 0.0),
        loss=-math.log(distance),
        info=info,
    )
