r"""Primitive ``moments``: mean and biased variance of every column, in one pass over memory.

.. math::
    \mu_k = \tfrac1n \sum_i x_{ik}, \quad v_k = \tfrac1n \sum_i (x_{ik} - \mu_k)^2, \qquad
    \bar x_{ik} = \bar\mu_k / n + 2 \bar v_k (x_{ik} - \mu_k) / n .

Rows are reduced about local means and merged (Chan's update), so a large mean costs no accuracy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from ..._seam import _C, row_threads, stream, unit_stride, view, workspace

__all__ = ["column_moments", "pair_moments"]


def check_matrix(op: str, name: str, x: Tensor, *, half: bool = False) -> None:
    """A (n, d) matrix of float32 or float64; if half, also of bfloat16 or, on a GPU, float16."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor, got {type(x).__name__}")
    if x.ndim != 2:
        raise ValueError(f"{op}: {name} must be a matrix (n, d), got shape {tuple(x.shape)}")
    if half and (x.dtype == torch.bfloat16 or (x.is_cuda and x.dtype == torch.float16)):
        return
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: {name} must be float32 or float64, got {x.dtype}")


def pair_moments(
    x: Tensor, y: Tensor | None = None, *, product: bool = False
) -> tuple[Tensor, Tensor]:
    """Column means and biased variances, not differentiable: for bodies of operators. On a CPU
    also of bfloat16 rows, in float32.

    Returns:
        mean and var, (1, d) for x, or (3, d) for x, y and x - y. With `product` the third row of
        var is the covariance of the columns of x and y, added up as such: no error of the larger
        operand reaches the smaller one.
    """
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    n, d = x.shape
    kind = computed_dtype(x)
    mean, var = (x.new_empty(1 if y is None else 3, d, dtype=kind) for _ in range(2))
    operands = 1 if y is None else 2
    if x.is_cuda:
        work = x.new_empty(_C.cuda_moments_workspace_size(n, d, operands))
        run = view(work), stream(x)
        _C.cuda_moments_forward(view(x), view(y), product, view(mean), view(var), run)
    else:
        work = workspace(x, _C.moments_workspace_size(n, d, operands), kind)
        run = view(work), row_threads((x, y))
        _C.moments_forward(view(x), view(y), product, view(mean), view(var), run)
    return mean, var


def _shapes(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[1]), x.new_empty(x.shape[1])


def _body(x: Tensor) -> tuple[Tensor, Tensor]:
    mean, var = pair_moments(x)
    return mean[0], var[0]


def _bwd_shapes(x: Tensor, mean: Tensor, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
    return x.new_empty(x.shape)


def _bwd_body(x: Tensor, mean: Tensor, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
    x, grad = unit_stride(x), x.new_empty(x.shape)
    grad_mean, grad_var = grad_mean.contiguous(), grad_var.contiguous()
    arrays = (view(x), view(mean), view(grad_mean), view(grad_var), view(grad))
    if x.is_cuda:
        _C.cuda_moments_backward(*arrays, stream(x))
    else:
        _C.moments_backward(*arrays, row_threads((x,)))
    return grad


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(inputs[0], output[0])


def _backward(ctx: Any, grad_mean: Tensor, grad_var: Tensor) -> Tensor:
    x, mean = ctx.saved_tensors
    if torch.is_grad_enabled():  # a double backward follows: the same in operators that have one
        n = x.shape[0]
        return grad_mean / n + (2 / n) * grad_var * (x - x.mean(0))
    grad: Tensor = _moments_bwd(x, mean, grad_mean, grad_var)
    return grad


_moments_bwd = register_op(
    "moments_column_bwd(Tensor x, Tensor mean, Tensor grad_mean, Tensor grad_var) -> Tensor",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_moments = register_op(
    "moments_column(Tensor x) -> (Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def column_moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of every column; differentiable.

    Args:
        x: (n, d) float32 or float64, n >= 1, any row stride.

    Returns:
        mean (d,) and variance (d,), divided by n; multiply by n / (n - 1) for the unbiased one.
    """
    check_matrix("column_moments", "x", x)
    if x.shape[0] == 0:
        raise ValueError(f"column_moments: x must have at least 1 row, got shape {tuple(x.shape)}")
    mean, var = _moments(x)
    return mean, var
