"""The checked arguments of the losses over prototypes, in one process and of a rank.

min_rows: 1, or 0 for the rows of a rank, which may be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ._column_bias import center_bias
from ._heads import Heads, prepare
from ._prototypes import Targets, check_heads, from_pattern
from ._queue import unit_queue
from ._views import Views, like_first, pairs_of_views, view_list

# ---- DINO and iBOT ----


def _bias(
    op: str, center: Tensor | None, bias: Tensor | None, temperature: float, k: int
) -> Tensor | None:
    """(k,) what a center or a bias adds to the teacher's logits."""
    if center is not None and bias is not None:
        raise ValueError(f"{op}: bias must be None with a center, got both")
    name, given = ("bias", bias) if center is None else ("center", center)
    if given is None:
        return None
    check.dense(op, name, given)
    if given.shape != (k,):
        raise ValueError(
            f"{op}: {name} must be ({k},), a number for each prototype, got {tuple(given.shape)}"
        )
    return bias if center is None else center_bias(center, temperature)


def dino_heads(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    center: Tensor | None,
    bias: Tensor | None,
    normalize: bool,
    min_rows: int = 1,
) -> tuple[Heads, int]:
    """The heads of stacked views, and the number of samples."""
    op = "dino"
    students = view_list(op, "student_views", student_views, min_rows)
    teachers = view_list(op, "teacher_views", teacher_views, min_rows)
    like_first(op, "student_views", students, students[0], "student_views")
    like_first(op, "teacher_views", teachers, teachers[0], "teacher_views")
    n, m = students[0].shape[0], teachers[0].shape[0]
    if n != m:
        raise ValueError(f"{op}: teacher_views must have the {n} rows of student_views, got {m}")
    if len(students) == len(teachers) == 1:
        raise ValueError(f"{op}: student_views must be at least 2 for 1 view of the teacher, got 1")
    teacher_temperature = check.number(
        op, "teacher_temperature", teacher_temperature, low=0.0, strict=True
    )
    names = ("student_views", "teacher_views")
    k = check_heads(op, students[0], teachers[0], prototypes, teacher_prototypes, names, min_rows)
    heads = prepare(
        op,
        (torch.cat(students), prototypes, student_temperature),
        (torch.cat(teachers), teacher_prototypes, teacher_temperature),
        pairs=pairs_of_views(students[0], n, len(students), len(teachers)),
        bias=_bias(op, center, bias, teacher_temperature, k),
        normalize=normalize,
        names=names,
        min_rows=min_rows,
    )
    return heads, n


def ibot_heads(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    student_temperature: float | Tensor,
    teacher_temperature: float,
    center: Tensor | None,
    bias: Tensor | None,
    visible_weight: float | None,
    normalize: bool,
    min_rows: int = 1,
) -> tuple[Heads, Tensor, float | None]:
    """The heads, the mask (images, tokens) and the weight of visible tokens."""
    op = "ibot"
    masked = _masked(op, mask, student, min_rows)
    teacher_temperature = check.number(
        op, "teacher_temperature", teacher_temperature, low=0.0, strict=True
    )
    k = check_heads(op, student, teacher, prototypes, teacher_prototypes, min_rows=min_rows)
    heads = prepare(
        op,
        (student, prototypes, student_temperature),
        (teacher, teacher_prototypes, teacher_temperature),
        bias=_bias(op, center, bias, teacher_temperature, k),
        normalize=normalize,
        min_rows=min_rows,
    )
    if visible_weight is not None:
        visible_weight = check.number(op, "visible_weight", visible_weight, low=0.0)
    _check_tokens(op, masked, visible_weight, student)
    return heads, masked, visible_weight


def _masked(op: str, mask: Tensor, rows: Tensor, min_images: int) -> Tensor:
    """(b, tokens)"""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"{op}: mask must be a bool tensor, got {got}")
    if mask.dim() not in (2, 3) or 0 in mask.shape[1:] or mask.shape[0] < min_images:
        raise ValueError(
            f"{op}: mask must be (images, tokens) or (images, height, width), "
            f"got {tuple(mask.shape)}"
        )
    if isinstance(rows, Tensor) and mask.device != rows.device:
        raise ValueError(
            f"{op}: mask must be on the device of student, {rows.device}, got {mask.device}"
        )
    return mask.flatten(1)


