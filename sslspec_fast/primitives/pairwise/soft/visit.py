"""One visit of all rows: csrc/pairwise/soft.h, by the kernels of the device."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from ...._seam import _C, CODE, threads, unit_stride, view, workspace
from . import cuda

__all__ = ["Side", "Visit", "visit"]

Side = tuple[Tensor, Tensor, "Tensor | None"]  # rows (n, d), columns (k, d), bias (k,)


class Visit(NamedTuple):
    """What a visit of rows is asked for; see csrc/pairwise/soft.h.

    first, last: whether it is the first and the last visit that adds to `grad`.
    """

    rows: Tensor
    entropy: Tensor | None = None
    column_sum: Tensor | None = None
    sums: Tensor | None = None
    grad: Tensor | None = None
    first: bool = True
    last: bool = True


def visit(
    student: Side,
    teacher: Side | None,
    weight: Tensor,
    tilt: Tensor | None,
    product: tuple[Tensor | None, Tensor | None],
    skip_self: bool,
    out: Visit,
    unit: bool = False,
) -> None:
    """One visit of all rows: csrc/pairwise/soft.h. Sums and gradients are in the computed dtype.

    unit: columns, and the right one of the products, count as scaled to unit length; on a CPU only.
    """
    x, c, _ = student
    if x.is_cuda:
        assert not unit
        cuda.visit(student, teacher, weight, tilt, product, skip_self, out)
        return
    left, right = (None if t is None else unit_stride(t) for t in product)
    wide = [t.shape[1] for t in (out.sums, out.grad) if t is not None]
    depth = 0 if teacher is None else teacher[0].shape[1]
    sizes = (x.shape[0], c.shape[0], x.shape[1], depth, max(wide, default=0))
    work = workspace(x, _C.pairwise_soft_workspace_size(sizes, CODE[x.dtype]))
    _C.pairwise_soft(
        _described(student),
        _described(teacher),
        (view(weight), view(tilt)),
        (view(left), view(right)),
        (skip_self, unit, out.first, out.last),
        (
            view(out.rows),
            view(out.entropy),
            view(out.column_sum),
            view(out.sums),
            view(out.grad),
        ),
        (view(work), threads()),
    )


def _described(side: Side | None) -> Any:
    if side is None:
        return None, None, None
    rows, columns, bias = side
    return view(unit_stride(rows)), view(unit_stride(columns)), view(bias)
