r"""Two views of n samples, from the rows to the loss of every anchor in one operator.

With :math:`u = z / \max(\|z\|, \epsilon)` over the 2n stacked rows and p(i) the other view of i,

.. math::
    \ell_i = \log\bigl(1 + e^{a_i - c\, u_i \cdot u_{p(i)}}\bigr), \qquad
    a_i = \log \sum_{k \notin \{i, p(i)\}} e^{c\, u_i \cdot u_k},

the rows of NT-Xent. The composition of `pairwise.lse_self` with a few torch operations gives the
same, and is what a GPU runs inside the operator; on the CPU all of it is one kernel, because their
dispatch is what a small batch pays for.
With :math:`w_i = \bar\ell_i\, \sigma(a_i - c\, u_i \cdot u_{p(i)})`, W the pairwise weights for
the gradient w, and :math:`v = W u - (w + w_p) \odot u_p`: :math:`\bar u = c\, v`,
:math:`\bar c = \tfrac12 \langle u, v \rangle`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._register import register_op
from .._seam import _C, CODE, threads, unit_stride, view
from . import _pairwise_cuda as cuda
from . import unit_rows
from .pairwise import lse_self

__all__ = ["pair_ids", "two_view_rows"]


def pair_ids(n: int, device: torch.device) -> Tensor:
    """(2n,) int32: both views of a sample share its number."""
    return torch.arange(n, dtype=torch.int32, device=device).repeat(2)


def _workspace(u: Tensor, backward: bool) -> Tensor:
    _, n, d = u.shape
    return u.new_empty(_C.pairwise_views_workspace_size(n, d, CODE[u.dtype], backward))


def _shapes(
    z1: Tensor, z2: Tensor, scale: Tensor, half: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, d = z1.shape
    new = z1.new_empty
    return new(2, n), new(2, n, d), new(2, n), new(2, n)


def _body(
    z1: Tensor, z2: Tensor, scale: Tensor, half: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if z1.is_cuda:
        return _composed(z1, z2, scale, half)
    z1, z2 = unit_stride(z1), unit_stride(z2)
    rows, u, norm, negatives = _shapes(z1, z2, scale, half)
    work = _workspace(u, backward=False)
    _C.pairwise_views_forward(
        view(z1), view(z2), view(scale), view(u), view(norm), view(negatives), view(rows),
        view(work), threads(),
    )  # fmt: skip
    return rows, u, norm, negatives


def _composed(
    z1: Tensor, z2: Tensor, scale: Tensor, half: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, d = z1.shape
    _, u, norm, _ = _shapes(z1, z2, scale, half)
    dot = u.new_empty(n)
    unit_rows.forward_into((z1, z2), 0.0, tuple(u), norm, dot)
    flat, ids = u.view(2 * n, d), pair_ids(n, u.device)
    flat = flat.bfloat16() if half else flat
    row, _ = cuda.forward(flat, None, scale, ids=(ids, ids), skip_self=True)
    negatives = row.view(2, n)
    margin = negatives - scale * dot
    return -F.logsigmoid(-margin), u, norm, negatives


def _bwd_shapes(
    scale: Tensor, u: Tensor, norm: Tensor, negatives: Tensor, grad: Tensor, half: bool
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), scale.new_empty(())


def _bwd_body(
    scale: Tensor, u: Tensor, norm: Tensor, negatives: Tensor, grad: Tensor, half: bool
) -> tuple[Tensor, Tensor]:
    if u.is_cuda:
        return _composed_bwd(scale, u, norm, negatives, grad, half)
    grad, (grad_z, grad_scale) = grad.contiguous(), (u.new_empty(u.shape), scale.new_empty(()))
    work = _workspace(u, backward=True)
    _C.pairwise_views_backward(
        view(scale), view(u), view(norm), view(negatives), view(grad), view(grad_z),
        view(grad_scale), view(work), threads(),
    )  # fmt: skip
    return grad_z, grad_scale


def _composed_bwd(
    scale: Tensor, u: Tensor, norm: Tensor, negatives: Tensor, grad: Tensor, half: bool
) -> tuple[Tensor, Tensor]:
    n, d = u.shape[1:]
    dot = torch.linalg.vecdot(u[0], u[1])
    weight = torch.sigmoid(negatives - scale * dot).mul_(grad)
    none, ids, flat = None, pair_ids(n, u.device), u.view(2 * n, d)
    flat = flat.bfloat16() if half else flat
    lse, factor = negatives.view(-1), weight.view(-1)
    grad_u, *_ = cuda.backward(
        flat, none, scale, none, (ids, ids), (none, none), True,
        lse, none, factor, none, u.dtype,
    )  # fmt: skip
    grad_u, pull = grad_u.view(u.shape), weight.sum(0)
    grad_scale = 0.5 * (u * grad_u).sum() / scale - (pull * dot).sum()
    grad_z = torch.empty_like(u)
    unit_rows.backward_into(tuple(u), norm, 0.0, tuple(grad_u), -scale * pull, tuple(grad_z))
    return grad_z, grad_scale


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, scale, ctx.half = inputs
    _, u, norm, negatives = output
    ctx.mark_non_differentiable(u, norm, negatives)
    ctx.set_materialize_grads(False)  # zeros for u: a pass over memory
    ctx.save_for_backward(z1, z2, scale, u, norm, negatives)


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return None, None, None, None
    z1, z2, scale, u, norm, negatives = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is asked for: differentiate the composition
        inputs = [t for t in (z1, z2, scale) if t.requires_grad]
        parts = iter(torch.autograd.grad(_compose(z1, z2, scale), inputs, grad, create_graph=True))
        return *(next(parts) if t.requires_grad else None for t in (z1, z2, scale)), None
    grad_z, grad_scale = _two_view_bwd(scale, u, norm, negatives, grad, ctx.half)
    return grad_z[0], grad_z[1], grad_scale, None


def _compose(z1: Tensor, z2: Tensor, scale: Tensor) -> Tensor:
    n = z1.shape[0]
    u = unit_rows.unit_rows(torch.cat((z1, z2)))
    negatives = lse_self(u, scale, pair_ids(n, u.device)).view(2, n)
    return -F.logsigmoid(scale * (u[:n] * u[n:]).sum(1) - negatives)


_two_view_bwd = register_op(
    "pairwise_two_view_bwd(Tensor scale, Tensor u, Tensor norm, Tensor negatives, Tensor grad,"
    " bool half) -> (Tensor, Tensor)",
    body=_bwd_body,
    fake=_bwd_shapes,
)
_two_view = register_op(
    "pairwise_two_view(Tensor z1, Tensor z2, Tensor scale, bool half)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    body=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def two_view_rows(z1: Tensor, z2: Tensor, scale: Tensor, half: bool = False) -> Tensor:
    """(2, n) NT-Xent loss of every anchor.

    Args:
        z1, z2: (n, d) float32 or float64, paired rows; normalised inside.
        scale: 0-dim tensor of the same dtype, 1 / temperature; receives a gradient.
        half: the rows were bfloat16 before they were widened: on a GPU the normalised rows are
            multiplied in bfloat16, everything else stays in float32.
    """
    rows, _, _, _ = _two_view(z1, z2, scale, half)
    return rows