def _check_tokens(op: str, mask: Tensor, visible: float | None, rows: Tensor) -> None:
    """There is a row for each masked token, or for each token with a weight of visible ones."""
    n = rows.shape[0]
    if visible is not None and n != mask.numel():
        raise ValueError(
            f"{op}: student must have a row for each of the {mask.numel()} tokens of mask with "
            f"visible_weight, got {tuple(rows.shape)}"
        )
    if visible is None and check.readable(mask) and int(mask.sum()) != n:
        raise ValueError(
            f"{op}: student must have a row for each of the {int(mask.sum())} masked tokens, "
            f"got {tuple(rows.shape)}"
        )


def token_weights(mask: Tensor, visible: float | None, rows: Tensor, images: int) -> Tensor:
    """(m,) the weights of the tokens in the mean over so many images of the means of their tokens.

    mask: (b, tokens), of all or some of the images; rows: (m, d).
    """
    kind, n = computed_dtype(rows), rows.shape[0]
    counts = mask.sum(1)
    each = 1 / (counts.clamp(min=1).to(kind) * images)
    if visible is None:
        # by a search in place of the indices of the mask, whose number depends on its data
        index = torch.arange(n, device=mask.device)
        image = torch.searchsorted(counts.cumsum(0), index, right=True)
        return each[image.clamp(max=mask.shape[0] - 1)]
    others = visible / ((~mask).sum(1).clamp(min=1).to(kind) * images)
    return torch.where(mask, each[:, None], others[:, None]).flatten()


# ---- SwAV ----


class Crops(NamedTuple):
    """Checked arguments of `swav`; queue: earlier rows for each large crop."""

    heads: Heads
    high: list[Tensor]
    low: list[Tensor]
    queue: Sequence[Tensor | None]
    sinkhorn_temperature: float
    iterations: int


def swav_crops(
    high_views: Views,
    low_views: Views | None,
    prototypes: Tensor | None,
    queue: Views | None,
    temperature: float | Tensor,
    sinkhorn_temperature: float,
    iterations: int,
    normalize: bool,
    min_rows: int = 1,
) -> Crops:
    op = "swav"
    high = view_list(op, "high_views", high_views, min_rows)
    low = [] if low_views is None else view_list(op, "low_views", low_views, min_rows)
    like_first(op, "high_views", high, high[0], "high_views")
    like_first(op, "low_views", low, high[0], "high_views")
    if len(high) + len(low) < 2:
        raise ValueError(f"{op}: high_views and low_views must be at least 2 in all, got 1")
    names = ("high_views", "high_views")
    check_heads(op, high[0], high[0], prototypes, None, names, min_rows)
    sinkhorn_temperature = check.number(
        op, "sinkhorn_temperature", sinkhorn_temperature, low=0.0, strict=True
    )
    iterations = check.count(op, "iterations", iterations, 0)
    earlier = _earlier(op, queue, high, min_rows)
    heads = prepare(
        op,
        (torch.cat([*high, *low]), prototypes, temperature),
        (torch.cat(high), None, sinkhorn_temperature),
        pairs=pairs_of_views(high[0], high[0].shape[0], len(high) + len(low), len(high)),
        normalize=normalize,
        names=names,
        temperatures=("temperature", "sinkhorn_temperature"),
        min_rows=min_rows,
    )
    return Crops(heads, high, low, earlier, sinkhorn_temperature, iterations)


def _earlier(
    op: str, queue: Views | None, high: Sequence[Tensor], min_rows: int
) -> Sequence[Tensor | None]:
    """Earlier rows for each large crop."""
    if queue is None:
        return [None] * len(high)
    earlier = view_list(op, "queue", queue, min_rows)
    if len(earlier) != len(high):
        raise ValueError(
            f"{op}: queue must have rows for each of the {len(high)} high_views, got {len(earlier)}"
        )
    for rows in earlier:
        if rows.shape[1] != high[0].shape[1]:
            raise ValueError(
                f"{op}: queue must have the {high[0].shape[1]} features of high_views, "
                f"got {tuple(rows.shape)}"
            )
        check.same_kind(op, "queue", rows, "high_views", high[0])
    like_first(op, "queue", earlier, earlier[0], "queue")
    return [rows.detach() for rows in earlier]


# ---- MSN ----


class Anchors(NamedTuple):
    """Checked arguments of `msn`; law: (k,) of the sum 1, or None for equal numbers."""

    heads: Heads
    temperature: float
    sharpening: float
    iterations: int
    regularization: float
    law: Tensor | None


