"""The checks of SIGReg and LeJEPA: which distance from N(0, I) is taken, and of which views."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from ._views import Views, like_first, view_list

Kernel = tuple[str, float]
KERNELS = ("gaussian", "imq")


def check_options(
    op: str,
    z: Tensor,
    slices: int | None,
    directions: Tensor | None,
    knots: int,
    t_max: float,
    seed: int | None,
    kernel: Kernel | None,
) -> dict[str, Any]:
    """The checks of everything that says which distance is taken; returns knots, t_max, kernel."""
    if slices is not None:
        check.count(op, "slices", slices, 1)
    if seed is not None:
        check.count(op, "seed", seed)
    knots = check.count(op, "knots", knots, 2)
    t_max = float(check.number(op, "t_max", t_max, low=0.0, strict=True))
    if kernel is not None:
        if not isinstance(kernel, tuple) or len(kernel) != 2:
            raise TypeError(
                f'{op}: kernel must be None or a pair such as ("gaussian", 1.0), got {kernel!r}'
            )
        check.choice(op, "kernel[0]", kernel[0], KERNELS)
        width = check.number(op, "kernel[1]", kernel[1], low=0.0, strict=True)
        kernel = kernel[0], float(width)
    for name, value in (("kernel", kernel), ("directions", directions), ("seed", seed)):
        if value is not None and (slices is None) != (name == "kernel"):
            rule = "goes with slices=None" if name == "kernel" else "needs slices"
            raise ValueError(f"{op}: {name} {rule}, got slices={slices}")
    if directions is not None:
        if seed is not None:
            raise ValueError(f"{op}: seed must be None with directions, got {seed}")
        _check_directions(op, directions, z)
    return {"knots": knots, "t_max": t_max, "kernel": kernel}


def _check_directions(op: str, directions: Tensor, z: Tensor) -> None:
    check.matrix(op, "directions", directions)
    if directions.shape[0] != z.shape[-1]:
        raise ValueError(
            f"{op}: directions must have one row for each of the {z.shape[-1]} features of z, "
            f"got {tuple(directions.shape)}"
        )
    if directions.device != z.device:
        raise ValueError(
            f"{op}: directions must be on the device of z, {z.device}, got {directions.device}"
        )
    check.refuse_grad(op, "directions", directions.requires_grad, "detach them")
    if check.readable(directions):
        length = torch.linalg.vector_norm(directions.detach().to(check.computed_dtype(z)), dim=0)
        wrong = length[~((length - 1).abs() <= 0.01)]
        if wrong.numel():
            raise ValueError(f"{op}: directions must have unit columns, got length {wrong[0]:g}")


def given_views(
    op: str, global_views: Views, local_views: Views | None, weight: float, min_rows: int = 1
) -> tuple[list[Tensor], list[Tensor], float]:
    """Global and further views of one shape, and lambda in [0, 1]."""
    first = view_list(op, "global_views", global_views, min_rows)
    further = []
    if local_views is not None:
        further = view_list(op, "local_views", local_views, min_rows)
    like_first(op, "global_views", first, first[0], "global_views")
    like_first(op, "local_views", further, first[0], "global_views")
    weight = check.number(op, "weight", weight, low=0.0)
    if weight > 1:
        raise ValueError(f"{op}: weight must be in [0, 1], got {weight}")
    return first, further, weight
