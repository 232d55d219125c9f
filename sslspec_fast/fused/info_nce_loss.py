r"""InfoNCE of wide rows on a GPU, value and gradients in one visit of the pairs.

.. math::
    L = w \sum_i \log\bigl(1 + e^{a_i - s_{ii}}\bigr), \qquad
    a_i = \log \sum_{j \ne i} e^{s_{ij}}, \quad s_{ij} = c\, x_i \cdot y_j.

With :math:`E_{ij} = e^{s_{ij} - m_i}`, left out where i = j, and
:math:`f_i = w\, \sigma(a_i - s_{ii}) / \sum_j E_{ij}` the weights of the gradient are
:math:`f_i E_{ij}`: :math:`W y` is E y with its rows times f, and :math:`W^\top x` is
:math:`E^\top (f x)`.

A chunk of E (at most 256 MiB) is written once, by the kernel that also adds up its rows, with one
shift m for all rows (csrc/pairwise/cuda/exponentials.cuh); two library products follow. So there
are three products of n n d, where statistics in the forward pass and weights in the backward pass
take four. The products are kept in float32, and the backward pass takes them through the
normalisation.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dtypes import computed_dtype, is_half
from .._register import grouping, register_op
from .._seam import _C, stream, view
from ..primitives import _value_and_grad
from ..primitives.pairwise import LeftOut, cuda, lse
from ..primitives.rows import unit_rows
from . import two_views_cuda

__all__ = ["has_info_nce_total", "info_nce_total"]

_CHAINED = 256  # columns up to which one kernel chains the products of the gradient
_DENSE = torch.contiguous_format
_FEWEST = 4096  # rows below which the launches that this takes more cost what the product saves


class _MatchedRows(NamedTuple):
    """The rows; the scale as a tensor, times a number; the weight of a loss; normalised or not."""

    z1: Tensor
    z2: Tensor
    scale: Tensor | None
    number: float
    weight: float
    unit: bool


_of_rows = grouping(6, _MatchedRows._make)


@_of_rows
def _shapes(p: _MatchedRows, of_z2: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    z1, z2, scale, number, _, unit = p
    loss, u, stats, _ = two_views_cuda.shapes(z1, z2, scale, number, "sum", "rows", unit, False)
    n, width = len(z1), u.shape[1]
    return loss, u, stats, stats.new_empty(n, width), stats.new_empty(n if of_z2 else 0, width)


@_of_rows
def _body(p: _MatchedRows, of_z2: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """The loss, the rows as they are multiplied, what belongs to rows, E y and W' x."""
    # of_columns is empty here: the first of its products allocates it
    loss, u, stats, of_rows, of_columns = _shapes(*p, False)
    x = two_views_cuda.Views.of_rows(p.z1, p.z2, u, stats)
    a, b = x.operands()
    views = x.view("rows", p.unit)
    _C.cuda_info_nce_loss_begin(views, view(p.scale), p.number, stream(a))
    chunks = cuda.WeightChunks(a, b)  # reads b, whose rows the call above has written
    longest = max((c.stop - c.start for c in chunks.rows), default=0)
    work = stats.new_empty(_C.cuda_info_nce_loss_workspace_size(len(a), longest))
    run, fast = (view(work), stream(a)), two_views_cuda.is_fast()
    for chunk in chunks.rows:
        e, scaled = chunks.weights(chunk), torch.empty_like(a[chunk], memory_format=_DENSE)
        _C.cuda_info_nce_loss_rows(
            views, chunk.start, view(e), view(scaled), view(loss), p.weight, run, fast
        )
        chunks.products.times(e, out=of_rows[chunk])
        if of_z2:
            total = of_columns if chunk.start else None
            of_columns = chunks.products.transposed_times(e, scaled, total)
    return loss, u, stats, of_rows, of_columns


class _Visited(NamedTuple):
    """The rows, and what the forward pass made of them."""

    z1: Tensor
    z2: Tensor
    u: Tensor
    stats: Tensor
    of_rows: Tensor
    of_columns: Tensor


_of_visited = grouping(6, _Visited._make)


