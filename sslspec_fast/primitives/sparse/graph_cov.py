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
from ..._seam import _C, CODE, threads, unit_stride, view
from . import graph_cov_cuda
from .csr import Csr
from .spmm import SPARSE_ARGS, Sparse, sparse_arguments, swapped

__all__ = ["graph_cov", "graph_cov_centred"]


def _compute(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, y: Tensor | None
) -> Tensor:
    if x.is_cuda:
        return graph_cov_cuda.compute(
            indptr, indices, values, unit_stride(x), None if y is None else unit_stride(y)
        )
    n, d = x.shape
    e = d if y is None else y.shape[1]
    out, x, y = x.new_empty(d, e), unit_stride(x), None if y is None else unit_stride(y)
    work = x.new_empty(_C.graph_cov_workspace_size(n, d, e, CODE[x.dtype]))
    _C.graph_cov(
        view(indptr),
        view(indices),
        view(values),
        view(x),
        view(y),
        view(out),
        view(work),
        threads(),
    )
    return out


# ---- C = Xᵀ A Y -------------------------------------------------------------------------------


def _shapes(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_values: Tensor | None,
    x: Tensor,
    y: Tensor,
) -> Tensor:
    return x.new_empty(x.shape[1], y.shape[1])


def _body(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_values: Tensor | None,
    x: Tensor,
    y: Tensor,
) -> Tensor:
    return _compute(indptr, indices, values, x, y)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, x, y = ctx.saved_tensors
    here: Sparse = tuple(sparse)
    grad_x = _apply(*here, y, grad.mT, None, None) if ctx.needs_input_grad[6] else None
    grad_y = _apply(*swapped(here), x, grad, None, None) if ctx.needs_input_grad[7] else None
    return (None,) * 6 + (grad_x, grad_y)


# ---- symmetric A, Y = X -----------------------------------------------------------------------


def _self_shapes(indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[1])


def _self_body(indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor) -> Tensor:
    return _compute(indptr, indices, values, x, None)


def _self_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indptr, indices, values, x = ctx.saved_tensors
    sparse = (indptr, indices, values, None, None, None)
    return None, None, None, _apply(*sparse, x, grad + grad.mT, None, None)


# ---- symmetric A − d dᵀ/vol, Y = X ------------------------------------------------------------


def _centred_shapes(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, degree: Tensor
) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[1])


def _centred_body(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, degree: Tensor
) -> Tensor:
    return _centre(_compute(indptr, indices, values, x, None), x, degree)


def _centre(c: Tensor, x: Tensor, degree: Tensor) -> Tensor:
    weighted = x.mT @ degree
    return c.sub_(weighted[:, None] * (weighted / degree.sum()))


def _centred_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indptr, indices, values, x, degree = ctx.saved_tensors
    both = grad + grad.mT
    pull = both @ (x.mT @ degree) / -degree.sum()
    sparse = (indptr, indices, values, None, None, None)
    return None, None, None, _apply(*sparse, x, both, degree, pull), None


# ---- both on a GPU, with A X kept for the gradient ---------------------------------------------


def _kept_shapes(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, degree: Tensor | None
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[1], x.shape[1]), x.new_empty(x.shape)


def _kept_body(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, degree: Tensor | None
) -> tuple[Tensor, Tensor]:
    c, product = graph_cov_cuda.compute_and_keep(indptr, indices, values, unit_stride(x))
    return c if degree is None else _centre(c, x, degree), product


def _kept_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)  # zeros for A X: a pass over memory
    ctx.save_for_backward(*inputs, output[1])


def _kept_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Any, ...]:
    if grad is None:
        return (None,) * 5
    *sparse, x, degree, product = ctx.saved_tensors
    both = grad + grad.mT
    pull = None if degree is None else both @ (x.mT @ degree) / -degree.sum()
    if torch.is_grad_enabled():  # a second derivative: A X as a function of x
        return None, None, None, _apply(*sparse, None, None, None, x, both, degree, pull), None
    grad_x = graph_cov_cuda.multiplied(product, both)
    return None, None, None, grad_x if pull is None else grad_x.addr_(degree, pull), None


# ---- (A Y) M + u vᵀ, the gradient -------------------------------------------------------------


def _apply_shapes(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_values: Tensor | None,
    y: Tensor,
    mat: Tensor,
    u: Tensor | None,
    v: Tensor | None,
) -> Tensor:
    return y.new_empty(indptr.shape[0] - 1, mat.shape[1])


def _apply_body(
    indptr: Tensor,
    indices: Tensor,
    values: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_values: Tensor | None,
    y: Tensor,
    mat: Tensor,
    u: Tensor | None,
    v: Tensor | None,
) -> Tensor:
    if y.is_cuda:
        return graph_cov_cuda.apply(indptr, indices, values, unit_stride(y), mat, u, v)
    out, y, mat = y.new_empty(indptr.shape[0] - 1, mat.shape[1]), unit_stride(y), unit_stride(mat)
    work = y.new_empty(_C.graph_cov_apply_workspace_size(y.shape[1], mat.shape[1], CODE[y.dtype]))
    _C.graph_cov_apply(
        view(indptr),
        view(indices),
        view(values),
        view(y),
        view(mat),
        view(u),
        view(v),
        view(out),
        view(work),
        threads(),
    )
    return out


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, y, mat, u, _ = ctx.saved_tensors  # u holds degrees, which have no gradient
    there = swapped(tuple(sparse))
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
    "graph_cov_self(Tensor indptr, Tensor indices, Tensor? values, Tensor x) -> Tensor",
    cpu=_self_body,
    cuda=_self_body,
    fake=_self_shapes,
    backward=_self_backward,
    setup=_setup,
)

_graph_cov_centred = register_op(
    "graph_cov_centred(Tensor indptr, Tensor indices, Tensor? values, Tensor x, Tensor degree)"
    " -> Tensor",
    cpu=_centred_body,
    cuda=_centred_body,
    fake=_centred_shapes,
    backward=_centred_backward,
    setup=_setup,
)

_graph_cov_kept = register_op(
    "graph_cov_kept(Tensor indptr, Tensor indices, Tensor? values, Tensor x, Tensor? degree)"
    " -> (Tensor, Tensor)",
    cpu=_kept_body,
    cuda=_kept_body,
    fake=_kept_shapes,
    backward=_kept_backward,
    setup=_kept_setup,
)


def _keeps(x: Tensor) -> bool:
    return x.is_cuda and x.requires_grad and torch.is_grad_enabled()


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
    if y is x and a.symmetric and _keeps(x):
        out = _graph_cov_kept(a.indptr, a.indices, a.values, x, None)[0]
    elif y is x and a.symmetric:
        out = _graph_cov_self(a.indptr, a.indices, a.values, x)
    else:
        out = _graph_cov(*sparse_arguments(a), x, y)
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
    out: Tensor
    if _keeps(x):
        out = _graph_cov_kept(a.indptr, a.indices, a.values, x, degree)[0]
    else:
        out = _graph_cov_centred(a.indptr, a.indices, a.values, x, degree)
    return out
