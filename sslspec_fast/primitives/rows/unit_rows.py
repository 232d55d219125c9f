r"""Primitive ``unit_rows``: rows of unit or bounded length, and the similarity of paired rows.

.. math::
    x_i = z_i / \max(\|z_i\|, 10^{-12}) \quad\text{or}\quad
    x_i = z_i \min(1, \ell / \|z_i\|), \qquad s_i = x_i \cdot y_i .

Gradient: with :math:`g = \bar x + \bar s \odot y` and f the factor of a row,
:math:`\bar z_i = f_i (g_i - x_i (g_i \cdot x_i) / \|x_i\|^2)`, without the second term where f is
constant (rows shorter than the bound). One pass over the rows in either direction; as torch
operations it would be ten.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..._register import register_op
from ..._seam import _C, row_threads, stream, unit_stride, view
from .._double_backward import through_composition

__all__ = ["backward_into", "cosines", "forward_into", "paired_rows", "unit_rows"]

_EPS = 1e-12  # as torch.nn.functional.normalize


def forward_into(
    z: Sequence[Tensor], longest: float, x: Sequence[Tensor], norm: Tensor, dot: Tensor | None
) -> None:
    """Rows, norms and similarity of one or two operands; see csrc/rows/unit_rows.h."""
    args = (
        [view(unit_stride(t)) for t in z],
        longest,
        [view(t) for t in x],
        [view(r) for r in norm],
        view(dot),
    )
    if norm.is_cuda:
        _C.cuda_unit_rows_forward(*args, stream(norm))
    else:
        _C.unit_rows_forward(*args, row_threads(z))


def backward_into(
    x: Sequence[Tensor],
    norm: Tensor,
    longest: float,
    grad: Sequence[Tensor],
    grad_dot: Tensor | None,
    out: Sequence[Tensor],
) -> None:
    """The gradients of the operands of `forward_into`."""
    args = (
        [view(t) for t in x],
        [view(r) for r in norm],
        longest,
        [view(unit_stride(g)) for g in grad],
        view(grad_dot),
        [view(t) for t in out],
    )
    if norm.is_cuda:
        _C.cuda_unit_rows_backward(*args, stream(norm))
    else:
        _C.unit_rows_backward(*args, row_threads(x))


def _shapes(z1: Tensor, z2: Tensor | None, longest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    paired = z2 is not None
    norm = z1.new_empty(2 if paired else 1, z1.shape[0])
    y, dot = (z1.shape, z1.shape[:1]) if paired else ((0,), (0,))
    return z1.new_empty(z1.shape), z1.new_empty(y), norm, z1.new_empty(dot)


def _body(z1: Tensor, z2: Tensor | None, longest: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    x, y, norm, dot = out = _shapes(z1, z2, longest)
    if z2 is None:
        forward_into((z1,), longest, (x,), norm, None)
    else:
        forward_into((z1, z2), longest, (x, y), norm, dot)
    return out


def _bwd_shapes(
    x: Tensor,
    y: Tensor,
    norm: Tensor,
    longest: float,
    grad_x: Tensor,
    grad_y: Tensor,
    grad_dot: Tensor,
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), y.new_empty(y.shape)


def _bwd_body(
    x: Tensor,
    y: Tensor,
    norm: Tensor,
    longest: float,
    grad_x: Tensor,
    grad_y: Tensor,
    grad_dot: Tensor,
) -> tuple[Tensor, Tensor]:
    out = _bwd_shapes(x, y, norm, longest, grad_x, grad_y, grad_dot)
    if len(norm) == 1:
        backward_into((x,), norm, longest, (grad_x,), None, out[:1])
    else:
        grads = grad_x, grad_y
        backward_into((x, y), norm, longest, grads, grad_dot.contiguous(), out)
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, ctx.longest = inputs
    x, y, norm, _ = output
    ctx.mark_non_differentiable(norm)
    ctx.save_for_backward(z1, z2, x, y, norm)


def _backward(
    ctx: Any, grad_x: Tensor, grad_y: Tensor, _: Tensor, grad_dot: Tensor
) -> tuple[Tensor | None, Tensor | None, None]:
    z1, z2, x, y, norm = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is asked for: differentiate the composition
        grads = through_composition(
            lambda a, b: _compose(a, b, ctx.longest), (z1, z2), (grad_x, grad_y, grad_dot)
        )
        return grads[0], grads[1], None
    first, second = _unit_rows_bwd(x, y, norm, ctx.longest, grad_x, grad_y, grad_dot)
    return first, None if z2 is None else second, None


def _compose(z1: Tensor, z2: Tensor | None, longest: float) -> tuple[Tensor, ...]:
    x = _lengths(z1, longest)
    if z2 is None:
        return (x,)
    y = _lengths(z2, longest)
    return x, y, (x * y).sum(1)


def _lengths(z: Tensor, longest: float) -> Tensor:
    if not longest:
        return F.normalize(z, dim=1, eps=_EPS)
    norm = z.norm(dim=1, keepdim=True)
    return torch.where(norm < longest, z, z * (longest / norm.clamp_min(_EPS)))


_unit_rows_bwd = register_op(
    "unit_rows_bwd(Tensor x, Tensor y, Tensor norm, float longest, Tensor grad_x, Tensor grad_y,"
    " Tensor grad_dot) -> (Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_unit_rows = register_op(
    "unit_rows(Tensor z1, Tensor? z2, float longest) -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def unit_rows(z: Tensor) -> Tensor:
    """Rows of z, (n, d) float32 or float64, over max(norm, 1e-12), as torch.nn.functional does."""
    x: Tensor = _unit_rows(z, None, 0.0)[0]
    return x


def paired_rows(
    z1: Tensor, z2: Tensor, longest: float | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows x, y of z1, z2 and their (n,) similarities x_i . y_i.

    Args:
        z1, z2: (n, d) float32 or float64, any row stride; differentiable.
        longest: None for unit rows, or > 0: rows longer than that are shortened to it.
    """
    x, y, _, dot = _unit_rows(z1, z2, 0.0 if longest is None else float(longest))
    return x, y, dot


def cosines(z1: Tensor, z2: Tensor, eps: float) -> Tensor:
    """(n,) z1_i . z2_i / (max(|z1_i|, eps) max(|z2_i|, eps)), as torch's cosine_similarity.

    z1, z2: (n, d) float32 or float64; differentiable. eps: > 0, with squares that their dtype has.
    """
    return paired_rows(z1, z2, eps)[2] / eps**2
