r"""The sigmoid loss of two views on a GPU, value and gradients in one visit of the pairs.

.. math::
    L = \sum_i w_i \Bigl(\mathrm{softplus}(-s_{ii}) + \sum_{j \ne i} \mathrm{softplus}(s_{ij})
        \Bigr), \qquad s_{ij} = c\, x_i \cdot y_j + b.

With :math:`W_{ij} = w_i (\sigma(s_{ij}) - [i = j])`: :math:`\bar x = c\, W y`,
:math:`\bar y = c\, W^\top x`, :math:`\bar c = \sum_{ij} W_{ij}\, x_i \cdot y_j` and
:math:`\bar b = \sum_{ij} W_{ij}`.

A chunk of W (at most 256 MiB) is written once, by the kernel that also adds up the value and the
sums of W; two library products follow. So there are three products of n m d, where statistics in
the forward pass and weights in the backward pass take four. The products are kept in float32, and
the backward pass multiplies them by the factor from above, in the dtype of the rows.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dtypes import as_multiplied, computed_dtype, is_half, widen
from .._register import grouping, register_op
from .._seam import _C, stream, view
from ..primitives import _value_and_grad
from ..primitives.pairwise import LeftOut, cuda, softplus

__all__ = ["has_sigmoid_total", "sigmoid_total"]

_SCHEMA = (
    "Tensor x, Tensor y, Tensor? scale, Tensor? bias, Tensor? row_factor, float number,"
    " float offset, float weight"
)


class _Inputs(NamedTuple):
    """Rows, scale and bias as tensors or numbers, and the weights of rows: weight row_factor_i."""

    x: Tensor
    y: Tensor
    scale: Tensor | None
    bias: Tensor | None
    row_factor: Tensor | None
    number: float
    offset: float
    weight: float

    def view(self, x: Tensor, y: Tensor) -> tuple[Any, ...]:
        """As the core takes them, SigmoidInputs of csrc/fused/cuda/sigmoid_loss.h."""
        _, _, scale, bias, row_factor, number, offset, _ = self
        return view(x), view(y), view(scale), view(bias), number, offset, view(row_factor)


_of_inputs = grouping(8, _Inputs._make)


def _width(x: Tensor) -> int:
    """Columns of the rows as they are multiplied, which fill 16 bytes."""
    step = 8 if x.dtype == torch.bfloat16 else 4
    return (x.shape[1] + step - 1) // step * step


@_of_inputs
def _shapes(p: _Inputs, of_y: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    new, kind, (n, _), width = p.x.new_empty, torch.float32, p.x.shape, _width(p.x)
    products = new((n, width), dtype=kind), new((n if of_y else 0, width), dtype=kind)
    return new((), dtype=kind), new(2, dtype=kind), *products


@_of_inputs
def _body(p: _Inputs, of_y: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The loss, its gradients of scale and bias, and W y and W' x without scale and weight."""
    fast = p.x.dtype == torch.float16 or torch.get_float32_matmul_precision() != "highest"
    x, y = cuda.aligned_rows(p.x), cuda.aligned_rows(p.y)
    # of_columns is empty here: the first of its products allocates it
    loss, numbers, of_rows, of_columns = _shapes(*p, False)
    chunks = cuda.WeightChunks(x, y)
    sizes = [_C.cuda_sigmoid_loss_sums_size(c.stop - c.start, len(y)) for c in chunks.rows]
    sums, first = loss.new_empty(sum(sizes)), 0
    views, queue = p.view(x, y), stream(x)
    for chunk, size in zip(chunks.rows, sizes, strict=True):
        w = chunks.weights(chunk)
        part = sums[first : first + size]
        _C.cuda_sigmoid_loss_weights(views, chunk.start, view(w), view(part), fast, queue)
        chunks.products.times(w, out=of_rows[chunk])
        if of_y:
            total = of_columns if chunk.start else None
            of_columns = chunks.products.transposed_times(w, x[chunk], total)
        first += size
    _C.cuda_sigmoid_loss_finish(view(sums), p.weight, view(loss), view(numbers), queue)
    return loss, numbers, of_rows, of_columns


