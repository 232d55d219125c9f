"""SwAV and MSN of samples that are spread over ranks.

Formulas: the files of the losses. A rank holds all crops of its samples, or their anchors and
targets. Sinkhorn's iteration runs over the rows of all ranks: k numbers of each rank travel in a
round.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ....ranks import Ranks
from ..._codes import divergence, divergence_of_law
from ..._head_inputs import msn_anchors, swav_crops
from ..._heads import Heads, mean_probability
from ..._prototypes import Targets, from_pattern
from ..._sinkhorn import balance, scaled
from ..._views import Views, pairs_of_views
from .._form import COPY, MORE, ROWS, SCALE, Form, Given, Problem, Result
from .._reduce import scale_of
from ._loss import (
    by_sample,
    by_view,
    copy_of,
    loss_of,
    options_of,
    over_columns,
    scalar,
    total,
    with_wanted,
)

# ---- SwAV ----


def _check_swav(
    high_views: Views,
    low_views: Views | None,
    prototypes: Tensor | None,
    queue: Views | None,
    temperature: float | Tensor,
    sinkhorn_temperature: float,
    iterations: int,
    normalize: bool,
) -> Given:
    op = "swav"
    crops = swav_crops(
        high_views,
        low_views,
        prototypes,
        queue,
        temperature,
        sinkhorn_temperature,
        iterations,
        normalize,
        min_rows=0,
    )
    tensors = {
        "high_views": by_sample(op, "high_views", high_views),
        "low_views": None if low_views is None else by_sample(op, "low_views", low_views),
        "prototypes": prototypes,
        "queue": None if queue is None else by_sample(op, "queue", queue).detach(),
        "temperature": crops.heads.student_temperature,
    }
    numbers = {
        "sinkhorn_temperature": crops.sinkhorn_temperature,
        "iterations": float(crops.iterations),
        "normalize": float(normalize),
    }
    return Given(tensors, numbers)


def _swav(p: Problem) -> Result:
    high, low = p.rows("high_views").transpose(0, 1), by_view(p.tensors["low_views"])
    crops = high if low is None else torch.cat([high, low])
    prototypes, normalize = copy_of(p, "prototypes"), bool(p.numbers["normalize"])
    heads = Heads(
        crops.flatten(0, 1),
        prototypes,
        scale_of(p, "temperature"),
        high.flatten(0, 1),
        None,
        scalar(high, p.numbers["sinkhorn_temperature"]),
        pairs_of_views(high, high.shape[1], len(crops), len(high)),
        _swav_biases(p, high.detach(), prototypes, normalize),
        normalize,
        half=p.half,
    )
    return with_wanted(p, *loss_of(p, heads.sides(), heads.graph))


@torch.no_grad()
def _swav_biases(p: Problem, high: Tensor, prototypes: Tensor | None, normalize: bool) -> Tensor:
    """(large crops, k)"""
    queue = by_view(p.tensors["queue"])
    balanced = high if queue is None else torch.cat([high, queue], 1)
    temperature, iterations = p.numbers["sinkhorn_temperature"], int(p.numbers["iterations"])
    each = [
        balance(
            *scaled(rows, prototypes, normalize),
            temperature,
            iterations,
            "zero",
            over_columns=over_columns(p.ranks),
        )
        for rows in balanced
    ]
    return torch.stack(each)


def _swav_of(arguments: dict[str, Any]) -> dict[str, Any]:
    views = {k: by_view(arguments[k]) for k in ("high_views", "low_views", "queue")}
    return {**options_of(arguments), **views}


SWAV = Form(
    "swav",
    {
        "high_views": ROWS,
        "low_views": ROWS,
        "prototypes": COPY,
        "queue": MORE,
        "temperature": SCALE,
    },
    ("sinkhorn_temperature", "iterations", "normalize"),
    _check_swav,
    _swav,
    terms=("entropy", "divergence"),
    reduces=False,
    restore=_swav_of,
)

# ---- MSN ----


def _check_msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    sharpening: float,
    iterations: int,
    regularization: float,
    prior: float | Tensor | None,
    normalize: bool,
) -> Given:
    given = msn_anchors(
        anchors,
        targets,
        prototypes,
        temperature,
        sharpening,
        iterations,
        regularization,
        prior,
        normalize,
        min_rows=0,
    )
    n = targets.shape[0]
    by_target = anchors.view(-1, n, anchors.shape[1]).transpose(0, 1) if n else anchors
    tensors = {
        "anchors": by_target.reshape(anchors.shape),
        "targets": targets.detach(),
        "prototypes": prototypes,
        "prior": given.law,
    }
    numbers = {
        "temperature": given.temperature,
        "sharpening": given.sharpening,
        "iterations": float(given.iterations),
        "regularization": given.regularization,
        "normalize": float(normalize),
    }
    return Given(tensors, numbers)


def _equal_views(anchors: Ranks, targets: Ranks) -> None:
    """All ranks have as many anchors for each target."""
    for rank, (rows, samples) in enumerate(zip(anchors.counts, targets.counts, strict=True)):
        if rows * targets.n != anchors.n * samples:
            raise ValueError(
                f"msn: anchors must be as many for each target on all ranks, {anchors.n} for "
                f"{targets.n} targets in all, rank {rank} has {rows} for {samples}"
            )


def _msn(p: Problem) -> Result:
    anchors, targets, law = p.rows("anchors"), p.rows("targets"), p.tensors["prior"]
    temperature, sharpening, iterations, regularization, normalize = p.numbers.values()
    prototypes, own = copy_of(p, "prototypes"), temperature * sharpening
    with torch.no_grad():
        rows = scaled(targets, prototypes, bool(normalize))
        merge = over_columns(p.ranks)
        bias = balance(*rows, own, int(iterations), "rows", None, merge)
    heads = Heads(
        anchors,
        prototypes,
        scalar(anchors, temperature),
        targets,
        None,
        scalar(anchors, own),
        _anchors_of(p, anchors, targets),
        bias,
        bool(normalize),
        half=p.half,
    )
    sides = heads.sides()
    loss, terms = loss_of(p, sides, heads.graph)
    if regularization or p.wants_terms:
        mean = mean_probability(sides, p.ranks.n, total(p.ranks))
        surplus = divergence(mean) if law is None else divergence_of_law(law, mean)
        loss, terms["regularization"] = loss + regularization * surplus, surplus
    return with_wanted(p, loss, terms)


def _anchors_of(p: Problem, anchors: Tensor, targets: Tensor) -> Targets:
    weight, views = anchors.new_ones(len(anchors)), p.ranks.n // p.more.n
    if views == 1:
        return Targets(None, weight)
    index = torch.arange(len(anchors), device=anchors.device)
    return from_pattern(index, index // views, weight, len(anchors), len(targets))


def _msn_of(arguments: dict[str, Any]) -> dict[str, Any]:
    anchors, n = arguments["anchors"], len(arguments["targets"])
    views = anchors.view(n, -1, anchors.shape[1]).transpose(0, 1).reshape(anchors.shape)
    return {**options_of(arguments), "anchors": views}


MSN = Form(
    "msn",
    {"anchors": ROWS, "targets": MORE, "prototypes": COPY, "prior": COPY},
    ("temperature", "sharpening", "iterations", "regularization", "normalize"),
    _check_msn,
    _msn,
    terms=("entropy", "divergence", "regularization"),
    fits=_equal_views,
    reduces=False,
    restore=_msn_of,
)
