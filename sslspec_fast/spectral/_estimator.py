"""The life cycle of the estimators in `estimators.py`, which differ in their loss only.

It builds a graph from the data (nearest neighbours, labels, or a given affinity), takes the
closed-form optimum of the loss on it, and embeds new rows by the Nystrom formula of that loss
(nonparametric), by X W (linear) or by kernel rows (kernel).
"""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
import scipy.sparse as sp

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.metrics.pairwise import KERNEL_PARAMS, pairwise_kernels
    from sklearn.neighbors import NearestNeighbors
    from sklearn.utils import check_random_state
    from sklearn.utils.validation import check_is_fitted, check_non_negative, validate_data
except ImportError as missing:  # an optional extra: say how to get it
    raise ImportError(
        "the estimators need scikit-learn >= 1.6: pip install 'sslspec-fast[sklearn]'"
    ) from missing

from .._arrays import host_array
from .._checks import count
from ..graph import PairGraph
from ..graph.labels import class_codes
from ._checks import check_positive
from ._samples import check_size, lookup, neighbor_rows, unit_of
from .closed_form import ClosedForm

__all__ = ["ClosedFormEmbedding"]

Array = np.ndarray
_AFFINITIES = ("nearest_neighbors", "precomputed", "labels")
_REGIMES = ("auto", "nonparametric", "linear", "kernel")
_DTYPES = (np.float64, np.float32)
# What has a meaning under some values of another parameter only.
_ONLY_WITH = (
    ("n_neighbors", "affinity", ("nearest_neighbors",)),
    ("ridge", "regime", ("linear", "kernel")),
    ("kernel", "regime", ("kernel",)),
    ("gamma", "regime", ("kernel",)),
)


