r"""Matryoshka: one loss on several prefixes of the features.

.. math::
    L = \sum_m w_m \, \ell\bigl(Z_1[:, :m], Z_2[:, :m]\bigr),

each prefix re-normalised for the losses on unit rows. Gradient: the prefixes' gradients add up in
the columns they factor. Prefixes are strided views: nothing is copied before the rows are
normalised.

Kusupati et al., "Matryoshka Representation Learning" (NeurIPS 2022, arXiv 2205.13147), section 3.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import stays_wide, widen, widened_rows
from ..primitives.rows.unit_rows import unit_rows
from ..ranks import agree, several, told_to_all
from ..reference import matryoshka as reference
from ._catalogue import CATALOGUE, TWO_VIEWS
from ._common import Loss, LossOrTerms, with_terms
from ._prefixes import shared_prefixes

ROWS = {row.name: row for row in CATALOGUE.values() if row.inputs == TWO_VIEWS}
LOSSES = {name: row.function for name, row in ROWS.items()}


def matryoshka(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    *,
    dims: Sequence[int],
    weights: Sequence[float] | None = None,
    return_terms: bool = False,
    **hyper: Any,
) -> LossOrTerms:
    """A weighted sum of one two-view loss over prefixes of the features.

    Args:
        loss: name of a two-view functional: "nt_xent", "info_nce", "clip", "siglip", "dcl",
            "vicreg", "barlow_twins", "spectral_contrastive", "negative_cosine" or "falcon".
        z1, z2: (n, d) as that functional takes them.
        dims: prefix lengths, each in 1 ... d.
        weights: one number >= 0 per prefix; None: all 1.
        return_terms: also return {"dim_64": the unweighted loss of z[:, :64], ...}.
        hyper: keywords of the functional, for example temperature=0.1, reduction="none",
            impl="torch", group. Extra negatives of info_nce are cut to the same prefix.

    Every prefix is divided by its row norms, except for vicreg and barlow_twins, which standardise
    columns and know no row norm.

    Returns:
        The sum as the functional returns it; (sum, terms) with return_terms.

    Raises:
        ValueError or TypeError: names, lengths or ranges that do not fit.

    >>> z = torch.eye(4, 8)
    >>> round(float(matryoshka("nt_xent", z, z, dims=[4, 8])), 4)
    1.1889
    """
    op = "matryoshka"
    group = several(op, hyper.get("group"))
    with told_to_all(op, group):
        sizes, factors = _checked(loss, z1, z2, dims, weights, hyper, 1 if group is None else 0)
    if group is not None and not torch.compiler.is_compiling():
        alike = {
            "loss": loss,
            "dims": sizes,
            "weights": factors,
            "keywords": sorted(k for k, v in hyper.items() if v is not None),
        }
        agree(op, group, alike, z1.shape[0])

    negatives = hyper.pop("negatives", None)
    if hyper.get("impl") == "torch" and not return_terms and negatives is None:
        return reference.matryoshka(
            LOSSES[loss],
            widen(z1),
            widen(z2),
            dims=sizes,
            weights=factors,
            renormalize=ROWS[loss].unit_rows,
            **hyper,
        )

    prefixes = sorted(set(sizes))
    values = shared_prefixes(loss, z1, z2, prefixes, negatives, hyper)
    if values is None:
        # of rounded unit rows the value of SigLIP would be no better than under autocast
        half = loss != "siglip" and stays_wide(z1, z1.dtype == torch.bfloat16)
        half = half and not torch.compiler.is_compiling()
        with widened_rows() if half else contextlib.nullcontext():
            values = _one_by_one(loss, (z1, z2, negatives), prefixes, hyper)
    terms = {f"dim_{m}": value for m, value in values.items()}
    total: Tensor | float = 0.0
    for m, factor in zip(sizes, factors, strict=True):
        total = total + factor * values[m]
    assert isinstance(total, Tensor)
    return with_terms(total, terms if return_terms else None)


def _one_by_one(
    loss: str, rows: Sequence[Tensor | None], dims: list[int], hyper: dict[str, Any]
) -> dict[int, Tensor]:
    """The loss of every prefix of both views, and of negatives if there are any, by a call of its
    own. Rows are widened before they are cut: the gradients of the prefixes add up in float32, with
    products of bfloat16 rows on a CPU that has them.
    """
    x, y, others = (None if z is None else widen(z) for z in rows)
    assert x is not None
    assert y is not None
    values = {}
    for m in dims:
        a, b = x[:, :m], y[:, :m]
        if ROWS[loss].unit_rows:  # a prefix of a unit row is none
            a, b = unit_rows(a), unit_rows(b)
        extra = {} if others is None else {"negatives": others[:, :m]}
        values[m] = LOSSES[loss](a, b, **extra, **hyper)
    return values


def _checked(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    dims: Sequence[int],
    weights: Sequence[float] | None,
    hyper: dict[str, Any],
    min_rows: int,
) -> tuple[list[int], list[float]]:
    """The prefix lengths and their weights."""
    op = "matryoshka"
    check.choice(op, "loss", loss, tuple(LOSSES))
    check.pair(op, ("z1", "z2"), z1, z2, min_rows=min_rows)
    d = z1.shape[1]
    sizes = [check.count(op, "dims", m) for m in _several(op, "dims", dims)]
    if not sizes:
        raise ValueError(f"{op}: dims needs at least one prefix length, got none")
    for m in sizes:
        if not 1 <= m <= d:
            raise ValueError(f"{op}: dims must be in 1 ... {d}, the features of z1, got {m}")
    each = [1.0] * len(sizes) if weights is None else _several(op, "weights", weights)
    factors = [check.number(op, "weights", w, low=0.0) for w in each]
    if len(factors) != len(sizes):
        raise ValueError(
            f"{op}: weights must have one number per prefix ({len(sizes)}), got {len(factors)}"
        )
    if hyper.get("negatives") is not None:
        if loss != "info_nce":
            raise TypeError(f"{op}: negatives are for loss='info_nce', got loss={loss!r}")
        check.columns(op, "negatives", hyper["negatives"], "z1", z1, min_rows=min_rows)
    return sizes, factors


def _several(op: str, name: str, values: Any) -> list[Any]:
    flat = isinstance(values, Iterable) and getattr(values, "ndim", 1) == 1
    if isinstance(values, str) or not flat:
        raise TypeError(f"{op}: {name} must be a sequence of numbers, got {type(values).__name__}")
    return list(values)


class MatryoshkaLoss(Loss):
    """`matryoshka` as a module: ``forward(z1, z2)``.

    Args:
        loss, dims, weights, hyper: as in `matryoshka`.
        group: as in the functional of that name.

    Raises:
        ValueError: no two-view functional has that name.
    """

    def __init__(
        self,
        loss: str,
        dims: Sequence[int],
        weights: Sequence[float] | None = None,
        group: Any = None,
        **hyper: Any,
    ) -> None:
        super().__init__(group)
        check.choice("MatryoshkaLoss", "loss", loss, tuple(LOSSES))
        self.loss, self.dims, self.weights, self.hyper = loss, dims, weights, hyper

    def forward(self, z1: Tensor, z2: Tensor) -> LossOrTerms:
        hyper = self.hyper if self.group is None else {**self.hyper, "group": self.group}
        return matryoshka(self.loss, z1, z2, dims=self.dims, weights=self.weights, **hyper)
