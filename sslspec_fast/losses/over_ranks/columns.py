"""VICReg, Barlow Twins and the spectral contrastive loss of rows that are spread over ranks.

Formulas: the files of the losses. Column moments of the ranks are merged in rank order (Chan,
Golub, LeVeque 1979), in float64, and the squared matrices are those of `sums.squared_products`, on
the side that sends less. Value and gradient are made together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import _checks as check
from ..._dtypes import as_multiplied
from ...primitives._matmul import mm_float32
from ...primitives.rows.moments import pair_moments
from ...primitives.rows.unit_rows import paired_rows
from ...ranks import Ranks, sum_to_rows
from ...ranks.differentiable import sum_over_ranks
from ...ranks.traffic import all_gather
from ._form import ROWS, Form, Given, Problem, Result
from ._reduce import check_weight, reduce_rows
from .sums.squared_products import (
    added_up_symmetric,
    by_rows,
    gram_products,
    inner_product,
    off_diagonal,
)
from .sums.value_and_gradients import ValueAndGradients


def merged_moments(
    x: Tensor, y: Tensor, ranks: Ranks, *, product: bool = False
) -> tuple[Tensor, Tensor]:
    """(3, d) means and centred sums of squares of the columns of x, y and x - y; of all rows, in
    float64 and with the same bits on every rank. product: the third row of the sums has those of
    the products of x and y.
    """
    d = x.shape[1]
    own = pair_moments(x, y, product=product) if x.shape[0] else (x.new_zeros(3, d),) * 2
    table = all_gather(torch.stack(own), ranks.group).double()
    mean, m2 = table.new_zeros(2, 3, d)
    count = 0
    for rows, (other_mean, other_var) in zip(ranks.counts, table, strict=True):
        if rows == 0:
            continue
        delta, both = other_mean - mean, count + rows
        squares = delta.square()
        if product:
            squares[2] = delta[0] * delta[1]
        m2 = m2 + rows * other_var + squares * (count * rows / both)
        mean = mean + delta * (rows / both)
        count = both
    return mean, m2


def _check_pair(op: str, z1: Tensor, z2: Tensor) -> dict[str, Tensor | None]:
    check.pair(op, ("z1", "z2"), z1, z2, min_rows=0)
    return {"z1": z1, "z2": z2}


def _value_and_gradients(p: Problem, make: Callable[..., Any]) -> Result:
    loss, terms = ValueAndGradients.apply(make, p.ranks, p.rows("z1"), p.rows("z2"))
    return loss, terms.unbind()


# ---- VICReg ----


def _check_vicreg(
    z1: Tensor, z2: Tensor, invariance: float, variance: float, covariance: float, eps: float
) -> Given:
    op = "vicreg"
    numbers = {"invariance": invariance, "variance": variance, "covariance": covariance}
    numbers = {k: check.number(op, k, value, low=0.0) for k, value in numbers.items()}
    numbers["eps"] = check.number(op, "eps", eps, low=0.0, strict=True)
    return Given(_check_pair(op, z1, z2), numbers)


def _vicreg(p: Problem) -> Result:
    invariance, variance, covariance, eps = p.numbers.values()

    def make(z1: Tensor, z2: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        n, d, ranks = p.ranks.n, z1.shape[1], p.ranks
        mean, m2 = merged_moments(z1, z2, ranks)
        deviation = (m2[:2] / (n - 1) + eps).sqrt()
        terms = [
            (m2[2] + n * mean[2].square()).sum() / (n * d),
            torch.relu(1 - deviation).sum() / (2 * d),
            m2.new_zeros(()),
        ]
        own = -variance / (2 * d * (n - 1)) * (deviation < 1).to(m2) / deviation
        size = as_multiplied(z1, p.half).element_size()
        rows_side, grads = by_rows(n, d, size), []
        difference = (z1 - z2) * (2 * invariance / (n * d))
        for k, z in enumerate((z1, z2)):
            x = z - mean[k].to(z.dtype)
            a = as_multiplied(x, p.half)
            off, slope, _ = off_diagonal(a, None, m2[k], ranks, rows_side)
            terms[2] = terms[2] + off / (d * (n - 1) ** 2)
            grad = slope * (4 * covariance / (d * (n - 1) ** 2)) + x * own[k].to(z.dtype)
            grads.append(grad + difference if k == 0 else grad - difference)
        loss = invariance * terms[0] + variance * terms[1] + covariance * terms[2]
        return loss, terms, grads

    return _value_and_gradients(p, make)


VICREG = Form(
    "vicreg",
    {"z1": ROWS, "z2": ROWS},
    ("invariance", "variance", "covariance", "eps"),
    _check_vicreg,
    _vicreg,
    terms=("invariance", "variance", "covariance"),
    min_rows=2,
    reduces=False,
)


# ---- Barlow Twins ----


def _check_barlow_twins(z1: Tensor, z2: Tensor, off_diagonal: float, eps: float) -> Given:
    op = "barlow_twins"
    numbers = {
        "off_diagonal": check.number(op, "off_diagonal", off_diagonal, low=0.0),
        "eps": check.number(op, "eps", eps, low=0.0, strict=True),
    }
    return Given(_check_pair(op, z1, z2), numbers)


def _barlow_twins(p: Problem) -> Result:
    weight, eps = p.numbers.values()

    def make(z1: Tensor, z2: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        n, d, ranks = p.ranks.n, z1.shape[1], p.ranks
        mean, m2 = merged_moments(z1, z2, ranks, product=True)
        scale = (m2[:2] / n + eps).rsqrt()
        diagonal = m2[2] * scale[0] * scale[1]  # n C_kk
        from_one = diagonal / n - 1
        kind = z1.dtype
        x, y = (
            (z - m.to(kind)) * s.to(kind) for z, m, s in zip((z1, z2), mean[:2], scale, strict=True)
        )
        a, b = as_multiplied(x, p.half), as_multiplied(y, p.half)
        rows_side = by_rows(n, d, a.element_size())
        off, grad_x, grad_y = off_diagonal(a, b, diagonal, ranks, rows_side)
        other = (from_one * (2 / n)).to(kind)
        grad_x = grad_x * (2 * weight / n**2) + y * other
        grad_y = grad_y * (2 * weight / n**2) + x * other
        # through the standardisation: sums over all rows of the gradient, and of it times the rows
        local = [grad_x, grad_x * x, grad_y, grad_y * y]
        sums = (
            sum_over_ranks(torch.stack([t.sum(0, dtype=torch.float64) for t in local]), ranks) / n
        )
        sums, scale = sums.to(kind), scale.to(kind)
        grads = [
            scale[0] * (grad_x - sums[0] - x * sums[1]),
            scale[1] * (grad_y - sums[2] - y * sums[3]),
        ]
        terms = [from_one.square().sum(), off / n**2]
        return terms[0] + weight * terms[1], terms, grads

    return _value_and_gradients(p, make)


BARLOW_TWINS = Form(
    "barlow_twins",
    {"z1": ROWS, "z2": ROWS},
    ("off_diagonal", "eps"),
    _check_barlow_twins,
    _barlow_twins,
    terms=("on_diagonal", "off_diagonal"),
    min_rows=2,
    reduces=False,
)


# ---- spectral contrastive ----


def _check_spectral(
    z1: Tensor, z2: Tensor, mu: float, reduction: str, sample_weight: Tensor | None
) -> Given:
    op = "spectral_contrastive"
    tensors = _check_pair(op, z1, z2)
    tensors["sample_weight"] = check.sample_weight(op, sample_weight, z1, z1.shape[0], "sum")
    return Given(tensors, {"mu": check.number(op, "mu", mu, low=0.0, strict=True)})


def _spectral(p: Problem) -> Result:
    (mu,), weight, ranks = p.numbers.values(), p.tensors["sample_weight"], p.ranks
    check_weight(p, weight)
    n = ranks.n
    x, y, similarity = paired_rows(p.rows("z1"), p.rows("z2"), mu**0.5)
    if p.reduction == "none" or weight is not None:
        repulsion = (x * (x @ sum_to_rows(y.T @ y, ranks))).sum(1) - similarity.square()
        loss = reduce_rows(p, (repulsion / (n - 1) - 2 * similarity) / mu, weight)
    else:
        factor = 1 / mu / (n if p.reduction == "mean" else 1)

        def make(x: Tensor, y: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
            a, b = as_multiplied(x, p.half), as_multiplied(y, p.half)
            s = (x * y).sum(1)
            wide = s.double()
            sums = sum_over_ranks(torch.stack([wide.sum(), wide.square().sum()]), ranks)
            if by_rows(n, x.shape[1], a.element_size()):
                whole, slope_x, slope_y = gram_products(a, b, ranks, crossed=False)
            else:
                of_x = added_up_symmetric(mm_float32(a.T, a), ranks)
                of_y = added_up_symmetric(mm_float32(b.T, b), ranks)
                whole = inner_product(of_x, of_y, ranks)
                slope_x, slope_y = mm_float32(a, of_y.to(a.dtype)), mm_float32(b, of_x.to(b.dtype))
            r = factor / (n - 1)
            of_pair = (-2 * factor - 2 * r * s)[:, None]
            grads = [slope_x * (2 * r) + of_pair * y, slope_y * (2 * r) + of_pair * x]
            return -2 * factor * sums[0] + r * (whole - sums[1]), [sums[0]], grads

        loss = ValueAndGradients.apply(make, ranks, x, y)[0]
    if not p.wants_terms:
        return loss, ()
    with torch.no_grad():
        alignment = reduce_rows(p, -2 / mu * similarity.detach(), weight)
    return loss, (alignment, loss.detach() - alignment)


SPECTRAL_CONTRASTIVE = Form(
    "spectral_contrastive",
    {"z1": ROWS, "z2": ROWS, "sample_weight": ROWS},
    ("mu",),
    _check_spectral,
    _spectral,
    terms=("alignment", "uniformity"),
    min_rows=2,
)
