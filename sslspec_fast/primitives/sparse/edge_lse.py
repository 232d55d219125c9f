r"""Primitive ``edge_lse``: log-sum-exp over the entries of each row of a sparse pattern.

.. math::
    r_i = \log \sum_{j \in N(i)} e^{x_i \cdot y_j}, \qquad
    W_{ij} = \bar r_i e^{x_i \cdot y_j - r_i}, \qquad
    \bar x_i = \sum_j W_{ij} y_j, \quad \bar y_j = \sum_i W_{ij} x_i,

N(i) the columns of row i. One number per entry is made (a sampled dense-dense product, SDDMM) and
reduced over the row; the gradients are sparse products with W, whose numbers are made again from r,
in the order of the transpose for the second one. Memory O(nnz + n d), never the rows of both ends
of every entry; nothing but the inputs and r is kept for the backward pass.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._register import grouping, register_op
from ..._seam import _C, stream, threads, unit_stride, view
from .._double_backward import row_blocks_vjp
from .csr import Csr, Sparse
from .spmm import spmm_op

__all__ = ["edge_logits", "edge_lse"]

_ARGS = (
    "Tensor indptr, Tensor indices, Tensor? t_indptr, Tensor? t_indices, "
    "Tensor x, Tensor y, Tensor? ids"
)


class _Edges(NamedTuple):
    indptr: Tensor
    indices: Tensor
    t_indptr: Tensor | None
    t_indices: Tensor | None
    x: Tensor
    y: Tensor
    ids: Tensor | None

    @property
    def a(self) -> Sparse:
        return Sparse(self.indptr, self.indices)

    @property
    def t(self) -> Sparse:
        if self.t_indptr is None or self.t_indices is None:
            return self.a
        return Sparse(self.t_indptr, self.t_indices)


_of_edges = grouping(7, _Edges._make)


def edge_logits(a: Sparse, x: Tensor, y: Tensor) -> Tensor:
    """(nnz,) x_i . y_j of every entry, without a gradient."""
    x, y = unit_stride(x), unit_stride(y)
    out = x.new_empty(a.indices.shape[0])
    arguments = (a._replace(values=None).view(), view(x), view(y), view(out))
    if x.is_cuda:
        _C.cuda_edge_values(*arguments, stream(x))
    else:
        _C.edge_values(*arguments, threads())
    return out


def _logits(a: Sparse, x: Tensor, y: Tensor, ids: Tensor | None) -> tuple[Tensor, Tensor]:
    """(nnz,) x_i . y_j, -inf where the ids of i and j differ; (nnz,) the row of every entry."""
    out = edge_logits(a, x, y)
    rows = torch.repeat_interleave(a.indptr.diff(), output_size=a.indices.shape[0])
    if ids is not None:
        out.masked_fill_(ids[rows] != ids[a.indices], -math.inf)
    return out, rows


def _weights(logits: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
    """grad exp(logit - lse); 0 in rows without an entry, whose lse is -inf."""
    return torch.where(torch.isneginf(lse), 0.0, (logits - lse).exp() * grad)


@_of_edges
def _shapes(e: _Edges) -> Tensor:
    return e.x.new_empty(e.x.shape[0])


@_of_edges
def _body(e: _Edges) -> Tensor:
    logits, rows = _logits(e.a, e.x, e.y, e.ids)
    top = torch.segment_reduce(logits, "max", offsets=e.indptr, initial=-math.inf)
    shift = torch.where(torch.isneginf(top), 0.0, top)
    terms = logits.sub_(shift[rows]).exp_()
    return torch.segment_reduce(terms, "sum", offsets=e.indptr, initial=0.0).log_() + shift


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    grad_x, grad_y = _edge_lse_bwd(*ctx.saved_tensors, grad)
    return None, None, None, None, grad_x, grad_y, None


@_of_edges
def _bwd_shapes(e: _Edges, lse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    return e.x.new_empty(e.x.shape), e.y.new_empty(e.y.shape)


@_of_edges
def _bwd_body(e: _Edges, lse: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    def product(a: Sparse, weights: Tensor, rows: Tensor) -> Tensor:
        weighted = Sparse(a.indptr, a.indices, weights)
        out: Tensor = spmm_op(*weighted, rows, None, None, None, False, 1.0)
        return out

    logits, at = _logits(e.a, e.x, e.y, e.ids)
    grad_x = product(e.a, _weights(logits, lse[at], grad[at]), e.y)
    logits, _ = _logits(e.t, e.y, e.x, e.ids)
    at = e.t.indices
    return grad_x, product(e.t, _weights(logits, lse[at], grad[at]), e.x)


def _bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)


def _bwd_backward(ctx: Any, v_x: Tensor, v_y: Tensor) -> tuple[Tensor | None, ...]:
    indptr, indices, _, _, x, y, ids, lse, grad = ctx.saved_tensors

    def block(rows: slice, x: Tensor, y: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
        count = indptr[rows.start : rows.stop + 1]
        i = torch.arange(rows.start, rows.stop, device=x.device).repeat_interleave(count.diff())
        j = indices[count[0] : count[-1]]
        here, there = x[i], y[j]
        logits, seen = (here * there).sum(1), ~torch.isneginf(lse[i])
        if ids is not None:
            seen = seen & (ids[i] == ids[j])
        # masked before exp: 0 * inf would be NaN in the gradient
        w = torch.where(seen, torch.where(seen, logits - lse[i], 0.0).exp() * grad[i], 0.0)
        return (w * ((v_x[i] * there).sum(1) + (v_y[j] * here).sum(1))).sum()

    per_row = (1 + indices.shape[0] // max(1, x.shape[0])) * x.shape[1]
    grads = row_blocks_vjp(block, x.shape[0], per_row, x, y, lse, grad)
    return None, None, None, None, grads[0], grads[1], None, grads[2], grads[3]


_edge_lse_bwd = register_op(
    f"edge_lse_bwd({_ARGS}, Tensor lse, Tensor grad) -> (Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
    backward=_bwd_backward,
    setup=_bwd_setup,
)
_edge_lse = register_op(
    f"edge_lse({_ARGS}) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def edge_lse(a: Csr, x: Tensor, y: Tensor, ids: Tensor | None = None) -> Tensor:
    """r_i = log Σ_j exp(<x_i, y_j>) over the stored entries of row i, whatever their values.

    Args:
        a: (n, n) sparse.
        x, y: (n, d) float32 or float64 of one dtype, any row stride.
        ids: (n,) integers or None: only entries that join rows with equal ids count.

    Returns:
        (n,), differentiable in x and y; a row without any entry gives ``-inf`` and no gradient.
    """
    shape = (a.n_rows, *x.shape[1:])
    for name, t in (("x", x), ("y", y)):
        if t.dim() != 2 or tuple(t.shape) != shape or t.dtype != x.dtype:
            raise ValueError(
                f"edge_lse: {name} must be ({a.n_rows}, d) {x.dtype}, "
                f"got {tuple(t.shape)} {t.dtype}"
            )
    if ids is not None and tuple(ids.shape) != (a.n_rows,):
        raise ValueError(f"edge_lse: ids must be ({a.n_rows},), got {tuple(ids.shape)}")
    indptr, indices, _, t_indptr, t_indices, _ = a.with_transpose()
    out: Tensor = _edge_lse(indptr, indices, t_indptr, t_indices, x, y, ids)
    return out
