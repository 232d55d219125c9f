r"""Losses of two views of n samples, from the rows to the loss in one operator.

With p(i) the other view of row i, c the scale and :math:`s_{ik} = c\, x_i \cdot y_k` of unit rows
or of the rows as they are,

.. math::
    \ell_i = \log\bigl(1 + e^{a_i - s_{i,p(i)}}\bigr), \qquad
    a_i = \log \sum_k e^{s_{ik}},

k running over the 2n - 2 rows of the other samples (``"stacked"``: NT-Xent) or over those of the
other view (``"rows"``: InfoNCE, and ``"both"``, in both directions: CLIP). The composition of
`pairwise` with a few torch operations gives the same, and is what reduction="none" and a double
backward take on a CPU; here all of it is one call of the core, because their dispatch and, on a
GPU, their launches are what a small batch pays for.
With :math:`w_i = \bar\ell_i\, \sigma(a_i - s_{i,p(i)})`, W the pairwise weights for the gradient w,
and :math:`v = W y - (w + w_p) \odot y_p`: :math:`\bar x = c\, v`, and :math:`\bar c` the sum of
:math:`x \cdot v` over the pairs.

Each device has its own operators here, behind one function: a CPU makes the gradients of a mean or
sum with the loss, while they are in its caches; a GPU makes them in the backward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .._dtypes import as_multiplied, computed_dtype, is_half
from .._register import register_op
from ..primitives import _value_and_grad
from ..primitives._double_backward import through_composition
from ..primitives.pairwise import LeftOut, lse, lse_self, softplus
from ..primitives.pairwise.common import pair_ids
from ..primitives.rows import unit_rows
from ..primitives.rows.reduced import reduce_rows
from . import two_views_cpu, two_views_cuda
from .info_nce_loss import has_info_nce_total, info_nce_total
from .sigmoid_loss import has_sigmoid_total, sigmoid_total

__all__ = ["matched_loss", "sigmoid_loss", "two_view_loss"]


def _losses(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    form: str,
    unit: bool,
    bias: float | Tensor = 0.0,
    *,
    half: bool,
) -> Tensor:
    """The losses as a composition: (2, n) stacked, else (n,)."""
    kind, n = computed_dtype(z1), z1.shape[0]
    x, y = z1.to(kind), z2.to(kind)
    c, t = (v if isinstance(v, Tensor) else x.new_full((), v) for v in (scale, bias))
    if form == "stacked":
        u = unit_rows.unit_rows(torch.cat((x, y)))
        negatives = lse_self(u, c, pair_ids(n, u.device), half=half).view(2, n)
        return -F.logsigmoid(c * (u[:n] * u[n:]).sum(1) - negatives)
    if unit:
        x, y = unit_rows.unit_rows(x), unit_rows.unit_rows(y)
    positive, others = c * (x * y).sum(1), LeftOut(self_pairs=True)
    if form == "sigmoid":
        a, b = as_multiplied(x, half), as_multiplied(y, half)
        return softplus(a, b, c, t, others, half=half) - F.logsigmoid(positive + t)
    row, col = lse(x, y, c, others, cols=form == "both", half=half)
    losses = -F.logsigmoid(positive - row)
    if form == "both":
        losses = 0.5 * (losses - F.logsigmoid(positive - col))
    return losses


# ---- CPU: the mean or weighted sum of the losses, and its gradients ----


def _total_composed(
    z1: Tensor,
    z2: Tensor,
    scale: Tensor | None,
    bias: Tensor | None,
    weight: Tensor | None,
    *,
    numbers: tuple[float, float],
    mean: bool,
    kind: Sequence[Any],
) -> Tensor:
    (number, offset), (form, unit, half) = numbers, kind
    c, t = number if scale is None else scale, offset if bias is None else bias
    losses = _losses(z1, z2, c, form, unit, t, half=half)
    if weight is None:
        return losses.mean() if mean else losses.sum()
    total = (losses * weight).sum()  # the weights of a mean add up to 1
    return 0.5 * total if mean and form == "stacked" else total


def _total_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, list[Tensor]]) -> None:
    number, offset, mean, *kind = inputs[5:11]
    each = iter(output[1])
    grads = [next(each) if one else None for one in two_views_cpu.requested(inputs)]
    options = {"numbers": (number, offset), "mean": mean, "kind": kind}
    _value_and_grad.save(ctx, inputs[:5], output[:1], grads, **options)


def _total_backward(ctx: Any, factor: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _total_composed), *(None,) * 9


def _total_transformed(*args: Any) -> tuple[Tensor, list[Tensor]]:
    number, offset, mean, *kind = args[5:11]
    return _total_composed(*args[:5], numbers=(number, offset), mean=mean, kind=kind), []


_total = register_op(
    "two_views_total(Tensor z1, Tensor z2, Tensor? scale, Tensor? bias, Tensor? weight,"
    " float number, float offset, bool mean, str form, bool unit, bool half, bool gradient,"
    " bool of_z2, bool of_weight) -> (Tensor, Tensor[])",
    cpu=two_views_cpu.total,
    cuda=None,
    fake=two_views_cpu.outputs,
    backward=_total_backward,
    setup=_total_setup,
    transformed=_total_transformed,
)


def _total_of(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    mean: bool,
    weight: Tensor | None,
    form: str,
    unit: bool,
) -> Tensor:
    c, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
    t, offset = (bias, 0.0) if isinstance(bias, Tensor) else (None, bias)
    if weight is not None and mean:
        weight = weight / weight.sum()
    wanted = _value_and_grad.wanted
    of_z2 = wanted(z2)
    gradient = of_z2 or wanted(z1) or wanted(c) or wanted(t)
    of_z2 = of_z2 or (gradient and form == "stacked")
    flags = is_half(z1), gradient, of_z2, wanted(weight)
    out: Tensor = _total(z1, z2, c, t, weight, number, offset, mean, form, unit, *flags)[0]
    return out


# ---- GPU: the losses, their mean or their sum ----


def _cuda_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, scale, ctx.number, *ctx.options, _ = inputs
    _, u, stats, kept = output
    ctx.mark_non_differentiable(u, stats)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z1, z2, scale, u, stats, *kept)


def _cuda_backward(ctx: Any, grad: Tensor | None, *_: Tensor) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    z1, z2, scale, u, stats, *kept = ctx.saved_tensors
    if torch.is_grad_enabled():

        def compose(z1: Tensor, z2: Tensor, scale: Tensor | None) -> Tensor:
            reduction, form, unit = ctx.options
            c = ctx.number if scale is None else scale
            losses = _losses(z1, z2, c, form, unit, half=is_half(z1))
            return reduce_rows(losses, reduction, None)

        return *through_composition(compose, (z1, z2, scale), [grad]), *(None,) * 5
    _, of_z2, of_scale, *_ = ctx.needs_input_grad
    first, *rest = _losses_cuda_bwd(z1, z2, u, stats, kept, grad, *ctx.options, of_z2, of_scale)
    return first, rest[0] if of_z2 else None, rest[-1] if of_scale else None, *(None,) * 5


_losses_cuda_bwd = register_op(
    "two_views_backward(Tensor z1, Tensor z2, Tensor u, Tensor stats, Tensor[] kept,"
    " Tensor grad,"
    " str reduction, str form, bool unit, bool of_z2, bool of_scale) -> Tensor[]",
    cpu=None,
    cuda=two_views_cuda.backward,
    fake=two_views_cuda.gradient_shapes,
)
_losses_cuda = register_op(
    "two_views(Tensor z1, Tensor z2, Tensor? scale, float number, str reduction,"
    " str form, bool unit, bool keep) -> (Tensor, Tensor, Tensor, Tensor[])",
    cpu=None,
    cuda=two_views_cuda.forward,
    fake=two_views_cuda.shapes,
    backward=_cuda_backward,
    setup=_cuda_setup,
)


def two_view_loss(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    reduction: str = "none",
    weight: Tensor | None = None,
) -> Tensor:
    """NT-Xent loss of every anchor, (2, n), or their mean or sum.

    Args:
        z1, z2: (n, d) paired rows, float64, float32, bfloat16 or float16; normalised inside in
            float32 (float64). The unit rows of bfloat16 are multiplied in bfloat16, on a GPU and
            on a CPU that can.
        scale: 1 / temperature, a number or a 0-dim tensor of the dtype of the loss, float32
            (float64), which receives a gradient.
        reduction: "none", "mean" or "sum".
        weight: (n,) of the samples, of the dtype of the loss; mean = sum of w l / sum of w.
    """
    return _softmax_loss(z1, z2, scale, reduction, weight, "stacked", True)


def matched_loss(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    reduction: str = "none",
    weight: Tensor | None = None,
    *,
    both: bool,
    unit: bool,
) -> Tensor:
    """Softmax loss of every row of z1 with its row of z2 as the positive, (n,), their mean or sum.

    Args:
        z1, z2, scale, reduction, weight: as above.
        both: the mean with the loss of every row of z2 (CLIP), else that of z1 alone (InfoNCE).
        unit: normalise the rows.
    """
    return _softmax_loss(z1, z2, scale, reduction, weight, "both" if both else "rows", unit)


def sigmoid_loss(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    bias: float | Tensor,
    reduction: str = "none",
    weight: Tensor | None = None,
) -> Tensor:
    """SigLIP loss of every row of z1 with all of z2, (n,), their mean or sum; rows as they are.

    Args:
        z1, z2, reduction, weight: as above.
        scale, bias: numbers or 0-dim tensors of the dtype of the loss, which receive gradients.
    """
    mean = reduction == "mean"
    if reduction != "none" and has_sigmoid_total(z1, z2, weight):
        if weight is None:
            return sigmoid_total(z1, z2, scale, bias, 1.0 / len(z1) if mean else 1.0)
        return sigmoid_total(z1, z2, scale, bias, 1.0, weight / weight.sum() if mean else weight)
    if z1.is_cuda or reduction == "none":
        losses = _losses(z1, z2, scale, "sigmoid", False, bias, half=is_half(z1))
        return reduce_rows(losses, reduction, weight)
    return _total_of(z1, z2, scale, bias, mean, weight, "sigmoid", False)


def _softmax_loss(
    z1: Tensor,
    z2: Tensor,
    scale: float | Tensor,
    reduction: str,
    weight: Tensor | None,
    form: str,
    unit: bool,
) -> Tensor:
    if z1.is_cuda:
        how = reduction if weight is None else "none"
        if form == "rows" and how != "none" and has_info_nce_total(z1, z2):
            each = 1.0 / len(z1) if reduction == "mean" else 1.0
            return info_nce_total(z1, z2, scale, each, unit=unit)
        tensor, number = (scale, 1.0) if isinstance(scale, Tensor) else (None, scale)
        keep = how != "none" and two_views_cuda.keeps_weights(z1, scale, form, unit)
        keep = keep and any(map(_value_and_grad.wanted, (z1, z2, tensor)))
        losses = _losses_cuda(z1, z2, tensor, number, how, form, unit, keep)[0]
        return losses if weight is None else reduce_rows(losses, reduction, weight)
    if reduction == "none":
        losses = _losses(z1, z2, scale, form, unit, half=is_half(z1))
        return reduce_rows(losses, reduction, weight)
    return _total_of(z1, z2, scale, 0.0, reduction == "mean", weight, form, unit)
