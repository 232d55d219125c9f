"""NT-Xent, DCL, CLIP and SupCon of rows that are spread over ranks.

Formulas: the files of the losses. A row i of rank r has the columns of all ranks; its log-sum-exp
is that of `sums.log_sum_exp`, everything else happens on the rank of the row.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ... import _checks as check
from ..._dtypes import computed_dtype
from ...primitives.rows.unit_rows import paired_rows, unit_rows
from ...ranks import agree, gather_rows, sum_to_rows, told_to_all
from ...ranks.differentiable import sum_over_ranks
from ...ranks.group import by_name
from .._common import positive_sums
from .._softmax import check_softmax, debiased, one_positive_rows, smoothing
from ._agreed import scale_given, wanted
from ._form import ROWS, SCALE, Form, Given, Problem, Result
from ._reduce import check_weight, reduce_rows, result, scale_of
from .sums.log_sum_exp import Columns, log_sum_exp, self_log_sum_exp

# ---- two views: NT-Xent and DCL ----


def _check_two_views(
    op: str, z1: Tensor, z2: Tensor, temperature: float | Tensor, weight: Tensor | None
) -> dict[str, Tensor | None]:
    check.pair(op, ("z1", "z2"), z1, z2, min_rows=0)
    n = z1.shape[0]
    return {
        "z1": z1,
        "z2": z2,
        "temperature": scale_given(op, "temperature", temperature, z1, 2),
        "sample_weight": check.sample_weight(op, weight, z1, n, "sum"),
    }


def _check_nt_xent(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
    label_smoothing: float,
    tau_plus: float,
) -> Given:
    tensors = _check_two_views("nt_xent", z1, z2, temperature, sample_weight)
    smooth, tau_plus = check_softmax("nt_xent", label_smoothing, tau_plus)
    return Given(tensors, {"label_smoothing": smooth, "tau_plus": tau_plus})


def _negatives(p: Problem) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Stacked unit rows, the scale beside the views, positive logits (2, n) and log-sum-exps."""
    n = p.rows("z1").shape[0]
    scale = anchor_scale = scale_of(p, "temperature").reciprocal()
    if scale.dim():  # (1 or 2, n) beside the views, (2n,) beside the anchors
        scale = scale.view(2 if scale.shape[0] > n else 1, n)
        anchor_scale = scale.expand(2, n).reshape(2 * n)
    u = unit_rows(torch.cat([p.rows("z1"), p.rows("z2")]))
    positive = ((u[:n] * u[n:]).sum(1) * scale).expand(2, n)
    stacked = p.ranks.with_counts([2 * count for count in p.ranks.counts])
    columns = Columns(stacked, p.ranks, 2, p.half)
    return u, scale, positive, self_log_sum_exp(u, anchor_scale, columns).view(2, n)


def _nt_xent(p: Problem) -> Result:
    weight, smooth, tau_plus = p.tensors["sample_weight"], *p.numbers.values()
    check_weight(p, weight)
    u, scale, positive, negatives = _negatives(p)
    n = p.ranks.n
    if tau_plus:
        negatives = debiased(negatives, positive, scale, 2 * n - 2, tau_plus)
    rows = one_positive_rows(negatives, positive)
    if smooth:
        of_all = sum_to_rows(u.sum(0), p.ranks)
        total = ((u * of_all).sum(1) - u.square().sum(1)).view(2, -1) * scale
        rows = rows + smoothing(positive, total, 2 * n - 1, smooth)
    return result(p, reduce_rows(p, rows, weight), positive, weight)


NT_XENT = Form(
    "nt_xent",
    {"z1": ROWS, "z2": ROWS, "temperature": SCALE, "sample_weight": ROWS},
    ("label_smoothing", "tau_plus"),
    _check_nt_xent,
    _nt_xent,
    terms=("alignment", "uniformity"),
    views=2,
)


