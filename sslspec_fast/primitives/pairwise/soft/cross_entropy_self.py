r"""Soft cross-entropy among the rows of a batch, each pair of which is multiplied once.

.. math::
    r_i = w_i \sum_{j \ne i} q_{ij} (\ell_i - s_{ij}), \qquad s_{ij} = c\, u_i \cdot u_j, \quad
    \ell_i = \log \sum_{j \ne i} e^{s_{ij}}, \quad
    q_i = \mathrm{softmax}_{j \ne i}(f\, t_i \cdot t_j).

With p the softmax of s and :math:`W_{ij} = w_i (p_{ij} - q_{ij})`, the gradient of the sum of rows
in :math:`u_i` is :math:`c \sum_j (W_{ij} + W_{ji}) u_j`. On a CPU it takes half of both products of
(n, n) and one of the gradient; `cross_entropy` with the batch as its columns takes four, and so
does a GPU. t, f and w have no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._dtypes import as_multiplied
from ...._register import register_op
from ...._seam import _C, CODE, view, workspace
from ... import _value_and_grad
from ..._double_backward import through_composition
from ..common import multiplied, pair_threads
from .plain import plain_rows
from .visit import Visit, visit

__all__ = ["OwnSides", "soft_self_rows", "soft_self_total"]


class OwnSides(NamedTuple):
    """The logits c u u^T and f t t^T without their diagonals.

    half: whether u and t came as bfloat16 and are multiplied as such, where the device does.
    """

    u: Tensor  # (n, d)
    scale: Tensor  # c, 0-dim
    t: Tensor  # (n, e), in the dtype of u
    target_scale: Tensor  # f, 0-dim
    half: bool = False


Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # total, rows, entropy, two gradients


class _OwnCall(NamedTuple):
    """The arguments of the operators."""

    u: Tensor
    scale: Tensor
    t: Tensor
    target_scale: Tensor
    weight: Tensor
    half: bool

    def plain(self, u: Tensor, scale: Tensor) -> Tensor:
        """The rows, as what their derivatives are taken of."""
        teachers = self.target_scale * self.t, self.t, None
        return plain_rows((scale * u, u), teachers, self.weight, (None, None), True)


def _shapes(*args: Any) -> Outputs:
    u, grad = args[0], args[-1]
    each = u.new_empty(u.shape[0])
    grad_u, grad_scale = u.new_empty(u.shape if grad else (0,)), u.new_empty(() if grad else (0,))
    return u.new_empty(()), each, torch.empty_like(each), grad_u, grad_scale


def _body(*args: Any) -> Outputs:
    call, grad = _OwnCall(*args[:-1]), args[-1]
    u, scale, t, target_scale, weight, half = call
    _, rows, entropy, grad_u, grad_scale = _shapes(*args)
    weight = weight.to(u.dtype).contiguous()
    if u.is_cuda:
        _on_gpu(call, weight, rows, entropy, grad_u)
    else:
        x, y = multiplied(u, half), multiplied(t, half)
        sizes = x.shape[0], x.shape[1], y.shape[1]
        size = _C.pairwise_soft_self_workspace_size(sizes, CODE[x.dtype], grad)
        _C.pairwise_soft_self(
            (view(x), view(scale)),
            (view(y), view(target_scale)),
            view(weight),
            view(rows),
            view(entropy),
            view(grad_u) if grad else None,
            (view(workspace(u, size)), pair_threads(u, u)),
        )
    if grad:
        # s_ij = c u_i.u_j: sum_i u_i.grad_i counts every pair twice; a sum over all entries at once
        # would depend on the threads
        dots = (u * grad_u).sum(1)
        grad_scale = (0.5 * dots.sum(dtype=torch.float64)).to(u.dtype)
        grad_u.mul_(scale)
    return rows.sum(dtype=torch.float64).to(u.dtype), rows, entropy, grad_u, grad_scale


def _on_gpu(call: _OwnCall, weight: Tensor, rows: Tensor, entropy: Tensor, grad_u: Tensor) -> None:
    """The visit of rows against all columns; the gradient not yet multiplied by the scale."""
    u, scale, t, target_scale, _, half = call
    x, y, b = (as_multiplied(part, half) for part in (u, t, target_scale * t))
    a = as_multiplied(scale * u, half)
    columns = torch.empty_like(grad_u) if grad_u.numel() else None
    sums = None if columns is None else grad_u
    visit(
        (a, x, None),
        (b, y, None),
        weight,
        None,
        (x, x),
        True,
        Visit(rows, entropy, None, sums, columns),
    )
    if columns is not None:
        grad_u += columns


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, _, _ = inputs
    none = output[3].new_empty(0)
    _value_and_grad.save(ctx, tensors, output, (*output[3:], none, none, none))


def _expression(*tensors: Tensor) -> Tensor:
    call = _OwnCall._make((*tensors, False))
    return call.plain(call.u, call.scale).sum()


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), None, None


_ARGS = "Tensor u, Tensor scale, Tensor t, Tensor target_scale, Tensor weight, bool half"
_soft_self = register_op(
    f"pairwise_soft_self({_ARGS}, bool grad) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def _rows_shapes(*args: Any) -> tuple[Tensor, Tensor]:
    return _shapes(*args, False)[1:3]


def _rows_body(*args: Any) -> tuple[Tensor, Tensor]:
    return _body(*args, False)[1:3]


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.half = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    call = _OwnCall._make((*ctx.saved_tensors, ctx.half))
    none = (None,) * 4
    if torch.is_grad_enabled():
        return *through_composition(call.plain, call[:2], [grad]), *none
    *_, grad_u, grad_scale = _soft_self(
        *call._replace(weight=call.weight.to(grad.dtype) * grad), True
    )
    need_u, need_scale = ctx.needs_input_grad[:2]
    return grad_u if need_u else None, grad_scale if need_scale else None, *none


_rows = register_op(
    f"pairwise_soft_self_rows({_ARGS}) -> (Tensor, Tensor)",
    cpu=_rows_body,
    cuda=_rows_body,
    fake=_rows_shapes,
    backward=_rows_backward,
    setup=_rows_setup,
)


def _arguments(sides: OwnSides, weight: Tensor) -> tuple[Any, ...]:
    u, scale, t, target_scale, half = sides
    return u, scale, t.detach(), target_scale.detach(), weight.detach(), half


def soft_self_total(sides: OwnSides, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the rows, and the entropies of the targets (n,).

    Args:
        sides: float32 or float64; u and scale have gradients.
        weight: (n,).
    """
    grad = _value_and_grad.wanted(sides.u) or _value_and_grad.wanted(sides.scale)
    total, _, entropy, _, _ = _soft_self(*_arguments(sides, weight), grad)
    return total, entropy


def soft_self_rows(sides: OwnSides, weight: Tensor) -> tuple[Tensor, Tensor]:
    """The rows (n,) and the entropies of the targets (n,); arguments as above. The backward pass
    goes through all pairs again.
    """
    rows, entropy = _rows(*_arguments(sides, weight))
    return rows, entropy
