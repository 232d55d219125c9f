"""Views of the same samples: as a list, and as rows of one matrix with the pairs of two views."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ._prototypes import Targets, from_pattern

Views = Tensor | Sequence[Tensor]


def view_list(op: str, name: str, views: Views, min_rows: int = 1) -> list[Tensor]:
    """Views as a list of (n, d)."""
    if isinstance(views, Tensor):
        check.views(op, name, views, min_rows=min_rows)
        if views.dim() != 3:
            raise ValueError(
                f"{op}: {name} must be (views, rows, features) or a list of (rows, features), "
                f"got shape {tuple(views.shape)}"
            )
        return list(views.unbind(0))
    if not isinstance(views, (list, tuple)) or not views:
        got = "an empty one" if isinstance(views, (list, tuple)) else type(views).__name__
        raise TypeError(f"{op}: {name} must be a tensor or a list of tensors, got {got}")
    for view in views:
        check.matrix(op, name, view, min_rows=min_rows)
    return list(views)


def like_first(op: str, name: str, views: Sequence[Tensor], first: Tensor, of: str) -> None:
    """Views have the shape, dtype and device of the first one of `of`."""
    for view in views:
        if view.shape != first.shape:
            raise ValueError(
                f"{op}: {name} must match the first of {of} {tuple(first.shape)}, "
                f"got {tuple(view.shape)}"
            )
        check.same_kind(op, name, view, f"the first of {of}", first)


def pairs_of_views(like: Tensor, n: int, students: int, teachers: int) -> Targets:
    """Each view of the students with every other view of the teachers, of the same sample; sample i
    of view v is row v n + i.
    """
    sample = torch.arange(n, device=like.device)
    pairs = [(s, t) for s in range(students) for t in range(teachers) if s != t]
    rows = torch.cat([s * n + sample for s, _ in pairs])
    columns = torch.cat([t * n + sample for _, t in pairs])
    weight = torch.ones(rows.shape, dtype=computed_dtype(like), device=like.device)
    return from_pattern(rows, columns, weight, students * n, teachers * n)