def _check_dcl(
    z1: Tensor,
    z2: Tensor,
    temperature: float | Tensor,
    weight_fn: Callable[..., Tensor] | None,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "dcl"
    tensors = _check_two_views(op, z1, z2, temperature, sample_weight)
    tensors["weight_fn"] = None
    if weight_fn is not None and not callable(weight_fn):
        raise TypeError(f"{op}: weight_fn must be callable, got {type(weight_fn).__name__}")
    return Given(tensors, {}, weight_fn)


def _weighted(given: Given, name: str) -> Given:
    """weight_fn may look at the whole batch, as a softmax over it does: it gets the rows of all
    ranks on every rank, and the weights of this rank are kept.
    """
    op, weight_fn, z1, z2 = "dcl", given.to_prepare, *list(given.tensors.values())[:2]
    if weight_fn is None:
        return given
    assert z1 is not None
    assert z2 is not None
    if torch.compiler.is_compiling():
        raise NotImplementedError(f"{op}: weight_fn with a group is not traced by torch.compile")
    group = by_name(name)
    facts = {
        "weight_fn": "a tensor",
        "the number of features": z1.shape[1],
        "dtype": z1.dtype,
        "requires_grad of z1": wanted(z1),
        "requires_grad of z2": wanted(z2),
    }
    ranks, _ = agree(op, group, facts, z1.shape[0])
    kind = computed_dtype(z1)
    u1, u2, _ = paired_rows(z1.to(kind), z2.to(kind))
    all1, all2 = gather_rows(torch.stack([u1, u2], 1), ranks).unbind(1)
    with told_to_all(op, group):
        weights = [weight_fn(all1, all2), weight_fn(all2, all1)]
        for w in weights:
            if w.shape != (ranks.n,):
                raise ValueError(
                    f"{op}: weight_fn must return one weight per pair ({ranks.n},), "
                    f"got {tuple(w.shape)}"
                )
    own = torch.stack([w[ranks.here] for w in weights], 1).to(kind)
    return given._replace(tensors={**given.tensors, "weight_fn": own})


def _dcl(p: Problem) -> Result:
    weight, weights = p.tensors["sample_weight"], p.tensors["weight_fn"]
    check_weight(p, weight)
    _, _, positive, negatives = _negatives(p)
    if weights is not None:
        positive = positive * weights.T
    return result(p, reduce_rows(p, negatives - positive, weight), positive, weight)


def _weight_fn_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """weight_fn is called once per direction, and again by the reference."""
    weights = arguments.pop("weight_fn")
    if weights is not None:
        directions = itertools.cycle(weights.unbind(1))
        arguments["weight_fn"] = lambda u1, u2: next(directions)
    return arguments


DCL = Form(
    "dcl",
    {"z1": ROWS, "z2": ROWS, "temperature": SCALE, "sample_weight": ROWS, "weight_fn": ROWS},
    (),
    _check_dcl,
    _dcl,
    terms=("alignment", "uniformity"),
    min_rows=2,
    views=2,
    restore=_weight_fn_of,
    prepare=_weighted,
)


# ---- paired rows: CLIP ----


def _check_clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor | None,
    reduction: str,
    sample_weight: Tensor | None,
    label_smoothing: float,
    tau_plus: float,
) -> Given:
    op = "clip"
    check.pair(op, ("image", "text"), image, text, min_rows=0)
    smooth, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    n = image.shape[0]
    tensors = {
        "image": image,
        "text": text,
        "logit_scale": scale_given(op, "logit_scale", logit_scale, image),
        "logit_bias": None
        if logit_bias is None
        else check.real(op, "logit_bias", logit_bias, image),
        "sample_weight": check.sample_weight(op, sample_weight, image, n, "sum"),
    }
    return Given(tensors, {"label_smoothing": smooth, "tau_plus": tau_plus})


