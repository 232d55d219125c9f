r"""Primitive ``sliced_ecf``: how far projections of the rows on many directions are from N(0, 1).

For each view of n rows, S unit directions :math:`a_s`, projections :math:`p_{is} = z_i \cdot a_s`
and the points :math:`t_k = k\, t_{max} / (K - 1)` with the weights of `radial.epps_pulley`,

.. math::
    \ell = \frac nS \sum_s \sum_k w_k \Bigl|\tfrac1n \sum_i e^{i t_k p_{is}}
           - e^{-t_k^2 / 2}\Bigr|^2 .

The points are equally spaced, so one sine and one cosine of each projection serve all of them, by a
recurrence. Value and gradient in 6 n S d flops and about 200 n S further operations. Memory: the
rows once more, the directions twice, and projections of at most 2^21 numbers (more only where a
register panel of directions needs more): never (n, S, K). On a GPU 2^24 projections; its two
products are a library's, in the precision of float32 that torch is set to.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, CODE, stream, threads, unit_stride, view, workspace
from .. import _value_and_grad
from .plain import sliced_mean
from .radial import epps_pulley

__all__ = ["cosine_sums", "directions", "sliced_ecf", "sums_gradient", "unit_columns"]

_BUDGET = 1 << 24  # projections at once on a GPU


def check_views(op: str, z: Tensor) -> None:
    """(views, n, d) float32 or float64."""
    if z.ndim != 3 or 0 in z.shape:
        raise ValueError(f"{op}: z must be (views, n, d), each >= 1, got shape {tuple(z.shape)}")
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: z must be float32 or float64, got {z.dtype}")


def _shapes(
    z: Tensor, directions: Tensor, knots: int, t_max: float, grad_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    return z.new_empty(()), *_value_and_grad.outputs(z, grad_z, None, False)


def _body(
    z: Tensor, directions: Tensor, knots: int, t_max: float, grad_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _, grad, none = _shapes(z, directions, knots, t_max, grad_z)
    z, directions = unit_stride(z), unit_stride(directions)
    d, count = directions.shape
    views, n, _ = z.shape
    values = z.new_empty(views, dtype=torch.float64)
    work = workspace(z, _C.sliced_ecf_workspace_size(views, n, d, count, CODE[z.dtype]))
    _, weights, targets = epps_pulley(knots, t_max)
    _C.sliced_ecf(
        view(z),
        view(directions),
        (view(weights), view(targets), t_max / (knots - 1)),
        1 / views,
        view(values),
        view(grad) if grad_z else None,
        (view(work), threads()),
    )
    return values.mean().to(z.dtype), grad, none


def _cuda_body(
    z: Tensor, directions: Tensor, knots: int, t_max: float, grad_z: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Products by a library, all that is between them by kernels; directions in chunks."""
    _, grad, none = _shapes(z, directions, knots, t_max, grad_z)
    views, n, d = z.shape
    t, weights, targets = (x.to(z.device)[:, None] for x in epps_pulley(knots, t_max))
    factor = 2 / (views * directions.shape[1])
    value = z.new_zeros((), dtype=torch.float64)
    for part, half in _half_angles(z, directions, t_max / (knots - 1)):
        sums = z.new_empty(_C.cuda_sliced_ecf_slabs(n), views, 2 * (knots - 1), half.shape[2])
        _C.cuda_sliced_ecf_sums(view(half), view(sums), stream(z))
        c, s = sums.sum(0, dtype=torch.float64).div_(n).unflatten(1, (2, -1)).unbind(1)
        c = c - targets
        value += (weights * (c.square() + s.square())).sum()
        if not grad_z:
            continue
        slopes = factor * weights * t
        coefficients = torch.cat((slopes * s, -slopes * c), 1).to(z.dtype)
        _C.cuda_sliced_ecf_gradient(view(half), view(coefficients), stream(z))
        out, along = grad.view(views * n, d), directions[:, part].T
        torch.addmm(out, half.view(views * n, -1), along, beta=float(part.start > 0), out=out)
    return (value * (n * factor / 2)).to(z.dtype), grad, none


# ---- rows on several processes: sums, and the gradient of what is made of them ----


def cosine_sums(z: Tensor, directions: Tensor, knots: int, step: float) -> Tensor:
    """(views, 2 (knots - 1), S) float64: the sums over the rows, 0 or more, of cos(k step p) and
    then of sin(k step p), k = 1 ... knots - 1, of their projections p. Not differentiable.
    """
    views, n, d = z.shape
    count = directions.shape[1]
    sums = z.new_zeros(views, 2 * (knots - 1), count, dtype=torch.float64)
    if n == 0:
        return sums
    if not z.is_cuda:
        z, directions = unit_stride(z), unit_stride(directions)
        work = workspace(z, _C.sliced_ecf_workspace_size(views, n, d, count, CODE[z.dtype]))
        _C.sliced_ecf_sums(view(z), view(directions), step, view(sums), (view(work), threads()))
        return sums
    for part, half in _half_angles(z, directions, step):
        slabs = z.new_empty(_C.cuda_sliced_ecf_slabs(n), views, sums.shape[1], half.shape[2])
        _C.cuda_sliced_ecf_sums(view(half), view(slabs), stream(z))
        sums[:, :, part] = slabs.sum(0, dtype=torch.float64)
    return sums


