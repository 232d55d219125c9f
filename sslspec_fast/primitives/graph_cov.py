r"""Primitive ``graph_cov``: the graph-weighted covariance, without storing A Y.

.. math::
    C = X^\top A\, Y = \sum_{ij} a_{ij}\, x_i y_j^\top, \qquad
    \bar X = (A Y)\, \bar C^\top, \quad \bar Y = (A^\top X)\, \bar C,

and for symmetric A with Y = X, where only the entries j >= i are read forward,
:math:`\bar X = (A X)(\bar C + \bar C^\top)`. A block of rows of A Y is formed in the cache and
multiplied at once. It replaces ``x.T @ torch.sparse.mm(a, y)``. The gradient's product (A Y) M is
an operator of its own whose gradient is made of the same two, so derivatives of any order exist.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .._register import register_op
from .._seam import _C, CODE, threads, view
from .csr import Csr
from .spmm import SPARSE_ARGS, Sparse, rows, sparse_arguments, swapped

__all__ = ["graph_cov"]


def _compute(
    indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor, y: Tensor | None
) -> Tensor:
    n, d = x.shape
    e = d if y is None else y.shape[1]
    out, x, y = x.new_empty(d, e), rows(x), None if y is None else rows(y)
    work = x.new_empty(_C.graph_cov_workspace_size(n, d, e, CODE[x.dtype]))
    _C.graph_cov(
        view(indptr), view(indices), view(values), view(x), view(y), view(out), view(work),
        threads()
    )  # fmt: skip
    return out


# ---- C = Xᵀ A Y -------------------------------------------------------------------------------


def _shapes(
    indptr: Tensor, indices: Tensor, values: Tensor | None,
    t_indptr: Tensor | None, t_indices: Tensor | None, t_values: Tensor | None, x: Tensor,
    y: Tensor,
) -> Tensor:  # fmt: skip
    return x.new_empty(x.shape[1], y.shape[1])


def _body(
    indptr: Tensor, indices: Tensor, values: Tensor | None,
    t_indptr: Tensor | None, t_indices: Tensor | None, t_values: Tensor | None, x: Tensor,
    y: Tensor,
) -> Tensor:  # fmt: skip
    return _compute(indptr, indices, values, x, y)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, x, y = ctx.saved_tensors
    here: Sparse = tuple(sparse)
    grad_x = _apply(*here, y, grad.mT) if ctx.needs_input_grad[6] else None
    grad_y = _apply(*swapped(here), x, grad) if ctx.needs_input_grad[7] else None
    return (None,) * 6 + (grad_x, grad_y)


# ---- symmetric A, Y = X -----------------------------------------------------------------------


def _self_shapes(indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor) -> Tensor:
    return x.new_empty(x.shape[1], x.shape[1])


def _self_body(indptr: Tensor, indices: Tensor, values: Tensor | None, x: Tensor) -> Tensor:
    return _compute(indptr, indices, values, x, None)


def _self_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indptr, indices, values, x = ctx.saved_tensors
    return None, None, None, _apply(indptr, indices, values, None, None, None, x, grad + grad.mT)


# ---- (A Y) M, the gradient ----------------------------------------------------------------------


def _apply_shapes(
    indptr: Tensor, indices: Tensor, values: Tensor | None,
    t_indptr: Tensor | None, t_indices: Tensor | None, t_values: Tensor | None, y: Tensor,
    mat: Tensor,
) -> Tensor:  # fmt: skip
    return y.new_empty(indptr.shape[0] - 1, mat.shape[1])


def _apply_body(
    indptr: Tensor, indices: Tensor, values: Tensor | None,
    t_indptr: Tensor | None, t_indices: Tensor | None, t_values: Tensor | None, y: Tensor,
    mat: Tensor,
) -> Tensor:  # fmt: skip
    out, y, mat = y.new_empty(indptr.shape[0] - 1, mat.shape[1]), rows(y), rows(mat)
    work = y.new_empty(_C.graph_cov_apply_workspace_size(*mat.shape, CODE[y.dtype]))
    _C.graph_cov_apply(
        view(indptr), view(indices), view(values), view(y), view(mat), view(out), view(work),
        threads()
    )  # fmt: skip
    return out


def _apply_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, y, mat = ctx.saved_tensors
    there = swapped(tuple(sparse))
    grad_y = _apply(*there, grad, mat.mT) if ctx.needs_input_grad[6] else None
    grad_mat = _graph_cov(*there, y, grad) if ctx.needs_input_grad[7] else None
    return (None,) * 6 + (grad_y, grad_mat)


_apply = register_op(
    f"graph_cov_apply({SPARSE_ARGS}, Tensor y, Tensor mat) -> Tensor",
    body=_apply_body,
    fake=_apply_shapes,
    backward=_apply_backward,
    setup=_setup,
)
_graph_cov = register_op(
    f"graph_cov({SPARSE_ARGS}, Tensor x, Tensor y) -> Tensor",
    body=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)
_graph_cov_self = register_op(
    "graph_cov_self(Tensor indptr, Tensor indices, Tensor? values, Tensor x) -> Tensor",
    body=_self_body,
    fake=_self_shapes,
    backward=_self_backward,
    setup=_setup,
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
        out = _graph_cov_self(a.indptr, a.indices, a.values, x)
    else:
        out = _graph_cov(*sparse_arguments(a), x, y)
    return out
