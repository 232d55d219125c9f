"""Primitive ``pairwise``, symmetric case: log-sum-exp of each row of logits, `lse_self`.

The formulas stand in `softmax.py`. Both sides are the same rows here, and each pair is multiplied
once.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from ..._seam import _C, view
from .._double_backward import row_blocks_vjp, softmax_weights
from . import cuda
from .common import (
    LeftOut,
    Logits,
    inner,
    keeping,
    largest_one,
    multiplied,
    number_of_kept,
    pair_threads,
    pair_workspace,
)

__all__ = ["lse_self"]


def _self_shapes(
    u: Tensor, scale: Tensor, ids: Tensor | None, half: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape[0], dtype=computed_dtype(u)), number_of_kept(u, keep)


def _logits(u: Tensor, scale: Tensor, ids: Tensor | None) -> Logits:
    return Logits(u, None, scale, LeftOut(ids, ids, self_pairs=True))


def _self_body(
    u: Tensor, scale: Tensor, ids: Tensor | None, half: bool, keep: bool
) -> tuple[Tensor, Tensor]:
    out, kept = _self_shapes(u, scale, ids, half, keep)
    if u.is_cuda:
        return cuda.forward(_logits(u, scale, ids))[0], kept
    u = multiplied(u, half)
    run = view(pair_workspace(u, None, backward=False)), pair_threads(u, u)
    number = view(kept) if keep else None
    _C.pairwise_forward(_logits(u, scale, ids).view(), (view(out), None), number, run)
    return out, kept


def _self_bwd_shapes(
    u: Tensor,
    scale: Tensor,
    ids: Tensor | None,
    half: bool,
    lse: Tensor,
    grad: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), scale.new_empty(())


def _self_bwd_body(
    u: Tensor,
    scale: Tensor,
    ids: Tensor | None,
    half: bool,
    lse: Tensor,
    grad: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if u.is_cuda:
        logits = _logits(u, scale, ids)
        grad_u, _, row_dot, _ = cuda.backward(logits, (lse, None), (grad, None))
        return grad_u, (0.5 * row_dot.sum()).to(scale.dtype)
    rows = multiplied(u, half)
    factor, (grad,) = largest_one(rows, grad)
    grad_u = u.new_empty(u.shape)
    work = pair_workspace(rows, None, backward=True)
    _C.pairwise_backward(
        _logits(rows, scale, ids).view(),
        (view(lse), None),
        (view(grad), None),
        (view(grad_u), None),
        view(kept),
        (view(work), pair_threads(u, u)),
    )
    if factor is not None:
        grad_u.mul_(factor)
    # s_ij = c u_i.u_j: sum_i u_i.(W u)_i counts every pair twice
    grad_scale = 0.5 * inner(u, grad_u)
    return grad_u.mul_(scale), grad_scale


def _self_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, scale, ids, ctx.half, ctx.keep = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(u, scale, ids, *output)


def _self_backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    u, scale, ids, out, kept = ctx.saved_tensors
    kept = kept if ctx.keep else None
    grad_u, grad_scale = _lse_self_bwd(u, scale, ids, ctx.half, out, grad, kept)
    return grad_u, grad_scale, None, None, None


def _self_bwd_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    u, scale, ids, _, lse, grad, _ = inputs
    ctx.save_for_backward(u, scale, ids, lse, grad)


def _self_bwd_backward(ctx: Any, v_u: Tensor, v_scale: Tensor) -> tuple[Tensor | None, ...]:
    u, scale, ids, lse, grad = ctx.saved_tensors

    def block(rows: slice, u: Tensor, scale: Tensor, lse: Tensor, grad: Tensor) -> Tensor:
        left_out = LeftOut(ids, ids, self_pairs=True).mask(rows, u.shape[0], u.device)
        w = softmax_weights(rows, scale * (u[rows] @ u.T), left_out, lse, grad, lse, grad)
        product = w @ u
        return scale * (v_u[rows] * product).sum() + 0.5 * v_scale * (u[rows] * product).sum()

    n = u.shape[0]
    g_u, g_scale, g_lse, g_grad = row_blocks_vjp(block, n, n, u, scale, lse, grad)
    return g_u, g_scale, None, None, g_lse, g_grad, None


_lse_self_bwd = register_op(
    "pairwise_lse_self_bwd(Tensor u, Tensor scale, Tensor? ids, bool half, Tensor lse,"
    " Tensor grad, Tensor? kept) -> (Tensor, Tensor)",
    cpu=_self_bwd_body,
    cuda=_self_bwd_body,
    fake=_self_bwd_shapes,
    backward=_self_bwd_backward,
    setup=_self_bwd_setup,
)
_lse_self = register_op(
    "pairwise_lse_self(Tensor u, Tensor scale, Tensor? ids, bool half, bool keep)"
    " -> (Tensor, Tensor)",
    cpu=_self_body,
    cuda=_self_body,
    fake=_self_shapes,
    backward=_self_backward,
    setup=_self_setup,
)


def lse_self(u: Tensor, scale: Tensor, ids: Tensor | None = None, *, half: bool = False) -> Tensor:
    r"""``r_i = log sum_{k != i, ids_k != ids_i} exp(scale u_i . u_k)``.

    Args:
        u: (n, d) float32 or float64, any row stride.
        scale: 0-dim tensor of u's dtype; receives a gradient.
        ids: (n,) int32; rows with equal ids are left out of each other's sum.
        half: as in `lse`.

    Returns:
        (n,); a row without any pair gives ``-inf`` and no gradient.
    """
    out: Tensor = _lse_self(u, scale, ids, half, keeping(u, scale))[0]
    return out
