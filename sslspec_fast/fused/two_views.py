r"""Two views of n samples, from the rows to the loss in one operator.

With :math:`u = z / \max(\|z\|, \epsilon)` over the 2n stacked rows and p(i) the other view of i,

.. math::
    \ell_i = \log\bigl(1 + e^{a_i - c\, u_i \cdot u_{p(i)}}\bigr), \qquad
    a_i = \log \sum_{k \notin \{i, p(i)\}} e^{c\, u_i \cdot u_k},

the rows of NT-Xent; the losses of InfoNCE and CLIP, which a GPU makes here too, are in
`csrc/fused/cuda/two_views.h`. The composition of `pairwise.lse_self` with a few torch operations
gives the same; here all of it is one call of the core, because their dispatch and, on a GPU, their
launches are what a small batch pays for.
With :math:`w_i = \bar\ell_i\, \sigma(a_i - c\, u_i \cdot u_{p(i)})`, W the pairwise weights for
the gradient w, and :math:`v = W u - (w + w_p) \odot u_p`: :math:`\bar u = c\, v`,
:math:`\bar c = \tfrac12 \langle u, v \rangle`.

Each device has its own operators here, behind one function. With one schema, the CPU would take the
GPU's options (reduction, form, which gradients) and reduce inside the operator, in Python, what
autograd reduces in C++: 5 microseconds more for forward and backward of 8 x 16 rows, which take 60.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dtypes import computed_dtype, is_half
from .._register import register_op
from .._seam import _C, CODE, rounds, threads, unit_stride, view
from ..primitives._double_backward import through_composition
from ..primitives.pairwise import LeftOut, lse, lse_self
from ..primitives.pairwise.common import keeping, number_of_kept, pair_ids
from ..primitives.rows import unit_rows
from . import two_views_cuda

__all__ = ["has_matched_loss", "matched_loss", "two_view_loss"]


# ---- CPU: the loss of every anchor ----


def _workspace(u: Tensor, half: bool, backward: bool) -> Tensor:
    _, n, d = u.shape
    return u.new_empty(_C.two_views_workspace_size(n, d, CODE[u.dtype], half, backward))


def _threads(z: Tensor) -> int:
    n, d = z.shape
    return threads(16.0 * n * n * d)


def _shapes(z1: Tensor, z2: Tensor, scale: Tensor, half: bool, keep: bool) -> tuple[Tensor, ...]:
    n, d = z1.shape
    new = z1.new_empty
    return new(2, n), new(2, n, d), new(2, n), new(2, n), number_of_kept(z1, keep)


def _body(z1: Tensor, z2: Tensor, scale: Tensor, half: bool, keep: bool) -> tuple[Tensor, ...]:
    z1, z2 = unit_stride(z1), unit_stride(z2)
    rows, u, norm, negatives, kept = _shapes(z1, z2, scale, half, keep)
    half = rounds(half, u.dtype)
    work = _workspace(u, half, backward=False)
    left = view(u), view(norm), view(negatives), view(kept) if keep else None, half
    run = view(work), _threads(z1)
    _C.two_views_forward((view(z1), view(z2)), view(scale), left, view(rows), run)
    return rows, u, norm, negatives, kept


def _bwd_shapes(
    scale: Tensor,
    u: Tensor,
    norm: Tensor,
    negatives: Tensor,
    half: bool,
    grad: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return u.new_empty(u.shape), scale.new_empty(())


def _bwd_body(
    scale: Tensor,
    u: Tensor,
    norm: Tensor,
    negatives: Tensor,
    half: bool,
    grad: Tensor,
    kept: Tensor | None,
) -> tuple[Tensor, Tensor]:
    grad, (grad_z, grad_scale) = grad.contiguous(), (u.new_empty(u.shape), scale.new_empty(()))
    half = rounds(half, u.dtype)
    work = _workspace(u, half, backward=True)
    left = view(u), view(norm), view(negatives), view(kept), half
    run = view(work), _threads(u[0])
    _C.two_views_backward(view(scale), left, view(grad), view(grad_z), view(grad_scale), run)
    return grad_z, grad_scale


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.half, ctx.keep = inputs
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)  # zeros for u: a pass over memory
    ctx.save_for_backward(*tensors, *output[1:])


def _backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 5
    z1, z2, scale, u, norm, negatives, kept = ctx.saved_tensors
    if torch.is_grad_enabled():
        return *through_composition(_compose, (z1, z2, scale), [grad]), None, None
    kept = kept if ctx.keep else None
    grad_z, grad_scale = _two_view_bwd(scale, u, norm, negatives, ctx.half, grad, kept)
    return grad_z[0], grad_z[1], grad_scale, None, None


def _compose(z1: Tensor, z2: Tensor, scale: Tensor) -> Tensor:
    n = z1.shape[0]
    u = unit_rows.unit_rows(torch.cat((z1, z2)))
    negatives = lse_self(u, scale, pair_ids(n, u.device)).view(2, n)
    return -F.logsigmoid(scale * (u[:n] * u[n:]).sum(1) - negatives)


_two_view_bwd = register_op(
    "two_views_stacked_backward(Tensor scale, Tensor u, Tensor norm, Tensor negatives, bool half,"
    " Tensor grad, Tensor? kept) -> (Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=None,
    fake=_bwd_shapes,
)
_two_view = register_op(
    "two_views_stacked(Tensor z1, Tensor z2, Tensor scale, bool half, bool keep)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=None,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


# ---- GPU: the losses, their mean or their sum ----


def _cuda_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, scale, ctx.number, *ctx.options = inputs
    _, u, stats = output
    ctx.mark_non_differentiable(u, stats)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z1, z2, scale, u, stats)


def _cuda_backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 7
    z1, z2, scale, u, stats = ctx.saved_tensors
    if torch.is_grad_enabled():

        def compose(z1: Tensor, z2: Tensor, scale: Tensor | None) -> Tensor:
            return _composed_loss(z1, z2, ctx.number if scale is None else scale, *ctx.options)

        return *through_composition(compose, (z1, z2, scale), [grad]), *(None,) * 4
    _, of_z2, of_scale, *_ = ctx.needs_input_grad
    first, *rest = _losses_cuda_bwd(z1, z2, u, stats, grad, *ctx.options, of_z2, of_scale)
    return first, rest[0] if of_z2 else None, rest[-1] if of_scale else None, *(None,) * 4


def _composed_loss(
    z1: Tensor, z2: Tensor, scale: float | Tensor, reduction: str, form: str, unit: bool
) -> Tensor:
    x, y, c = _in_float(z1, z2, scale)
    if form == "stacked":
        return _reduced(_compose(x, y, c), reduction)
    if unit:
        x, y = unit_rows.unit_rows(x), unit_rows.unit_rows(y)
    positive = c * (x * y).sum(1)
    row, col = lse(x, y, c, LeftOut(self_pairs=True), cols=form == "both")
    losses = -F.logsigmoid(positive - row)
    if form == "both":
        losses = 0.5 * (losses - F.logsigmoid(positive - col))
    return _reduced(losses, reduction)


def _in_float(z1: Tensor, z2: Tensor, scale: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    kind = computed_dtype(z1)
    c = scale if isinstance(scale, Tensor) else z1.new_full((), scale, dtype=kind)
    return z1.to(kind), z2.to(kind), c


def _reduced(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "none":
        return losses
    return losses.mean() if reduction == "mean" else losses.sum()


_losses_cuda_bwd = register_op(
    "two_views_backward(Tensor z1, Tensor z2, Tensor u, Tensor stats, Tensor grad,"
    " str reduction, str form, bool unit, bool of_z2, bool of_scale) -> Tensor[]",
    cpu=None,
    cuda=two_views_cuda.backward,
    fake=two_views_cuda.gradient_shapes,
)
_losses_cuda = register_op(
    "two_views(Tensor z1, Tensor z2, Tensor? scale, float number, str reduction,"
    " str form, bool unit) -> (Tensor, Tensor, Tensor)",
    cpu=None,
    cuda=two_views_cuda.forward,
    fake=two_views_cuda.shapes,
    backward=_cuda_backward,
    setup=_cuda_setup,
)


def has_matched_loss(z: Tensor) -> bool:
    """Whether `matched_loss`, where row i of z1 and row i of z2 are a pair, is one operator for
    these rows. On a CPU it is a composition, and InfoNCE has a faster one of its own.
    """
    return z.is_cuda


def two_view_loss(z1: Tensor, z2: Tensor, scale: float | Tensor, reduction: str = "none") -> Tensor:
    """NT-Xent loss of every anchor, (2, n), or their mean or sum.

    Args:
        z1, z2: (n, d) paired rows, float64, float32, bfloat16 or float16; normalised inside in
            float32 (float64). The unit rows of bfloat16 are multiplied in bfloat16, on a GPU and
            on a CPU that can.
        scale: 1 / temperature, a number or a 0-dim tensor of the dtype of the loss, float32
            (float64), which receives a gradient.
        reduction: "none", "mean" or "sum".
    """
    if z1.is_cuda:
        return _on_gpu(z1, z2, scale, reduction, "stacked", True)
    x, y, c = _in_float(z1, z2, scale)
    return _reduced(_two_view(x, y, c, is_half(z1), keeping(x, y, c))[0], reduction)


def matched_loss(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    reduction: str = "none",
    *,
    both: bool,
    unit: bool,
) -> Tensor:
    """Softmax loss of every row of z1 with its row of z2 as the positive, (n,), their mean or sum.

    Args:
        z1, z2, scale, reduction: as above.
        both: the mean with the loss of every row of z2 (CLIP), else that of z1 alone (InfoNCE).
        unit: normalise the rows.
    """
    form = "both" if both else "rows"
    if z1.is_cuda:
        return _on_gpu(z1, z2, scale, reduction, form, unit)
    return _composed_loss(z1, z2, scale, reduction, form, unit)


def _on_gpu(
    z1: Tensor, z2: Tensor, scale: float | Tensor, reduction: str, form: str, unit: bool
) -> Tensor:
    tensor, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
    loss: Tensor = _losses_cuda(z1, z2, tensor, number, reduction, form, unit)[0]
    return loss