@_of_visited
def _gradient_shapes(
    p: _Visited, factor: Tensor, unit: bool, of_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    z1, z2, *_ = p
    of_z2 = z2.shape if len(p.of_columns) else (0, z2.shape[1])
    return z1.new_empty(z1.shape), z2.new_empty(of_z2), p.stats.new_empty(())


@_of_visited
def _gradient_body(
    p: _Visited, factor: Tensor, unit: bool, of_scale: bool
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _gradient_shapes(*p, factor, unit, of_scale)
    x, of_z2 = two_views_cuda.Views.of_rows(*p[:4]), len(p.of_columns) > 0
    _C.cuda_two_views_backward(
        x.view("rows", unit),
        view(factor),
        (view(p.of_rows), view(p.of_columns) if of_z2 else None),
        (view(grads[0]), view(grads[1]) if of_z2 else None),
        view(grads[2]) if of_scale else None,
        (view(x.workspace("rows", True, False)), stream(p.z1)),
        two_views_cuda.is_fast(),
        True,
    )
    return grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, number, weight, unit, of_z2 = inputs
    ctx.wanted = True, of_z2, True, False
    options = {"number": number, "weight": weight, "unit": unit}
    _value_and_grad.save(ctx, (*tensors, None), output, output[1:], **options)


def _expression(
    z1: Tensor,
    z2: Tensor,
    scale: Tensor | None,
    _: None,
    *,
    number: float,
    weight: float,
    unit: bool,
) -> Tensor:
    """The same in differentiable operators."""
    kind, half = computed_dtype(z1), is_half(z1)
    x, y = z1.to(kind), z2.to(kind)
    if unit:
        x, y = unit_rows.unit_rows(x), unit_rows.unit_rows(y)
    c = x.new_full((), number) if scale is None else scale
    row, _col = lse(x, y, c, LeftOut(self_pairs=True), cols=False, half=half)
    return weight * -F.logsigmoid(c * (x * y).sum(1) - row).sum()


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    of_scale = ctx.needs_input_grad[2]

    def complete(*saved: Any) -> Any:
        z1, z2, _, _, *kept = saved
        return *_gradient(z1, z2, *kept, factor, ctx.options["unit"], of_scale), None

    return *_value_and_grad.gradient(ctx, factor, _expression, complete)[:3], *(None,) * 4


_gradient = register_op(
    "info_nce_loss_backward(Tensor z1, Tensor z2, Tensor u, Tensor stats, Tensor of_rows,"
    " Tensor of_columns, Tensor factor, bool unit, bool of_scale) -> (Tensor, Tensor, Tensor)",
    cpu=None,
    cuda=_gradient_body,
    fake=_gradient_shapes,
)
_info_nce_loss = register_op(
    "info_nce_loss(Tensor z1, Tensor z2, Tensor? scale, float number, float weight, bool unit,"
    " bool of_z2) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=None,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def has_info_nce_total(z1: Tensor, z2: Tensor) -> bool:
    """Whether `info_nce_total` is the way for these rows: many wide ones on a GPU, of which a
    gradient is wanted.
    """
    fits = z1.is_cuda and z1.dtype != torch.float64
    large = z1.shape[1] > _CHAINED and z1.shape[0] >= _FEWEST
    return fits and large and (_value_and_grad.wanted(z1) or _value_and_grad.wanted(z2))


def info_nce_total(
    z1: Tensor, z2: Tensor, scale: float | Tensor, weight: float, *, unit: bool
) -> Tensor:
    """``weight`` times the sum of the InfoNCE losses of the rows of z1 against those of z2.

    Args:
        z1, z2: (n, d) bfloat16 (multiplied as such), float16 or float32, on a GPU, d > 256.
        scale: 1 / temperature, a number or a 0-dim float32 tensor, which receives a gradient.
        unit: normalise the rows.
    """
    tensor, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, float(scale))
    of_z2 = _value_and_grad.wanted(z2)
    loss: Tensor = _info_nce_loss(z1, z2, tensor, number, weight, unit, of_z2)[0]
    return loss