def _gradient_shapes(
    x: Tensor,
    of_rows: Tensor,
    of_columns: Tensor,
    numbers: Tensor,
    scale: Tensor | None,
    factor: Tensor,
    number: float,
) -> tuple[Tensor, Tensor, Tensor]:
    of_y = x.shape if len(of_columns) else (0, x.shape[1])
    return x.new_empty(x.shape), x.new_empty(of_y), numbers.new_empty(2)


def _gradient_body(
    x: Tensor,
    of_rows: Tensor,
    of_columns: Tensor,
    numbers: Tensor,
    scale: Tensor | None,
    factor: Tensor,
    number: float,
) -> tuple[Tensor, Tensor, Tensor]:
    grads = _gradient_shapes(x, of_rows, of_columns, numbers, scale, factor, number)
    of_y = len(of_columns) > 0
    _C.cuda_sigmoid_loss_gradient(
        (view(of_rows), view(of_columns) if of_y else None),
        view(numbers),
        view(scale),
        number,
        view(factor),
        (view(grads[0]), view(grads[1]) if of_y else None),
        view(grads[2]),
        stream(x),
    )
    return grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, number, offset, weight, of_y = inputs
    _, numbers, *products = output
    ctx.wanted = True, of_y, True, True, False
    grads = (*products, numbers, numbers, numbers)
    _value_and_grad.save(ctx, tensors, output, grads, number=number, offset=offset, weight=weight)


def _expression(
    x: Tensor,
    y: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    row_factor: Tensor | None,
    *,
    number: float,
    offset: float,
    weight: float,
) -> Tensor:
    """The same in differentiable operators."""
    half, kind = is_half(x), computed_dtype(x)
    x, y = widen(x), widen(y)
    c = x.new_full((), number) if scale is None else scale
    b = x.new_full((), offset) if bias is None else bias
    positive = -F.logsigmoid((x * y).sum(1) * c + b)
    left, right = as_multiplied(x, half), as_multiplied(y, half)
    rows = softplus(left, right, c, b, LeftOut(self_pairs=True), half=half) + positive
    return weight * (rows if row_factor is None else rows * row_factor).sum().to(kind)


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    def complete(*saved: Any) -> Any:
        x, _, scale, _, _, of_rows, of_columns, numbers, *_ = saved
        number = ctx.options["weight"] * (1.0 if scale is not None else ctx.options["number"])
        of_x, of_y, of_numbers = _gradient(x, of_rows, of_columns, numbers, scale, factor, number)
        return of_x, of_y, of_numbers[0], of_numbers[1], None

    return *_value_and_grad.gradient(ctx, factor, _expression, complete), *(None,) * 4


_gradient = register_op(
    "sigmoid_loss_backward(Tensor x, Tensor of_rows, Tensor of_columns, Tensor numbers,"
    " Tensor? scale, Tensor factor, float number) -> (Tensor, Tensor, Tensor)",
    cpu=None,
    cuda=_gradient_body,
    fake=_gradient_shapes,
)
_sigmoid_loss = register_op(
    f"sigmoid_loss({_SCHEMA}, bool of_y) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=None,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def has_sigmoid_total(x: Tensor, y: Tensor, row_factor: Tensor | None = None) -> bool:
    """Whether `sigmoid_total` takes these rows, and makes a gradient of them: on a GPU. The weights
    of rows receive none.
    """
    wanted = _value_and_grad.wanted
    fits = x.is_cuda and x.dtype != torch.float64 and not wanted(row_factor)
    return fits and (wanted(x) or wanted(y))


def sigmoid_total(
    x: Tensor,
    y: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    weight: float = 1.0,
    row_factor: Tensor | None = None,
) -> Tensor:
    """``weight sum_i row_factor_i`` times the sigmoid loss of row i, whose positive is row i of y.

    Args:
        x, y: (n, d) bfloat16 (multiplied as it is), float16 or float32, on a GPU.
        scale, bias: numbers or 0-dim float32 tensors, which receive gradients.
        row_factor: (n,) float32, or None for 1.
    """
    tensors = [t if isinstance(t, Tensor) else None for t in (scale, bias)]
    numbers = [0.0 if isinstance(t, Tensor) else float(t) for t in (scale, bias)]
    of_y = _value_and_grad.wanted(y)
    loss: Tensor = _sigmoid_loss(x, y, *tensors, row_factor, *numbers, weight, of_y)[0]
    return loss
