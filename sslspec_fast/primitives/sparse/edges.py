r"""Primitive ``edges``: per-row sums over the entries of a sparse matrix that see both ends of an
edge.

.. math::
    \text{edge\_dot: } r_i = \sum_j a_{ij} \langle x_i, y_j\rangle, \qquad
    \text{edge\_sqdist: } r_i = \sum_j a_{ij} \lVert x_i - y_j\rVert^2.

Every positive term of a contrastive loss is the first, every invariance term the second. A Y is
never stored; the differences of the second are taken before they are squared, so close points keep
their digits. Gradients are one ``spmm`` each: for symmetric A and y = x, :math:`\bar x_i = \sum_j
a_{ij} (\bar r_i + \bar r_j) x_j` and :math:`\bar x_i = 2 \sum_j a_{ij} (\bar r_i + \bar r_j)(x_i -
x_j)`, in a single pass.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._register import register_op
from ..._seam import _C, stream, threads, unit_stride, view
from .csr import CSR_ARGS, SPARSE_ARGS, Csr, Sparse, of_csr, of_sparse
from .spmm import spmm_op

__all__ = ["edge_dot", "edge_sqdist"]


def _compute(a: Sparse, x: Tensor, y: Tensor, squared: bool) -> Tensor:
    out, x, y = x.new_empty(x.shape[0]), unit_stride(x), unit_stride(y)
    arguments = (a.view(), view(x), view(y), view(out), squared)
    if x.is_cuda:
        _C.cuda_edges(*arguments, stream(x))
    else:
        _C.edges(*arguments, threads())
    return out


# ---- two ends, any A --------------------------------------------------------------------------


@of_sparse
def _shapes(a: Sparse, x: Tensor, y: Tensor, squared: bool) -> Tensor:
    return x.new_empty(x.shape[0])


@of_sparse
def _body(a: Sparse, x: Tensor, y: Tensor, squared: bool) -> Tensor:
    return _compute(a, x, y, squared)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.squared = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    *sparse, x, y = ctx.saved_tensors
    here = Sparse(*sparse)
    squared, alpha = ctx.squared, 2.0 if ctx.squared else 1.0
    grad_x = grad_y = None
    if ctx.needs_input_grad[6]:
        grad_x = spmm_op(*here, y, x if squared else None, grad, None, False, alpha)
    if ctx.needs_input_grad[7]:
        own = y if squared else None
        grad_y = spmm_op(*here.t(), x, own, None, grad, False, alpha)
    return (None,) * 6 + (grad_x, grad_y, None)


_edges = register_op(
    f"edges({SPARSE_ARGS}, Tensor x, Tensor y, bool squared) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


# ---- symmetric A, y = x -----------------------------------------------------------------------


@of_csr
def _self_shapes(a: Sparse, x: Tensor, squared: bool) -> Tensor:
    return x.new_empty(x.shape[0])


@of_csr
def _self_body(a: Sparse, x: Tensor, squared: bool) -> Tensor:
    return _compute(a, x, x, squared)


def _self_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    indptr, indices, values, x = ctx.saved_tensors
    squared, alpha = ctx.squared, 2.0 if ctx.squared else 1.0
    own = x if squared else None
    sparse = Sparse(indptr, indices, values)
    return None, None, None, spmm_op(*sparse, x, own, grad, grad, True, alpha), None


_edges_self = register_op(
    f"edges_self({CSR_ARGS}, Tensor x, bool squared) -> Tensor",
    cpu=_self_body,
    cuda=_self_body,
    fake=_self_shapes,
    backward=_self_backward,
    setup=_setup,
)


# ---- Python face ------------------------------------------------------------------------------


def edge_dot(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """r_i = Σ_j a_ij <x_i, y_j>.

    Args:
        a: (n, m) sparse.
        x: (n, d) float32 or float64, any row stride.
        y: (m, d), same dtype.

    Returns:
        (n,), differentiable in x and y.
    """
    return _dispatch("edge_dot", a, x, y, squared=False)


def edge_sqdist(a: Csr, x: Tensor, y: Tensor) -> Tensor:
    """r_i = Σ_j a_ij ‖x_i − y_j‖².

    Args:
        a: (n, m) sparse.
        x: (n, d) float32 or float64, any row stride.
        y: (m, d), same dtype.

    Returns:
        (n,), differentiable in x and y.
    """
    return _dispatch("edge_sqdist", a, x, y, squared=True)


def _dispatch(op: str, a: Csr, x: Tensor, y: Tensor, *, squared: bool) -> Tensor:
    if x.dim() != 2 or x.shape[0] != a.n_rows:
        raise ValueError(f"{op}: x must be ({a.n_rows}, d), got {tuple(x.shape)}")
    if y.dim() != 2 or tuple(y.shape) != (a.n_cols, x.shape[1]) or y.dtype != x.dtype:
        wanted = (a.n_cols, x.shape[1])
        raise ValueError(f"{op}: y must be {wanted} {x.dtype}, got {tuple(y.shape)} {y.dtype}")
    out: Tensor
    if y is x and a.symmetric:
        out = _edges_self(*a.arrays(), x, squared)
    else:
        out = _edges(*a.with_transpose(), x, y, squared)
    return out
