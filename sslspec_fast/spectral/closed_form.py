"""`ClosedForm`: the optimum of a loss, its spectrum, and where a new row would go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch

from ..solvers.result import ends
from ._eigen import SpectrumInfo
from ._target import Target, checked_array

__all__ = ["ClosedForm", "OutOfSample", "count_active", "package", "pad"]

Array = np.ndarray
# Active modes are counted by eigenvalue: 1e-16 of noise in lambda is 1e-8 in its square root.
_ACTIVE = 1e-10


@dataclass
class OutOfSample:
    """Nystrom extension: row -> ((edges @ basis - shift) / (slope * delta + offset)) @ mix.

    basis (n, r) modes at the training nodes, mix (r, k) with embedding = basis @ mix; delta is the
    total weight of the row; slope, offset, shift: (r,) or scalars from the loss's eigen-equation.
    """

    basis: Array
    mix: Array
    slope: Array | float = 0.0
    offset: Array | float = 0.0
    shift: Array | float = 0.0

    def __call__(self, edges: Any) -> Array:
        weight = np.asarray(edges.sum(axis=1)).reshape(-1, 1)  # edges may be sparse
        shape = (edges.shape[0], self.basis.shape[1])
        slope, offset = np.asarray(self.slope), np.asarray(self.offset)
        divisor = np.broadcast_to(slope * weight + offset, shape)
        numerator = edges @ self.basis - self.shift
        # A divisor that cancels to rounding leaves the coordinate undetermined (no edges, or
        # delta = lambda_k). The measure is never below 1, the size of normalised eigenvalues: an
        # only mode at 0 would be compared with itself.
        scale = np.abs(weight) * max(1.0, np.abs(slope).max(initial=0.0))
        scale = scale + float(np.abs(offset).max(initial=0.0))
        defined = np.abs(divisor) > 1e-12 * np.maximum(scale, 1e-300)
        modes = np.divide(numerator, divisor, out=np.full(numerator.shape, np.nan), where=defined)
        used = np.abs(self.mix).max(axis=1, initial=0.0) > 0
        return modes[:, used] @ self.mix[used]


@dataclass(repr=False)
class ClosedForm:
    """The optimum of a joint-embedding loss on a graph (docs/closed_forms.md).

    Attributes:
        embedding: (n, k) float64, one optimal Z (unique up to the symmetries of the loss).
        eigenvalues: (k,) of the operator or pencil, in the order of the modes; surplus columns (k
            beyond the number of modes) hold inf (VICReg) or 0.
        filter: (k,) the s_k of docs/closed_forms.md: how much of mode k the optimum keeps.
        loss: the minimum of the matching ``F.graph_*`` loss (plus the ridge term, if any).
        rank: dimensions of the embedding: active modes, or mixtures of them.
        weights: (d, k) with embedding == features @ weights; (n, k) with embedding == kernel @
            weights in the kernel regime; None without features.
        info: `SpectrumInfo`: convergence, residuals, gap, cut cluster, components, isolated nodes,
            regime, certified.
        out_of_sample: the extension to rows that `transform` uses; None where there is none.
    """

    embedding: Any
    eigenvalues: Any
    filter: Any
    loss: float
    rank: int
    weights: Any
    info: SpectrumInfo
    out_of_sample: OutOfSample | None = None

    def __repr__(self) -> str:
        """A summary: the embedding of a large graph would fill a notebook."""
        proof = "" if self.info.certified else " (best found, not proven)"
        return (
            f"ClosedForm(embedding {tuple(self.embedding.shape)}, loss {self.loss:.6g}, rank "
            f"{self.rank}, {self.info.regime}{proof}, eigenvalues {ends(self.eigenvalues)}, "
            f"filter {ends(self.filter)}, {self.info})"
        )

    def transform(self, rows: Any) -> Any:
        """Embed new rows.

        Args:
            rows: features (m, d); kernel rows k(new, training) (m, n); or, without features, edge
                weights (m, n) to the training nodes.

        Returns:
            (m, k). A row whose position the eigen-equation leaves open is NaN: one without edges,
            except in ``simclr`` (0; centred, one place for all of them) and in uniform ``vicreg``
            (0, but NaN where a mode of eigenvalue 0 is kept: a graph in pieces), and there one of
            total weight lambda_k.

        Raises:
            ValueError: the number of columns does not match.
        """
        source = self.weights if self.weights is not None else self.embedding
        width = int(source.shape[0])
        if self.weights is not None:
            as_tensor = isinstance(rows, torch.Tensor)
            out = _check_rows(rows, width) @ checked_array(self.weights, "weights", 2)
        else:
            as_tensor = isinstance(self.embedding, torch.Tensor)
            if self.out_of_sample is None:
                raise ValueError(
                    "transform: this closed form has no out-of-sample extension: its rows are "
                    "spread over ranks"
                )
            out = self.out_of_sample(_check_rows(rows, width))
        if not as_tensor:
            return out
        device = rows.device if isinstance(rows, torch.Tensor) else self.embedding.device
        return torch.from_numpy(out).to(device)


def _check_rows(rows: Any, width: int) -> Any:
    """(m, width) array, or CSR for sparse rows: rows of a large graph fit in no dense array."""
    if sp.issparse(rows):
        out: Any = sp.csr_array(rows, dtype=np.float64)
        checked_array(out.data, "transform: rows", 1)
    else:
        out = checked_array(rows, "transform: rows", 2)
    if out.shape[1] != width:
        raise ValueError(
            f"transform: rows must have {width} columns as in the fit, got shape {out.shape}"
        )
    return out


def pad(values: Array, k: int, fill: float) -> Array:
    """values (r,) -> (k,) with `fill` behind."""
    return np.concatenate([values, np.full(k - len(values), fill)])


def count_active(s: Array, relative: float = _ACTIVE) -> int:
    return int((s > relative * s.max(initial=0.0)).sum()) if s.size else 0


def package(
    target: Target,
    *,
    embedding: Array,
    eigenvalues: Array,
    filter_: Array,
    loss: float,
    info: SpectrumInfo,
    weights: Any = None,
    features: Any = None,
    out_of_sample: OutOfSample | None = None,
    active: Array | None = None,
) -> ClosedForm:
    """Assemble the result in the caller's array type; it carries no gradient.

    active: what the rank counts, where that is not the filter.
    """
    if not info.converged:  # a proof stands on the eigenvalues
        info.certified, info.lower_bound = False, -np.inf
    active = filter_ if active is None else active
    floor = 1e-6 if info.regime == "multistart" else _ACTIVE
    result = ClosedForm(
        embedding=target.wrap(embedding),
        eigenvalues=target.wrap(eigenvalues),
        filter=target.wrap(filter_),
        loss=float(loss),
        rank=count_active(active, floor),
        weights=None,
        info=info,
        out_of_sample=out_of_sample if target.group is None else None,  # its rows are elsewhere
    )
    if weights is not None:
        like = features.device if isinstance(features, torch.Tensor) else None
        if like is None and target.device is None:
            result.weights, result.embedding = weights, np.asarray(features, np.float64) @ weights
        else:
            device = like if like is not None else target.device
            result.weights = torch.from_numpy(np.ascontiguousarray(weights)).to(device)
            x = torch.as_tensor(features, dtype=torch.float64, device=device).detach()
            result.embedding = x @ result.weights
    return result
