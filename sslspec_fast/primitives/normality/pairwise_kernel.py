r"""Primitive ``pairwise_kernel``: the distance of the rows from N(0, I) by a radial kernel.

For each view of n rows, a kernel k of squared distances and its means mu and c under N(0, I)
(`radial`), n times the squared maximum mean discrepancy:

.. math::
    \ell = \frac1n \sum_{ij} k(\|z_i - z_j\|^2) - 2 \sum_i \mu(\|z_i\|^2) + n c, \qquad
    \bar z_i = \frac4n \sum_j k'_{ij} (z_i - z_j) - 4 \mu'_i z_i .

One visit of every pair gives value and gradient, 3 n^2 d flops; no statistics come first and no
(n, n) matrix is stored. The value is a small difference of large sums: the means are subtracted
pair by pair, and blocks of pairs are added up in float64. On a GPU the two products are a
library's, in the precision of float32 that torch is set to, in blocks of 2^24 distances; the host
waits for one number, the length of the longest row, so that the operator cannot be captured.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, CODE, stream, threads, unit_stride, view, workspace
from .. import _value_and_grad
from .plain import kernel_mean, kernel_rows
from .radial import KINDS, Radial, longest_row, radial
from .sliced_ecf import check_views

__all__ = ["kernel_of_rows", "pairwise_kernel"]

_BUDGET = 1 << 24  # distances at once on a GPU


def _shapes(
    z: Tensor, kernel: str, parameter: float, knots: int, t_max: float, grad_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(()), *_value_and_grad.outputs(z, grad_z, None, False)


def _radial_of(
    z: Tensor, largest: float, kernel: str, parameter: float, knots: int, t_max: float
) -> Radial:
    """The tables for rows of squared length up to `largest`."""
    # squared distances stay in the range of the dtype
    limit = min(longest_row(kernel, t_max), 1e150 if z.dtype == torch.float64 else 1e18)
    if largest > limit**2:
        rule = f"{limit:g} (1024 / t_max)" if kernel == "slices" else f"{limit:g} with {kernel!r}"
        raise ValueError(
            f"sigreg: slices=None takes rows no longer than {rule}, "
            f"got a row of length {math.sqrt(largest):g}"
        )
    octave = max(-40, math.ceil(2 * math.log2(max(largest, 1e-30) * (1 + 1e-6))))
    return radial(kernel, parameter, knots, t_max, z.shape[2], octave, z.dtype == torch.float64)


def _row_means(lengths: Tensor, r: Radial) -> Tensor:
    """(2, views, n): mu and its derivative at the squared lengths of the rows."""
    if r.row_table is None:
        return torch.stack(kernel_rows(lengths, r))
    out = lengths.new_empty(2, *lengths.shape)
    _C.pairwise_kernel_series(
        view(lengths.view(-1)), view(r.row_table), r.row_top, view(out.view(2, -1))
    )
    return out


def kernel_of_rows(
    z: Tensor,
    rows: slice,
    kernel: str,
    parameter: float,
    knots: int,
    t_max: float,
    *,
    wants_grad: bool,
    factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """(views,) float64: the part of the rows of a slice, not empty, in the statistic of each view
    of all rows z, and factor times the gradient of the whole for these rows, or an empty tensor.
    """
    step = _on_gpu if z.is_cuda else _on_cpu
    return step(z, rows, kernel, parameter, knots, t_max, wants_grad, factor)


def _on_cpu(
    z: Tensor,
    rows: slice,
    kernel: str,
    parameter: float,
    knots: int,
    t_max: float,
    wants_grad: bool,
    factor: float,
) -> tuple[Tensor, Tensor]:
    z = unit_stride(z)
    views, n, d = z.shape
    first, count = rows.start, rows.stop - rows.start
    lengths = z.new_empty(views, n, dtype=torch.float64)
    grad = z.new_empty((views, count, d) if wants_grad else (0,))
    values = lengths.new_empty(views)
    _C.pairwise_kernel_lengths(view(z), view(lengths), threads())
    largest = float(lengths.max())
    if not math.isfinite(largest):
        return values.fill_(math.nan), grad.fill_(math.nan)
    r = _radial_of(z, largest, kernel, parameter, knots, t_max)
    means = _row_means(lengths, r)
    means[0].sub_(r.constant / 2)
    size = _C.pairwise_kernel_workspace_size(views, n, count, d, CODE[z.dtype], wants_grad)
    work = workspace(z, size)
    _C.pairwise_kernel(
        view(z),
        (view(lengths), view(means[0]), view(means[1]), first, count),
        (r.kind, r.parameter, view(r.table), r.at_zero),
        factor,
        view(values),
        view(grad) if wants_grad else None,
        (view(work), threads()),
    )
    return values, grad


def _on_gpu(
    z: Tensor,
    rows: slice,
    kernel: str,
    parameter: float,
    knots: int,
    t_max: float,
    wants_grad: bool,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Products by a library, all that is between them by a kernel; rows in blocks."""
    z = z.contiguous()
    views, n, d = z.shape
    count = rows.stop - rows.start
    grad = z.new_empty((views, count, d) if wants_grad else (0,))
    lengths = torch.linalg.vector_norm(z, dim=2, dtype=torch.float64).square_()
    largest = float(lengths.max())  # the range of the series: the one thing that is waited for
    if not math.isfinite(largest):
        return lengths.new_full((views,), math.nan), grad.fill_(math.nan)
    r = _radial_of(z, largest, kernel, parameter, knots, t_max)
    table = None if r.table is None else r.table.to(z.device)
    mean, slope = kernel_rows(lengths, r)
    offsets = mean - r.constant / 2
    value = count * r.at_zero - 2 * offsets[:, rows].sum(1)
    step = max(1, _BUDGET // (views * n))
    for first in range(rows.start, rows.stop, step):
        last = min(first + step, rows.stop)
        block = z[:, first:last]
        dots = torch.bmm(block, z.mT)
        sums = z.new_empty(views, block.shape[1])
        values = lengths.new_empty(sums.shape)
        _C.cuda_pairwise_kernel_weights(
            view(dots),
            first,
            view(lengths),
            view(offsets),
            (r.kind, r.parameter, view(table), r.at_zero),
            view(sums),
            view(values),
            stream(z),
        )
        value += values.sum(1)
        if wants_grad:
            own = sums.double() * (4 / n) - 4 * slope[:, first:last]
            part = block * own.mul_(factor).to(z.dtype)[:, :, None]
            part.baddbmm_(dots, z, alpha=-4 * factor / n)
            grad[:, first - rows.start : last - rows.start] = part
    return value / n, grad


def _body(
    z: Tensor, kernel: str, parameter: float, knots: int, t_max: float, grad_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    views, n, _ = z.shape
    options = kernel, parameter, knots, t_max
    values, grad = kernel_of_rows(z, slice(0, n), *options, wants_grad=grad_z, factor=1 / views)
    return values.mean().to(z.dtype), grad, z.new_empty(0)


def _expression(z: Tensor, *, kernel: str, parameter: float, knots: int, t_max: float) -> Tensor:
    largest = float(z.detach().double().square().sum(2).max())
    return kernel_mean(z, _radial_of(z, largest, kernel, parameter, knots, t_max))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, *options, _ = inputs
    names = ("kernel", "parameter", "knots", "t_max")
    _value_and_grad.save(ctx, (z,), output, output[1:2], **dict(zip(names, options, strict=True)))


def _backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), None, None, None, None, None


_pairwise_kernel = register_op(
    "pairwise_kernel(Tensor z, str kernel, float parameter, int knots, float t_max, bool grad_z)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def pairwise_kernel(
    z: Tensor, kernel: str, *, parameter: float = 0.0, knots: int = 17, t_max: float = 3.0
) -> Tensor:
    """The mean over views of the kernel statistic; differentiable in z.

    Args:
        z: (views, n, d) float32 or float64, any strides.
        kernel: "slices" (of `sliced_ecf`, averaged over all directions), "gaussian" or "imq".
        parameter: the width h of "gaussian", the constant b of "imq", > 0.
        knots, t_max: the quadrature of "slices"; see `sliced_ecf`.

    Returns:
        () of z's dtype. Errors: ValueError where a row is longer than 1024 / t_max with "slices",
        or than 512 with "imq".
    """
    check_views("pairwise_kernel", z)
    if kernel not in KINDS:
        raise ValueError(f"pairwise_kernel: kernel must be one of {list(KINDS)}, got {kernel!r}")
    out: Tensor = _pairwise_kernel(z, kernel, parameter, knots, t_max, _value_and_grad.wanted(z))[0]
    return out