def _clip(p: Problem) -> Result:
    weight, smooth, tau_plus = p.tensors["sample_weight"], *p.numbers.values()
    check_weight(p, weight)
    x, y, scale = p.rows("image"), p.rows("text"), scale_of(p, "logit_scale")
    bias = p.tensors["logit_bias"]
    positive = (x * y).sum(1) * scale
    columns = Columns(p.ranks, p.ranks, 1, p.half, as_given=True)
    if scale.dim() == 0:
        by_row, by_col = log_sum_exp(x, y, scale, columns, cols=True)
    else:  # a scale per pair: the two directions have different logits
        by_row, _ = log_sum_exp(x, y, scale, columns)
        by_col, _ = log_sum_exp(y, x, scale, columns)
    n = p.ranks.n
    if tau_plus:
        by_row = debiased(by_row, positive, scale, n - 1, tau_plus)
        by_col = debiased(by_col, positive, scale, n - 1, tau_plus)
    rows = 0.5 * (one_positive_rows(by_row, positive) + one_positive_rows(by_col, positive))
    if smooth:
        of_x, of_y = sum_to_rows(torch.stack([x.sum(0), y.sum(0)]), p.ranks)
        total = 0.5 * scale * ((x * of_y).sum(1) + (y * of_x).sum(1))
        rows = rows + smoothing(positive, total, n, smooth)
    if bias is not None:
        rows = rows + 0.0 * bias
    return result(p, reduce_rows(p, rows, weight), positive, weight)


CLIP = Form(
    "clip",
    {
        "image": ROWS,
        "text": ROWS,
        "logit_scale": SCALE,
        "logit_bias": SCALE,
        "sample_weight": ROWS,
    },
    ("label_smoothing", "tau_plus"),
    _check_clip,
    _clip,
    terms=("alignment", "uniformity"),
)


# ---- labels: SupCon ----


def _check_sup_con(
    z: Tensor,
    labels: Tensor,
    temperature: float | Tensor,
    base_temperature: float | None,
    reduction: str,
    sample_weight: Tensor | None,
    label_smoothing: float,
) -> Given:
    op = "sup_con"
    check.matrix(op, "z", z, min_rows=0)
    smooth = check.fraction(op, "label_smoothing", label_smoothing)
    n, base = z.shape[0], 0.0
    if base_temperature is not None:
        base = check.number(op, "base_temperature", base_temperature, low=0.0, strict=True)
    tensors = {
        "z": z,
        "labels": check.integers(op, "labels", labels, z, n),
        "temperature": scale_given(op, "temperature", temperature, z),
        "sample_weight": check.sample_weight(op, sample_weight, z, n, "sum"),
    }
    return Given(tensors, {"label_smoothing": smooth, "base_temperature": base})


def _sup_con(p: Problem) -> Result:
    weight, smooth, base = p.tensors["sample_weight"], *p.numbers.values()
    check_weight(p, weight)
    x, labels, t = p.rows("z"), p.rows("labels"), scale_of(p, "temperature")
    scale = t.reciprocal()
    sums, count = _positive_sums(p, x, labels)
    anchor = count > 0
    positive = torch.where(anchor, scale * sums / count.clamp(min=1), 0.0)
    columns = Columns(p.ranks, p.ranks, 1, p.half)
    rows = self_log_sum_exp(x, scale, columns) - positive
    if smooth:
        total = scale * ((x * sum_to_rows(x.sum(0), p.ranks)).sum(1) - x.square().sum(1))
        rows = rows + smoothing(positive, total, p.ranks.n - 1, smooth)
    factor = t / base if base else torch.ones_like(t)
    rows = torch.where(anchor, rows * factor, 0.0)
    return result(p, reduce_rows(p, rows, weight), positive * factor, weight)


def _positive_sums(p: Problem, x: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(n_r,) sums of x_i . x_j over the other rows of all ranks with the label of i, and their
    number. Rows of a class are added up over ranks: (classes, d) numbers travel.
    """
    classes, number = gather_rows(labels, p.ranks).unique(return_inverse=True)
    return positive_sums(
        x,
        labels,
        number[p.ranks.here],
        len(classes),
        lambda sums: sum_to_rows(sums, p.ranks),
        lambda counts: sum_over_ranks(counts, p.ranks),
    )


def _base_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {**arguments, "base_temperature": arguments["base_temperature"] or None}


SUP_CON = Form(
    "sup_con",
    {"z": ROWS, "labels": ROWS, "temperature": SCALE, "sample_weight": ROWS},
    ("label_smoothing", "base_temperature"),
    _check_sup_con,
    _sup_con,
    terms=("alignment", "uniformity"),
    min_rows=2,
    restore=_base_of,
)
