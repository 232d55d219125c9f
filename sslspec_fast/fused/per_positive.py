r"""A softmax for every positive pair of a graph of classes, from the rows to the loss in one call.

.. math::
    L = \sum_i w_i \sum_j G_{ij} \log(1 + e^{a_i - s_{ij}}), \qquad
    a_i = \log \sum_{k:\ c_k \ne c_i} e^{s_{ik}}, \quad s_{ij} = c\, u_i \cdot u_j.

Formulas of the gradient: csrc/fused/per_positive.h. The pairs of other classes are visited as in
`pairwise.lse_self`; between value and gradient the statistics of a row give its losses and the
weights of its gradient, so both come from one call, and their products are kept where there is
room. On a CPU, in float32 and float64.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .._register import grouping, register_op
from .._seam import _C, rounds, unit_stride, view
from ..primitives import _value_and_grad
from ..primitives.pairwise import lse_self
from ..primitives.pairwise.common import inner, pair_threads, pair_workspace
from ..primitives.sparse.csr import Csr
from ..primitives.sparse.edge_softplus import edge_softplus

__all__ = ["fits", "per_positive_total"]

Outputs = tuple[Tensor, Tensor, Tensor, Tensor]  # total, rows, gradients of u and the scale


class _Classes(NamedTuple):
    u: Tensor
    scale: Tensor
    weight: Tensor
    ids: Tensor
    indptr: Tensor
    indices: Tensor
    values: Tensor | None

    def positives(self) -> Csr:
        return Csr(self.indptr, self.indices, self.values, self.u.shape[0], symmetric=True)


_of_classes = grouping(7, _Classes._make)


@_of_classes
def _shapes(x: _Classes, grad_u: bool, grad_scale: bool) -> Outputs:
    u, scale = x.u, x.scale
    return (
        u.new_empty(()),
        u.new_empty(u.shape[0]),
        u.new_empty(u.shape if grad_u else (0,)),
        scale.new_empty(scale.shape if grad_scale else (0,)),
    )


@_of_classes
def _body(x: _Classes, grad_u: bool, grad_scale: bool) -> Outputs:
    _, rows, of_u, of_scale = _shapes(*x, grad_u, grad_scale)
    u, n = unit_stride(x.u), x.u.shape[0]
    backward = grad_u or grad_scale
    grad = of_u if grad_u else u.new_empty(u.shape if backward else (0,))
    _C.per_positive(
        (view(u), view(x.scale), view(x.ids)),
        x.positives().view(),
        view(x.weight.contiguous()),
        (view(u.new_empty(n)), view(u.new_empty(n))),
        view(rows),
        view(grad) if backward else None,
        (view(pair_workspace(u, None, backward=backward)), pair_threads(u, u)),
    )
    if grad_scale:
        # s_ij = c u_i . u_j is in the gradients of both of its rows
        of_scale = 0.5 * inner(u, grad) / x.scale
    return inner(rows.double(), x.weight.double()).to(rows.dtype), rows, of_u, of_scale


def _expression(*tensors: Any) -> Tensor:
    x = _Classes._make(tensors)
    lse = lse_self(x.u, x.scale, x.ids)
    rows = edge_softplus(x.positives(), x.u * x.scale, x.u, -lse, targets=False)
    return (rows * x.weight).sum()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, rows, grad_u, grad_scale = output  # the rows are the gradient of the weights
    grads = (grad_u, grad_scale, rows, None, None, None, None)
    _value_and_grad.save(ctx, inputs[:7], output, grads)


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), None, None


_per_positive = register_op(
    "per_positive_total(Tensor u, Tensor scale, Tensor weight, Tensor ids, Tensor indptr,"
    " Tensor indices, Tensor? values, bool grad_u, bool grad_scale)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=None,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def fits(u: Tensor, scale: Tensor, half: bool) -> bool:
    """Whether `per_positive_total` takes them; half as in `pairwise.lse`."""
    return not u.is_cuda and scale.dim() == 0 and not rounds(half, u.dtype)


def per_positive_total(
    u: Tensor, scale: Tensor, weight: Tensor, ids: Tensor, positives: Csr
) -> Tensor:
    """``sum_i weight_i sum_j g_ij log(1 + exp(a_i - scale u_i . u_j))``, () in the dtype of u.

    Args:
        u: (n, d) float32 or float64 on a CPU. scale: (), weight: (n,). All receive gradients.
        ids: (n,) int32, equal for the rows of a class: a_i is over the others.
        positives: (n, n) symmetric, without a diagonal; values g >= 0.

    Rows without a row of another class add 0.
    """
    wanted = _value_and_grad.wanted
    arrays = positives.arrays()
    total: Tensor = _per_positive(u, scale, weight, ids, *arrays, wanted(u), wanted(scale))[0]
    return total