def msn_anchors(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    temperature: float,
    sharpening: float,
    iterations: int,
    regularization: float,
    prior: float | Tensor | None,
    normalize: bool,
    min_rows: int = 1,
) -> Anchors:
    op = "msn"
    names = ("anchors", "targets")
    check.dense(op, "prototypes", prototypes)
    k = check_heads(op, anchors, targets, prototypes, None, names, min_rows)
    temperature = check.number(op, "temperature", temperature, low=0.0, strict=True)
    sharpening = check.number(op, "sharpening", sharpening, low=0.0, strict=True)
    if sharpening > 1:
        raise ValueError(f"{op}: sharpening must be in (0, 1], got {sharpening}")
    iterations = check.count(op, "iterations", iterations, 0)
    regularization = check.number(op, "regularization", regularization, low=0.0)
    law = None if prior is None else _law(op, prior, k, anchors)
    heads = prepare(
        op,
        (anchors, prototypes, temperature),
        (targets, None, temperature * sharpening),
        pairs=_pairs_of_anchors(op, anchors, targets),
        normalize=normalize,
        names=names,
        temperatures=("temperature", "temperature"),
        min_rows=min_rows,
    )
    return Anchors(heads, temperature, sharpening, iterations, regularization, law)


def _pairs_of_anchors(op: str, anchors: Tensor, targets: Tensor) -> Targets:
    rows, n = anchors.shape[0], targets.shape[0]
    if rows % max(n, 1) or (rows and not n):
        raise ValueError(
            f"{op}: anchors must be a multiple of the {n} rows of targets, "
            f"got {tuple(anchors.shape)}"
        )
    index = torch.arange(rows, device=anchors.device)
    weight = torch.ones(rows, dtype=computed_dtype(anchors), device=anchors.device)
    return Targets(None, weight) if rows == n else from_pattern(index, index % n, weight, rows, n)


def _law(op: str, prior: float | Tensor, k: int, like: Tensor) -> Tensor:
    """(k,) with the sum 1."""
    kind = computed_dtype(like)
    if not isinstance(prior, Tensor):
        exponent = check.number(op, "prior", prior, low=0.0)
        law = torch.arange(1, k + 1, device=like.device).to(kind) ** -exponent
    else:
        check.dense(op, "prior", prior)
        check.refuse_grad(op, "prior", prior.requires_grad, "detach it")
        if prior.shape != (k,):
            raise ValueError(
                f"{op}: prior must have a number for each of the {k} prototypes ({k},), "
                f"got {tuple(prior.shape)}"
            )
        if prior.device != like.device:
            raise ValueError(
                f"{op}: prior must be on the device of anchors, {like.device}, got {prior.device}"
            )
        if check.readable(prior):
            bad = prior[~((prior > 0) & prior.isfinite())]
            if bad.numel():
                raise ValueError(f"{op}: prior must be finite and > 0, got {bad[0].item()}")
        law = prior.detach().to(kind)
    return law / law.sum()


# ---- ReSSL and X-CLR ----


def ressl_heads(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    key_temperature: float | Tensor,
    min_rows: int = 1,
) -> Heads:
    """Those of the rows of a queue as prototypes."""
    op = "ressl"
    check.pair(op, ("query", "key"), query, key, min_rows=min_rows)
    return prepare(
        op,
        (query, unit_queue(op, queue, query).detach(), temperature),
        (key, None, key_temperature),
        scaled=False,
        names=("query", "key"),
        temperatures=("temperature", "key_temperature"),
        by_row=True,
        min_rows=min_rows,
    )


def x_clr_heads(
    z: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    target_temperature: float | Tensor,
) -> Heads:
    """Those of a batch as its own prototypes."""
    check_x_clr(z, targets, 2)
    return prepare(
        "x_clr",
        (z, z, temperature),
        (targets, targets.detach(), target_temperature),
        names=("z", "targets"),
        temperatures=("temperature", "target_temperature"),
        by_row=True,
    )


def check_x_clr(z: Tensor, targets: Tensor, min_rows: int) -> None:
    op = "x_clr"
    check.matrix(op, "z", z, min_rows=min_rows)
    check.matrix(op, "targets", targets, min_rows=min_rows)
    if targets.shape[0] != z.shape[0]:
        raise ValueError(
            f"{op}: targets must have the {z.shape[0]} rows of z, got {tuple(targets.shape)}"
        )
    if targets.device != z.device:
        raise ValueError(
            f"{op}: targets must be on the device of z, {z.device}, got {targets.device}"
        )
