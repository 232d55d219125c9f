r"""Primitive ``graph_cov``: the graph-weighted covariance, without storing A Y.

.. math::
    C = X^\top A\, Y = \sum_{ij} a_{ij}\, x_i y_j^\top, \qquad
    \bar X = (A Y)\, \bar C^\top, \quad \bar Y = (A^\top X)\, \bar C,

and for symmetric A with Y = X :math:`\bar X = (A X)(\bar C + \bar C^\top)`, where only the entries
j >= i are read forward (on a GPU only without gradients: with them A X is kept). A block of rows of
A Y is formed in the cache and multiplied at once. It replaces ``x.T @ torch.sparse.mm(a, y)``. The
gradient's product (A Y) M is an operator of its own whose gradient is made of the same two, so
derivatives of any order exist.

The centred form :math:`X^\top (A - d d^\top / vol) X` of a symmetric A adds a rank-one term to
the finished C, and d times a row to the gradient while it is written: neither a centred copy of X
nor a second gradient exists.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, CODE, threads, unit_stride, view, workspace
from .._value_and_grad import wanted
from . import graph_cov_cuda
from .csr import CSR_ARGS, SPARSE_ARGS, Csr, Sparse, of_csr, of_sparse

__all__ = ["graph_cov", "graph_cov_centred"]


def _compute(a: Sparse, x: Tensor, y: Tensor | None) -> Tensor:
    n, d = x.shape
    e = d if y is None else y.shape[1]
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    if x.is_cuda:
        return graph_cov_cuda.compute(a, x, y)
    out = x.new_empty(d, e)
    work = workspace(x, _C.graph_cov_workspace_size(n, d, e, CODE[x.dtype]))
    _C.graph_cov(a.view(), view(x), view(y), view(out), (view(work), threads()))
    return out


# ---- C = Xᵀ A Y -------------------------------------------------------------------------------


@of_sparse
def _shapes(a: Sparse, x: Tensor, y: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], y.shape[1])


@of_sparse
def _body(a: Sparse, x: Tensor, y: Tensor) -> Tensor:
    return _compute(a, x, y)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, x, y = ctx.saved_tensors
    here = Sparse(*sparse)
    grad_x = _apply(*here, y, grad.mT, None, None) if ctx.needs_input_grad[6] else None
    grad_y = _apply(*here.t(), x, grad, None, None) if ctx.needs_input_grad[7] else None
    return (None,) * 6 + (grad_x, grad_y)


# ---- symmetric A, or A − d dᵀ/vol, Y = X ------------------------------------------------------


@of_csr
def _self_shapes(
    a: Sparse, x: Tensor, degree: Tensor | None, grad_x: bool
) -> tuple[Tensor, Tensor]:
    """C, and on a GPU A X where a gradient will be asked for."""
    kept = x.shape if grad_x and x.is_cuda else (0,)
    return x.new_empty(x.shape[1], x.shape[1]), x.new_empty(kept)


@of_csr
def _self_body(a: Sparse, x: Tensor, degree: Tensor | None, grad_x: bool) -> tuple[Tensor, Tensor]:
    if grad_x and x.is_cuda:
        c, product = graph_cov_cuda.compute_and_keep(a, unit_stride(x))
    else:
        c, product = _compute(a, x, None), x.new_empty(0)
    return c if degree is None else _centre(c, x, degree), product


def _centre(c: Tensor, x: Tensor, degree: Tensor) -> Tensor:
    weighted = x.mT @ degree
    return c.sub_(weighted[:, None] * (weighted / degree.sum()))


def _self_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, grad_x = inputs
    ctx.kept = grad_x and tensors[3].is_cuda
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros for A X: a pass over memory
    ctx.save_for_backward(*tensors, output[1])


def _self_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 6
    *sparse, x, degree, product = ctx.saved_tensors
    both = grad + grad.mT
    rank_one = None if degree is None else both @ (x.mT @ degree) / -degree.sum()
    if ctx.kept and not torch.is_grad_enabled():
        grad_x = graph_cov_cuda.multiplied(product, both)
        if rank_one is not None:
            grad_x.addr_(degree, rank_one)
    else:
        grad_x = _apply(*Sparse(*sparse), x, both, degree, rank_one)
    return None, None, None, grad_x, None, None


# ---- (A Y) M + u vᵀ, the gradient -------------------------------------------------------------


@of_sparse
def _apply_shapes(a: Sparse, y: Tensor, mat: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    return y.new_empty(a.indptr.shape[0] - 1, mat.shape[1])


@of_sparse
def _apply_body(a: Sparse, y: Tensor, mat: Tensor, u: Tensor | None, v: Tensor | None) -> Tensor:
    if y.is_cuda:
        return graph_cov_cuda.apply(a, unit_stride(y), mat, u, v)
    out, y, mat = y.new_empty(a.indptr.shape[0] - 1, mat.shape[1]), unit_stride(y), unit_stride(mat)
    work = workspace(y, _C.graph_cov_apply_workspace_size(y.shape[1], mat.shape[1], CODE[y.dtype]))
    run = view(work), threads()
    _C.graph_cov_apply(a.view(), view(y), view(mat), view(u), view(v), view(out), run)
    return out


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, y, mat, u, _ = ctx.saved_tensors  # u holds degrees, which have no gradient
    there = Sparse(*sparse).t()
    grad_y = _apply(*there, grad, mat.mT, None, None) if ctx.needs_input_grad[6] else None
    grad_mat = _graph_cov(*there, y, grad) if ctx.needs_input_grad[7] else None
    grad_v = grad.mT @ u if ctx.needs_input_grad[9] else None
    return (None,) * 6 + (grad_y, grad_mat, None, grad_v)


_apply = register_op(
    f"graph_cov_apply({SPARSE_ARGS}, Tensor y, Tensor mat, Tensor? u, Tensor? v) -> Tensor",
    cpu=_apply_body,
    cuda=_apply_body,
    fake=_apply_shapes,
    backward=_apply_backward,
    setup=_setup,
)
_graph_cov = register_op(
    f"graph_cov({SPARSE_ARGS}, Tensor x, Tensor y) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)
_graph_cov_self = register_op(
    f"graph_cov_self({CSR_ARGS}, Tensor x, Tensor? degree, bool grad_x) -> (Tensor, Tensor)",
    cpu=_self_body,
    cuda=_self_body,
    fake=_self_shapes,
    backward=_self_backward,
    setup=_self_setup,
)


def graph_cov(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """Σ_ij a_ij x_i y_jᵀ = Xᵀ A Y.

    Args:
        a: (n, m) sparse.
        x: (n, d) float32 or float64, any row stride.
        y: (m, e), same dtype; pass x itself to use the symmetry of a symmetric a.

    Returns:
        (d, e), differentiable in x and y.
    """
    if x.dim() != 2 or x.shape[0] != a.n_rows:
        raise ValueError(f"graph_cov: x must be ({a.n_rows}, d), got {tuple(x.shape)}")
    if y.dim() != 2 or y.shape[0] != a.n_cols or y.dtype != x.dtype:
        raise ValueError(
            f"graph_cov: y must be ({a.n_cols}, e) {x.dtype}, got {tuple(y.shape)} {y.dtype}"
        )
    out: Tensor
    if y is x and a.symmetric:
        out = _graph_cov_self(*a.arrays(), x, None, wanted(x))[0]
    else:
        out = _graph_cov(*a.with_transpose(), x, y)
    return out


def graph_cov_centred(a: Csr, x: Tensor, degree: Tensor) -> Tensor:
    """Xᵀ (A − d dᵀ/vol) X, d = A 1 and vol = 1ᵀ d.

    Args:
        a: (n, n) sparse, symmetric.
        x: (n, d) float32 or float64, any row stride.
        degree: (n,) of x's dtype, the row sums of a; treated as constant.

    Returns:
        (d, d), differentiable in x.
    """
    if not a.symmetric:
        raise ValueError("graph_cov_centred: a must be symmetric, got a directed one")
    if x.dim() != 2 or x.shape[0] != a.n_rows:
        raise ValueError(f"graph_cov_centred: x must be ({a.n_rows}, d), got {tuple(x.shape)}")
    if degree.shape != (a.n_rows,) or degree.dtype != x.dtype:
        raise ValueError(
            f"graph_cov_centred: degree must be ({a.n_rows},) {x.dtype}, "
            f"got {tuple(degree.shape)} {degree.dtype}"
        )
    out: Tensor = _graph_cov_self(*a.arrays(), x, degree, wanted(x))[0]
    return out
