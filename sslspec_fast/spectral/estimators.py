"""The closed forms behind scikit-learn's estimator interface: a loss each, on a graph of the data.

Source: Balestriero & LeCun, NeurIPS 2022 (arXiv 2205.11508).
"""

from __future__ import annotations

from typing import Any

from ..graph import PairGraph
from ._estimator import ClosedFormEmbedding
from .barlow_twins import barlow_twins
from .closed_form import ClosedForm
from .simclr import simclr
from .vicreg import vicreg

__all__ = ["BarlowTwinsEmbedding", "SimCLREmbedding", "VICRegEmbedding"]


class VICRegEmbedding(ClosedFormEmbedding):
    """Optimum of VICReg: Laplacian eigenmaps with a soft spectral cut-off (LPP when linear).

    With ``measure="degree"`` the span is that of scikit-learn's SpectralEmbedding on the same
    affinity. What affinity or regime leaves unused is ignored, with a warning where it is not at
    its default. All is computed in float64; embeddings of float32 rows are returned in float32.

    Args:
        n_components: dimensions of the embedding.
        affinity: "nearest_neighbors" (mean of the two directions of the neighbour relation),
            "precomputed" (fit on an (n, n) affinity) or "labels" (fit with y).
        n_neighbors: of "nearest_neighbors".
        regime: "nonparametric", "linear", "kernel", or "auto": linear with labels, which new rows
            do not have, and nonparametric otherwise.
        variance, covariance, invariance, penalty, measure, eps: the loss, as in ``F.graph_vicreg``.
        kernel, gamma: scikit-learn's kernel name and its gamma.
        ridge: weight of ``|W|^2`` or tr A^T K A.
        tol, random_state: of the eigensolver.
        n_jobs: processes or threads of the neighbour search and of kernels, as in scikit-learn.
        verbose: show the progress of the eigensolver, and a summary of the result.

    Attributes:
        embedding_: (n, n_components), of the training rows.
        regime_: what regime stands for.
        eigenvalues_, filter_, loss_, rank_, info_: those of `ClosedForm`.
        closed_form_: the `ClosedForm` itself.
        components_: (n_components, d) the linear map, where regime="linear".
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        affinity: str = "nearest_neighbors",
        n_neighbors: int = 15,
        regime: str = "auto",
        variance: float = 1.0,
        covariance: float | None = None,
        invariance: float = 1e-3,
        penalty: str = "ls_var",
        measure: str = "uniform",
        eps: float = 0.0,
        kernel: str = "rbf",
        gamma: float | None = None,
        ridge: float = 0.0,
        tol: float = 1e-9,
        random_state: int = 0,
        n_jobs: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.affinity = affinity
        self.n_neighbors = n_neighbors
        self.regime = regime
        self.variance = variance
        self.covariance = covariance
        self.invariance = invariance
        self.penalty = penalty
        self.measure = measure
        self.eps = eps
        self.kernel = kernel
        self.gamma = gamma
        self.ridge = ridge
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _divides_by_degree(self) -> bool:
        return self.measure == "degree"

    def _solve(self, graph: PairGraph, k: int, design: dict[str, Any]) -> ClosedForm:
        if self._regime() != "nonparametric":
            design["ridge"] = self.ridge
        return vicreg(
            graph,
            k,
            variance=self.variance,
            covariance=self.covariance,
            invariance=self.invariance,
            penalty=self.penalty,
            measure=self.measure,
            eps=self.eps,
            **design,
        )


class SimCLREmbedding(ClosedFormEmbedding):
    """Optimum of least-squares SimCLR: MDS of the graph (Isomap for a geodesic target).

    With affinity="precomputed" and X = -1/2 H D^2 H of geodesic distances the embedding is
    scikit-learn's Isomap.

    Args:
        n_components, affinity, n_neighbors, regime: as in `VICRegEmbedding`.
        center: fit H G H, which drops the constant direction (default, unlike
            ``sf.spectral.simclr``).
        kernel, gamma, tol, random_state, n_jobs, verbose: as in `VICRegEmbedding`.

    Attributes are those of `VICRegEmbedding`.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        affinity: str = "nearest_neighbors",
        n_neighbors: int = 15,
        regime: str = "auto",
        center: bool = True,
        kernel: str = "rbf",
        gamma: float | None = None,
        tol: float = 1e-9,
        random_state: int = 0,
        n_jobs: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.affinity = affinity
        self.n_neighbors = n_neighbors
        self.regime = regime
        self.center = center
        self.kernel = kernel
        self.gamma = gamma
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _solve(self, graph: PairGraph, k: int, design: dict[str, Any]) -> ClosedForm:
        return simclr(graph, k, center=self.center, **design)


class BarlowTwinsEmbedding(ClosedFormEmbedding):
    """Optimum of Barlow Twins: canonical correlation analysis, water-filled (LDA on labels).

    Args:
        n_components, affinity, n_neighbors, regime: as in `VICRegEmbedding`.
        off_diagonal: weight of the off-diagonal terms.
        whitened: the CCA constraint instead of the exact loss.
        kernel, gamma, tol, random_state, n_jobs, verbose: as in `VICRegEmbedding`.

    Attributes are those of `VICRegEmbedding`.
    """

    def __init__(
        self,
        n_components: int = 2,
        *,
        affinity: str = "nearest_neighbors",
        n_neighbors: int = 15,
        regime: str = "auto",
        off_diagonal: float = 1.0,
        whitened: bool = False,
        kernel: str = "rbf",
        gamma: float | None = None,
        tol: float = 1e-9,
        random_state: int = 0,
        n_jobs: int | None = None,
        verbose: bool = False,
    ) -> None:
        self.n_components = n_components
        self.affinity = affinity
        self.n_neighbors = n_neighbors
        self.regime = regime
        self.off_diagonal = off_diagonal
        self.whitened = whitened
        self.kernel = kernel
        self.gamma = gamma
        self.tol = tol
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose

    def _divides_by_degree(self) -> bool:
        return True

    def _solve(self, graph: PairGraph, k: int, design: dict[str, Any]) -> ClosedForm:
        return barlow_twins(
            graph, k, off_diagonal=self.off_diagonal, whitened=self.whitened, **design
        )