class ClosedFormEmbedding(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """What the estimators share: validate, build the graph, solve, transform."""

    # Parameters of every subclass, set by their own __init__ as scikit-learn requires.
    n_components: int
    affinity: str
    n_neighbors: int
    regime: str
    kernel: str
    gamma: float | None
    tol: float
    _fit_X: Any  # the training rows; None for a precomputed affinity
    random_state: int
    n_jobs: int | None
    verbose: bool

    def _solve(self, graph: PairGraph, k: int, design: dict[str, Any]) -> ClosedForm:
        raise NotImplementedError

    def fit(self, X: Any, y: Any = None) -> Any:
        """Solve for the optimum on the training rows.

        Args:
            X: (n, d) samples, or the (n, n) affinity for affinity="precomputed".
            y: (n,) labels for affinity="labels": integers or names, where a negative integer means
                unlabelled.

        Returns:
            The estimator.

        Raises:
            ValueError or TypeError: a setting that is out of range, or X and y that do not fit it.

        Warns:
            UserWarning: a setting that affinity or regime leaves unused is not at its default.
        """
        for name, allowed in (("affinity", _AFFINITIES), ("regime", _REGIMES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")
        regime = self._regime()
        self._warn_unused(regime)
        precomputed = self.affinity == "precomputed"
        if precomputed and regime != "nonparametric":
            raise ValueError(
                "affinity='precomputed' gives no samples, so regime must be 'auto' or "
                f"'nonparametric', got {regime!r}"
            )
        X, dtype = self._rows(X, ensure_min_samples=2)
        n = X.shape[0]
        if precomputed and X.shape[1] != n:
            raise ValueError(f"X must be a square affinity, got shape {X.shape}")
        if precomputed and self._divides_by_degree():
            check_non_negative(X, f"{type(self).__name__} (fit, an affinity)")
        k = count("fit", "n_components", self.n_components)
        if not 1 <= k <= n:
            raise ValueError(f"fit: n_components must be between 1 and n_samples={n}, got {k}")
        if regime != "nonparametric":
            check_size(X)  # its products are taken as they are
        graph = self._graph(X, y)
        state: Any = self.random_state  # also None or a RandomState, as everywhere in scikit-learn
        if not isinstance(state, (int, np.integer)):
            state = check_random_state(state).randint(2**31 - 1)
        design: dict[str, Any] = {
            "tol": self.tol,
            "seed": int(state),
            "progress": bool(self.verbose),
        }
        if regime == "linear":
            design["features"] = X
        elif regime == "kernel":
            self._check_kernel()
            design["kernel"] = self._kernel_rows(X, X)
        form = self._solve(graph, k, design)
        self.embedding_ = host_array(form.embedding).astype(dtype)
        self.eigenvalues_ = host_array(form.eigenvalues)
        self.filter_ = host_array(form.filter)
        self.loss_, self.rank_, self.info_ = form.loss, form.rank, form.info
        self.closed_form_, self.regime_ = form, regime
        if regime == "linear":
            self.components_ = host_array(form.weights).T
        if self.verbose:
            print(f"{type(self).__name__}: {form!r}")
        self._fit_X = None if precomputed else X
        self._n_features_out = self.embedding_.shape[1]
        return self

    def fit_transform(self, X: Any, y: Any = None) -> Array:
        """`fit`, and the embedding of the training rows.

        Args:
            X, y: as in `fit`.

        Returns:
            (n, n_components).

        Raises:
            ValueError or TypeError: as in `fit`.
        """
        return self.fit(X, y).embedding_.copy()

    def transform(self, X: Any) -> Array:
        """Embed new rows; a training row gets its own embedding back.

        Args:
            X: samples (m, d), or affinities (m, n) to the training nodes ("precomputed").

        Returns:
            (m, n_components).

        Raises:
            ValueError: X does not fit, or, nonparametric with labels, holds rows that are not of
                the training data: new rows have no label to be joined by.
        """
        check_is_fitted(self, "embedding_")
        X, dtype = self._rows(X, reset=False)
        if self.regime_ == "linear":
            out = X @ self.components_.T
        elif self.regime_ == "kernel":
            out = host_array(self.closed_form_.transform(self._kernel_rows(X, self._fit_X)))
        elif self.affinity == "precomputed":
            out = host_array(self.closed_form_.transform(X))
        else:
            out = self._extend(X)
        return out.astype(dtype, copy=False)

    def _rows(self, X: Any, **options: Any) -> tuple[Any, np.dtype]:
        """X checked, in float64, and the dtype of what is returned for it: its own if float32."""
        sparse = ("csr", "csc", "coo") if self.affinity == "precomputed" else False
        rows = validate_data(self, X, dtype=_DTYPES, accept_sparse=sparse, **options)
        return rows.astype(np.float64, copy=False), rows.dtype

    def _regime(self) -> str:
        """What "auto" stands for: new rows have no labels, but the linear map places them."""
        if self.regime != "auto":
            return self.regime
        return "linear" if self.affinity == "labels" else "nonparametric"

    # ------------------------------------------------------------------ checks
    def _warn_unused(self, regime: str) -> None:
        """A grid crosses settings with affinities and regimes that do not read them."""
        parameters = inspect.signature(type(self)).parameters
        given = {"affinity": self.affinity, "regime": regime}
        for name, other, users in _ONLY_WITH:
            if name not in parameters or given[other] in users:
                continue
            value, default = getattr(self, name), parameters[name].default
            if np.any(value != default):
                warnings.warn(
                    f"fit: {name}={value!r} is ignored with {other}={given[other]!r}; it is used "
                    f"with {other}={' or '.join(map(repr, users))}",
                    stacklevel=3,
                )

    def _check_kernel(self) -> None:
        if not callable(self.kernel):
            names = (*KERNEL_PARAMS, "precomputed")
            if self.kernel not in names:
                raise ValueError(f"kernel must be a function or in {names}, got {self.kernel!r}")
            if self.gamma is not None and "gamma" not in KERNEL_PARAMS.get(self.kernel, ()):
                raise ValueError(
                    f"gamma must be None with kernel={self.kernel!r}, which has none, "
                    f"got {self.gamma!r}"
                )
        if self.gamma is not None:
            check_positive(self.gamma, "gamma", strict=True)

    # ------------------------------------------------------------------ graph
    def _graph(self, X: Any, y: Any) -> PairGraph:
        if self.affinity == "precomputed":
            matrix = sp.csr_array(X)
            gap = abs(matrix - matrix.T).max() if matrix.nnz else 0.0
            if gap > 1e-9 * abs(matrix).max() if matrix.nnz else False:
                raise ValueError(f"X must be a symmetric affinity, got max |X - X^T| = {gap:.3g}")
            return PairGraph.from_sparse((matrix + matrix.T) / 2)
        if self.affinity == "labels":
            if y is None:
                raise ValueError(
                    "affinity='labels' requires y to be passed, but the target y is None"
                )
            codes = class_codes(host_array(y).reshape(-1), "y")
            if len(codes) != X.shape[0]:
                raise ValueError(
                    f"y must have one label per row of X: {X.shape[0]}, got {len(codes)}"
                )
            # Self loops and weight 1/n_c: the graph on which the linear regime is exactly LDA.
            return PairGraph.from_labels(codes, weight="class_size", self_loops=True)
        k = count("fit", "n_neighbors", self.n_neighbors, 1)
        if k >= X.shape[0]:
            warnings.warn(
                f"fit: n_neighbors must be below n_samples={X.shape[0]}, got {k}; all are joined",
                stacklevel=3,
            )
        self._unit = unit_of(X)
        search = NearestNeighbors(n_neighbors=min(k, X.shape[0] - 1), n_jobs=self.n_jobs)
        self._neighbors = search.fit(X * self._unit)
        distance, index = self._neighbors.kneighbors()  # of the training rows, without themselves
        self._reach = distance[:, -1]  # to the last neighbour
        directed = neighbor_rows(index, np.ones_like(distance), X.shape[0])
        return PairGraph.from_sparse((directed + directed.T) / 2)

    def _extend(self, X: Array) -> Array:
        """Rows of the training data keep their place; others are joined as the graph was built."""
        known = lookup(self._fit_X, X)
        fresh = known < 0
        out = np.empty((X.shape[0], self.embedding_.shape[1]))
        out[~fresh] = self.embedding_[known[~fresh]]
        if fresh.any():
            if self.affinity == "labels":
                raise ValueError(
                    f"transform: {int(fresh.sum())} row(s) are not training rows, and affinity="
                    "'labels' with regime='nonparametric' cannot place them; use regime='linear'"
                )
            check_size(X, self._unit)
            distance, index = self._neighbors.kneighbors(X[fresh] * self._unit)
            # Weight 1/2 for "j is near x" and 1/2 more for "x is as near to j as j's own
            # neighbours".
            weight = 0.5 + 0.5 * (distance <= self._reach[index])
            edges = neighbor_rows(index, weight, self.embedding_.shape[0])
            out[fresh] = host_array(self.closed_form_.transform(edges))
        return out

    def _kernel_rows(self, X: Array, training: Array) -> Array:
        options = {} if self.gamma is None else {"gamma": self.gamma}
        return pairwise_kernels(
            X, training, metric=self.kernel, filter_params=True, n_jobs=self.n_jobs, **options
        )

    def _divides_by_degree(self) -> bool:
        """Whether the closed form needs the root of the degrees, so that no weight is negative."""
        return False

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = self.affinity == "precomputed" and self._divides_by_degree()
        tags.input_tags.pairwise = self.affinity == "precomputed"
        tags.input_tags.sparse = self.affinity == "precomputed"
        tags.target_tags.required = self.affinity == "labels"
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags
