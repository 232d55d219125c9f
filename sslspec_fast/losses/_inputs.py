"""What a loss is given, checked: two views of the same samples, rows and a graph, or patches."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype, widen
from ..graph._checks import check_graph
from ..graph.pair_graph import PairGraph


class Pair(NamedTuple):
    """Two views of n samples, with the weights of the samples and the scale of the products.

    x, y: (n, d) as they were given: a fused operator widens half precision itself.
    weight: (n,) in the dtype of the loss, or None. scale: a number, or a tensor in that dtype.
    """

    x: Tensor
    y: Tensor
    weight: Tensor | None
    scale: float | Tensor = 1.0

    def rows(self) -> tuple[Tensor, Tensor]:
        """Both views in the dtype that the loss is computed in."""
        return widen(self.x), widen(self.y)

    def inverse_scale(self) -> float | Tensor:
        """1 / scale, a number where the scale is one."""
        return self.scale.reciprocal() if isinstance(self.scale, Tensor) else 1 / self.scale

    def scale_tensor(self) -> Tensor:
        """The scale as a tensor, () or one value per anchor."""
        if isinstance(self.scale, Tensor):
            return self.scale
        kind = computed_dtype(self.x)
        return torch.full((), float(self.scale), dtype=kind, device=self.x.device)


def prepare_pair(
    op: str,
    names: tuple[str, str],
    x: Tensor,
    y: Tensor,
    *,
    impl: str,
    group: Any,
    reduction: str = "mean",
    weight: Tensor | None = None,
    scale: tuple[str, float | Tensor] | None = None,
    views: int = 1,
    min_rows: int = 1,
    paired: bool = True,
) -> Pair:
    """The checks that every loss of two views makes.

    paired: row i of y belongs to row i of x; otherwise y has rows in another number.
    scale: the keyword of the temperature or scale, and what it was given; > 0, a number or a
    tensor, 0-dim or one value per anchor: (n,), or (2n,) too where `views` is 2.
    """
    check.common(op, impl, group, reduction)
    if paired:
        check.pair(op, names, x, y, min_rows=min_rows)
    else:
        check.matrix(op, names[0], x, min_rows=min_rows)
        check.columns(op, names[1], y, names[0], x, min_rows=min_rows)
    n = x.shape[0]
    if weight is not None:
        weight = check.sample_weight(op, weight, x, n, reduction)
    if scale is None:
        return Pair(x, y, weight)
    name, value = scale
    if isinstance(value, Tensor):
        value = check.positive(op, name, value, x, rows=(n,) if views == 1 else (n, 2 * n))
    else:  # a number stays one, for which nothing is launched on a GPU
        value = check.number(op, name, value, low=0.0, strict=True)
    return Pair(x, y, weight, value)


def prepare_graph(
    op: str,
    z: Tensor,
    graph: PairGraph,
    impl: str,
    group: Any,
    *,
    symmetric: bool = True,
    nonnegative: bool = False,
    min_rows: int = 1,
) -> Tensor:
    """The checks that every graph loss makes; returns the rows to compute with."""
    check.common(op, impl, group)
    check_rows_of_graph(
        op, z, graph, symmetric=symmetric, nonnegative=nonnegative, min_rows=min_rows
    )
    return widen(z)


def check_rows_of_graph(
    op: str,
    z: Tensor,
    graph: PairGraph,
    *,
    symmetric: bool = True,
    nonnegative: bool = False,
    min_rows: int = 1,
) -> None:
    """The checks of rows and their graph; over ranks, of the rows of a rank."""
    check.matrix(op, "z", z, min_rows=min_rows)
    check_graph(op, graph, z, symmetric=symmetric)
    if nonnegative and graph.has_negative_weights:
        raise ValueError(f"{op}: graph must have weights >= 0, got a negative one")


def prepare_patches(
    op: str, student: Tensor, teacher: Tensor, min_images: int = 1
) -> tuple[Tensor, Tensor]:
    """(images, patches, d) and (images, patches, e) of a student and a teacher, checked; of one
    image the first axis may be missing.
    """
    check.views(op, "student", student, min_views=min_images)
    check.views(op, "teacher", teacher, min_views=min_images)
    if teacher.shape[:-1] != student.shape[:-1]:
        raise ValueError(
            f"{op}: teacher must have the {tuple(student.shape[:-1])} rows of student, "
            f"got {tuple(teacher.shape[:-1])}"
        )
    check.same_kind(op, "teacher", teacher, "student", student)
    one = student.dim() == 2
    return (student[None], teacher.detach()[None]) if one else (student, teacher.detach())


def dense(graph: PairGraph, like: Tensor) -> Tensor:
    """G as a dense matrix, for the references."""
    indptr, indices, values = graph.csr()
    rows = torch.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
    weights = like.new_ones(indices.shape) if values is None else values.to(like.dtype)
    return like.new_zeros(graph.n, graph.n).index_put((rows, indices.long()), weights)
