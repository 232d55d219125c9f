"""How much of a graph any k codes can keep inside their clusters: a certificate for prototypes.

Codes P (n, k), rows of 0 and 1 or probabilities of the prototypes, agree on

    tr P^T G P = sum_ij G_ij p_i . p_j  <=  sum_j lambda_j(G) sigma_j,

both spectra descending, sigma that of P^T P: for hard codes the sizes of the clusters, so that k
balanced ones keep at most n / k (lambda_1 + ... + lambda_k). The relaxation is spectral clustering.

Source: Fan 1949 (PNAS 35, 652) and von Neumann 1937 for the trace inequality; for the codes of
DINO, SwAV and MSN docs/closed_forms.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .._arrays import host_array
from ._checks import check_rank, check_solver
from ._eigen import SpectrumInfo, adjacency_modes
from ._target import Target, checked_array

__all__ = ["PartitionBound", "partition_bound"]

Array = np.ndarray


@dataclass(frozen=True)
class PartitionBound:
    """What `partition_bound` found.

    Attributes:
        bound: no codes with these sizes agree on more than this weight of the graph.
        agreement: tr P^T G P of the codes given; None without.
        volume: the weight of the whole graph; with one cluster all of it is inside.
        sizes: (k,) sigma, descending: rows of each cluster, or the eigenvalues of P^T P.
        eigenvalues: (k,) of G, descending.
        info: of the eigensolver; ``info.converged`` says whether the bound is one.
    """

    bound: float
    agreement: float | None
    volume: float
    sizes: Array
    eigenvalues: Array
    info: SpectrumInfo


def partition_bound(graph: Any, k: int, *, codes: Any = None, **solver: Any) -> PartitionBound:
    """Upper bound of the weight that codes over k prototypes keep on the edges of a graph.

    Args:
        graph: symmetric, in the forms of `vicreg`; its diagonal counts.
        k: prototypes, at most n.
        codes: what to certify: (n,) integers in [0, k), or (n, k) rows of probabilities. None:
            balanced hard codes.
        solver: as in `vicreg`.

    Returns:
        `PartitionBound`. It bounds codes, however they were trained, and says nothing about the
        training.

    Raises:
        ValueError: a directed graph, k out of range, or codes that are none.
        TypeError: wrong types.

    >>> from sslspec_fast import PairGraph
    >>> pairs = PairGraph.from_views(3)
    >>> found = partition_bound(pairs, 3, codes=[0, 1, 2, 0, 1, 2])
    >>> found.bound, found.agreement
    (6.0, 6.0)
    """
    target = Target(graph)
    k = check_rank(k, target.n)
    solver = check_solver(solver)
    sizes, agreement = np.full(k, target.n / k), None
    if codes is not None:
        p = _probabilities(codes, target.n, k)
        agreement = float(np.trace(target.quadratic(p)))
        sizes = np.maximum(np.linalg.eigvalsh(p.T @ p)[::-1], 0.0)
    modes = adjacency_modes(target, k, solver, center=False)
    return PartitionBound(
        bound=float(modes.values @ sizes),
        agreement=agreement,
        volume=target.volume,
        sizes=sizes,
        eigenvalues=modes.values,
        info=modes.info,
    )


def _probabilities(codes: Any, n: int, k: int) -> Array:
    """(n, k) rows of probabilities; integers become rows of 0 and 1."""
    array = host_array(codes)
    if array.ndim == 1 and array.dtype.kind in "iu":
        if array.shape != (n,) or array.min() < 0 or array.max() >= k:
            raise ValueError(
                f"codes must be ({n},) integers in [0, {k}), got shape {array.shape} and values "
                f"from {array.min(initial=0)} to {array.max(initial=0)}"
            )
        return np.eye(k)[array]
    p = checked_array(codes, "codes", 2)
    if p.shape != (n, k):
        raise ValueError(f"codes must have shape ({n},) or ({n}, {k}), got {p.shape}")
    worst = float(np.abs(p.sum(axis=1) - 1).max())
    if p.min() < 0 or worst > 1e-3:
        raise ValueError(
            f"codes must be rows of probabilities, got a least entry of {p.min():.3g} and a row "
            f"whose sum is {worst:.3g} from 1"
        )
    return p
