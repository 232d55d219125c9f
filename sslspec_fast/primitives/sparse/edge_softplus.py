r"""Primitive ``edge_softplus``: binary cross-entropies of the entries of a sparse matrix.

.. math::
    r_i = \sum_{j \in N(i)} g_{ij} \log(1 + e^{-s_{ij}}) + (1 - g_{ij}) \log(1 + e^{s_{ij}}),
    \qquad s_{ij} = c_i x_i \cdot y_j + t_i,

N(i) the stored columns of row i, g their values in [0, 1]; or the first term alone, g any weights.
With :math:`W_{ij} = \bar r_i ((1 - g_{ij}) \sigma(s_{ij}) - g_{ij} \sigma(-s_{ij}))`, or its second
term, :math:`\bar x_i = c_i \sum_j W_{ij} y_j`, :math:`\bar y_j = \sum_i W_{ij} c_i x_i`,
:math:`\bar t_i = \sum_j W_{ij}` and :math:`\bar c_i = \sum_j W_{ij} x_i \cdot y_j`: no
difference of large numbers, however sure the logits are. One number per entry is made, and again in
the backward pass; memory O(nnz + n d).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._register import register_op
from .._double_backward import row_blocks_vjp
from .csr import SPARSE_ARGS, Csr, Sparse, of_sparse
from .edge_lse import edge_logits
from .spmm import spmm_op

__all__ = ["edge_softplus"]

_ARGS = f"{SPARSE_ARGS}, Tensor x, Tensor y, Tensor bias, Tensor? scale, bool targets"


def _terms(values: Tensor | None, logits: Tensor, targets: bool) -> Tensor:
    if values is None:
        return -F.logsigmoid(logits)
    g = values.to(logits.dtype)
    positive = -g * F.logsigmoid(logits)
    return positive - (1 - g) * F.logsigmoid(-logits) if targets else positive


def _slopes(values: Tensor | None, logits: Tensor, targets: bool) -> Tensor:
    if values is None:
        return -torch.sigmoid(-logits)
    g = values.to(logits.dtype)
    positive = -g * torch.sigmoid(-logits)
    return positive + (1 - g) * torch.sigmoid(logits) if targets else positive


def _rows(a: Sparse) -> Tensor:
    """(nnz,) the row of every entry."""
    return torch.repeat_interleave(a.indptr.diff(), output_size=a.indices.shape[0])


def _at(number: Tensor, rows: Tensor) -> Tensor:
    return number if number.dim() == 0 else number[rows]


def _scaled(numbers: Tensor, scale: Tensor | None, rows: Tensor) -> Tensor:
    return numbers if scale is None else numbers * _at(scale, rows)


def _summed_as(number: Tensor, entries: Tensor, indptr: Tensor) -> Tensor:
    """The gradient of a number for all rows or for each, from those at the entries."""
    if number.dim() == 0:
        return entries.sum()
    return torch.segment_reduce(entries, "sum", offsets=indptr, initial=0.0)


@of_sparse
def _shapes(
    a: Sparse, x: Tensor, y: Tensor, bias: Tensor, scale: Tensor | None, targets: bool
) -> Tensor:
    return x.new_empty(x.shape[0])


@of_sparse
def _body(
    a: Sparse, x: Tensor, y: Tensor, bias: Tensor, scale: Tensor | None, targets: bool
) -> Tensor:
    rows = _rows(a)
    logits = _scaled(edge_logits(a, x, y), scale, rows) + _at(bias, rows)
    terms = _terms(a.values, logits, targets)
    return torch.segment_reduce(terms, "sum", offsets=a.indptr, initial=0.0)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.targets = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *found, of_scale = _edge_softplus_bwd(*ctx.saved_tensors, ctx.targets, grad)
    return *(None,) * 6, *found, of_scale if ctx.needs_input_grad[9] else None, None


@of_sparse
def _bwd_shapes(
    a: Sparse,
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    targets: bool,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    of_scale = bias.new_empty(() if scale is None else scale.shape)
    return x.new_empty(x.shape), y.new_empty(y.shape), bias.new_empty(bias.shape), of_scale


@of_sparse
def _bwd_body(
    a: Sparse,
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    scale: Tensor | None,
    targets: bool,
    grad: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def slopes(a: Sparse, products: Tensor, at: Tensor) -> Tensor:
        logits = _scaled(products, scale, at) + _at(bias, at)
        return _slopes(a.values, logits, targets) * grad[at]

    def product(a: Sparse, weights: Tensor, at: Tensor, rows: Tensor) -> Tensor:
        weighted = Sparse(a.indptr, a.indices, _scaled(weights, scale, at))
        out: Tensor = spmm_op(*weighted, rows, None, None, None, False, 1.0)
        return out

    at, products, t = _rows(a), edge_logits(a, x, y), a.t()
    weights = slopes(a, products, at)
    of_bias = _summed_as(bias, weights, a.indptr)
    of_scale = bias.new_zeros(())
    if scale is not None:
        of_scale = _summed_as(scale, weights * products, a.indptr)
    of_x = product(a, weights, at, y)
    at = t.indices
    return of_x, product(t, slopes(t, edge_logits(t, y, x), at), at, x), of_bias, of_scale


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.targets, grad = inputs
    ctx.save_for_backward(*tensors, grad)


def _bwd_backward(
    ctx: Any, v_x: Tensor, v_y: Tensor, v_bias: Tensor, v_scale: Tensor
) -> tuple[Any, ...]:
    indptr, indices, values, _, _, _, x, y, bias, scale, grad = ctx.saved_tensors

    def block(rows: slice, x: Tensor, y: Tensor, bias: Tensor, grad: Tensor, *c: Tensor) -> Tensor:
        count = indptr[rows.start : rows.stop + 1]
        i = torch.arange(rows.start, rows.stop, device=x.device).repeat_interleave(count.diff())
        seen = slice(int(count[0]), int(count[-1]))
        here, there = x[i], y[indices[seen]]
        given, factor = None if values is None else values[seen], c[0] if c else None
        products = (here * there).sum(1)
        w = _slopes(given, _scaled(products, factor, i) + _at(bias, i), ctx.targets) * grad[i]
        toward = (v_x[i] * there).sum(1) + (v_y[indices[seen]] * here).sum(1)
        toward = _scaled(toward, factor, i) + _at(v_bias, i)
        if c:
            toward = toward + _at(v_scale, i) * products
        return (w * toward).sum()

    per_row = (1 + indices.shape[0] // max(1, x.shape[0])) * x.shape[1]
    factors = () if scale is None else (scale,)
    grads = row_blocks_vjp(block, x.shape[0], per_row, x, y, bias, grad, *factors)
    of_x, of_y, of_bias, of_grad, *of_scale = grads
    return *(None,) * 6, of_x, of_y, of_bias, of_scale[0] if of_scale else None, None, of_grad


_edge_softplus_bwd = register_op(
    f"edge_softplus_bwd({_ARGS}, Tensor grad) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
    backward=_bwd_backward,
    setup=_bwd_setup,
)
_edge_softplus = register_op(
    f"edge_softplus({_ARGS}) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def edge_softplus(
    a: Csr,
    x: Tensor,
    y: Tensor,
    bias: Tensor,
    *,
    scale: Tensor | None = None,
    targets: bool = True,
) -> Tensor:
    """r_i = Σ_j of the cross-entropies of the stored targets of row i with sigmoid(s_ij), where
    s_ij = c <x_i, y_j> + t.

    Args:
        a: (n, m) sparse, values in [0, 1].
        x, y: (n, d) and (m, d) float32 or float64 of one dtype, any row stride.
        bias: t, 0-dim or (n,) of that dtype.
        scale: c, 0-dim or (n,) of that dtype, or None for 1.
        targets: otherwise the values of a are weights of softplus(-s_ij), of any size.

    Returns:
        (n,), differentiable in x, y, bias and scale; 0 for a row without any entry.
    """
    for name, t, rows in (("x", x, a.n_rows), ("y", y, a.n_cols)):
        if t.dim() != 2 or tuple(t.shape) != (rows, x.shape[1]) or t.dtype != x.dtype:
            raise ValueError(
                f"edge_softplus: {name} must be ({rows}, d) {x.dtype}, "
                f"got {tuple(t.shape)} {t.dtype}"
            )
    out: Tensor = _edge_softplus(*a.with_transpose(), x, y, bias, scale, targets)
    return out