def sums_gradient(
    z: Tensor, directions: Tensor, knots: int, step: float, grad_sums: Tensor
) -> Tensor:
    """The gradient of the rows for a gradient of `cosine_sums`."""
    views, n, d = z.shape
    if n == 0:
        return torch.zeros_like(z)
    t = step * torch.arange(1, knots, dtype=torch.float64, device=z.device)[:, None]
    of_cosine, of_sine = grad_sums.unflatten(1, (2, -1)).unbind(1)
    coefficients = torch.cat((t * of_sine, -t * of_cosine), 1)  # of cosines and sines
    grad = z.new_empty(z.shape)
    if not z.is_cuda:
        z, directions = unit_stride(z), unit_stride(directions)
        size = _C.sliced_ecf_workspace_size(views, n, d, directions.shape[1], CODE[z.dtype])
        work = workspace(z, size)
        _C.sliced_ecf_gradient(
            view(z),
            view(directions),
            step,
            view(coefficients),
            view(grad),
            (view(work), threads()),
        )
        return grad
    out = grad.view(views * n, d)
    for part, half in _half_angles(z, directions, step):
        some = coefficients[:, :, part].to(z.dtype).contiguous()
        _C.cuda_sliced_ecf_gradient(view(half), view(some), stream(z))
        along = directions[:, part].T
        torch.addmm(out, half.view(views * n, -1), along, beta=float(part.start > 0), out=out)
    return grad


def _half_angles(z: Tensor, directions: Tensor, step: float) -> Iterator[tuple[slice, Tensor]]:
    """step / 2 times the projections (views, n, s) on s of the directions at a time."""
    views, n, d = z.shape
    rows = z.reshape(views * n, d)
    chunk = max(1, _BUDGET // (views * n))
    for first in range(0, directions.shape[1], chunk):
        part = slice(first, first + chunk)
        yield part, (rows @ (directions[:, part] * (step / 2))).view(views, n, -1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z, directions, knots, t_max, _ = inputs
    _value_and_grad.save(ctx, (z, directions), output, output[1:], knots=knots, t_max=t_max)


def _backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    return _value_and_grad.gradient(ctx, factor, sliced_mean)[0], None, None, None, None


_sliced_ecf = register_op(
    "sliced_ecf(Tensor z, Tensor directions, int knots, float t_max, bool grad_z)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_cuda_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def sliced_ecf(z: Tensor, directions: Tensor, *, knots: int, t_max: float) -> Tensor:
    """The statistic of every view, and the mean over views; differentiable in z.

    Args:
        z: (views, n, d) float32 or float64, any strides.
        directions: (d, S) unit columns in the dtype of z, a constant.
        knots: points of the quadrature on [0, t_max], t = 0 included, >= 2.
        t_max: largest point.

    Returns:
        () of z's dtype.
    """
    check_views("sliced_ecf", z)
    if directions.ndim != 2 or directions.shape[0] != z.shape[2] or directions.shape[1] < 1:
        raise ValueError(
            f"sliced_ecf: directions must be ({z.shape[2]}, S), got {tuple(directions.shape)}"
        )
    out: Tensor = _sliced_ecf(z, directions, knots, t_max, _value_and_grad.wanted(z))[0]
    return out


# ---- directions ----


def _seeded_shapes(z: Tensor, count: int, seed: int) -> Tensor:
    return z.new_empty(z.shape[-1], count, dtype=torch.float32)


def _seeded_body(z: Tensor, count: int, seed: int) -> Tensor:
    generator = torch.Generator(z.device).manual_seed(seed)
    shape = z.shape[-1], count
    return torch.randn(shape, generator=generator, device=z.device, dtype=torch.float32)


# An operator, because torch.compile does not trace generators.
_seeded_normal = register_op(
    "sliced_ecf_normal(Tensor z, int count, int seed) -> Tensor",
    cpu=_seeded_body,
    cuda=_seeded_body,
    fake=_seeded_shapes,
)


def directions(z: Tensor, count: int, seed: int | None) -> Tensor:
    """(d, count) independent uniform unit columns for rows z (..., d), in z's dtype.

    Normal columns over their lengths, drawn in float32 whatever the dtype of z: with a seed, from
    ``torch.Generator(z.device).manual_seed(seed)``, so that the same seed gives the same directions
    in every precision; without one, from torch's global generator of that device.
    """
    if seed is None:
        normal = torch.randn(z.shape[-1], count, device=z.device, dtype=torch.float32)
    else:
        normal = _seeded_normal(z.detach(), count, seed)
    return unit_columns(normal, z)


def unit_columns(normal: Tensor, z: Tensor) -> Tensor:
    """Normal columns over their lengths, in the dtype of z."""
    columns = normal.to(z.dtype)
    return columns / torch.linalg.vector_norm(columns, dim=0)
