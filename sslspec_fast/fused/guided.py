r"""Softmax rows of a batch whose negatives a guide selects, with the gradient in the same call.

.. math::
    L = \sum_i w_i \log(1 + e^{a_i - p_i}), \quad
    a_i = \log \sum_{(s, t)} \sum_{j:\ g_{s,i} \cdot g_{t,j} \le \phi_i}
        e^{c\, x_{s,i} \cdot x_{t,j}},

x the queries, keys and further negatives, g their embeddings by the guide, (s, t) the directions.
Neither i == j of a side with itself nor a query and its key are among the pairs. Where keys look at
queries, p is one more term of the sum.

All directions are one visit of the pairs: a product serves both of its rows, and those that fit
into the memory for kept products (docs/kernels.md) are made once for value and gradient. Memory
O((n + m) (d + e)). On a GPU, and for rows multiplied in bfloat16, the loss is the composition.
"""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .._register import grouping, register_op
from .._seam import _C, CODE, rounds, threads, unit_stride, view, workspace
from ..primitives import _value_and_grad
from ..primitives.pairwise import LeftOut, lse_below
from ..primitives.pairwise.common import inner, logaddexp
from ..primitives.pairwise.filtered import Bound

__all__ = ["DIRECTIONS", "Side", "fits", "guided_total"]

# name -> (bit, rows, columns), the numbers of the sides
DIRECTIONS = {
    "query_to_key": (1, 0, 1),
    "query_to_query": (2, 0, 0),
    "key_to_key": (4, 1, 1),
    "key_to_query": (8, 1, 0),
}


class Side(NamedTuple):
    """Rows of a part of the batch, (n, d), and what a guide has in their place, (n, e)."""

    x: Tensor
    guide: Tensor


class _Batch(NamedTuple):
    query: Tensor
    key: Tensor
    negatives: Tensor | None
    by_query: Tensor
    by_key: Tensor
    by_negatives: Tensor | None
    bound: Tensor
    scale: Tensor
    positive: Tensor
    weight: Tensor

    def sides(self) -> list[Side]:
        both = [Side(self.query, self.by_query), Side(self.key, self.by_key)]
        if self.negatives is not None and self.by_negatives is not None:
            both.append(Side(self.negatives, self.by_negatives))
        return both


_of_batch = grouping(10, _Batch._make)


class _Outputs(NamedTuple):
    total: Tensor
    rows: Tensor
    query: Tensor  # gradients, empty where none is requested
    key: Tensor
    negatives: Tensor
    scale: Tensor
    positive: Tensor


@_of_batch
def _shapes(x: _Batch, directions: int, *wanted: bool) -> _Outputs:
    def grad(of: Tensor | None, one: bool) -> Tensor:
        return x.query.new_empty((0,) if of is None or not one else of.shape)

    query, key, negatives, scale = map(grad, (*x[:3], x.scale), wanted)
    rows, positive = torch.empty_like(x.positive), torch.empty_like(x.positive)
    return _Outputs(x.query.new_empty(()), rows, query, key, negatives, scale, positive)


@_of_batch
def _body(x: _Batch, directions: int, *wanted: bool) -> _Outputs:
    out, sides = _shapes(*x, directions, *wanted), x.sides()
    grads = [g if one else None for g, one in zip(out[2:5], wanted, strict=False)][: len(sides)]
    if wanted[3]:  # the gradient of the scale is made of all those of the rows
        grads = [
            side.x.new_empty(side.x.shape) if g is None else g
            for side, g in zip(sides, grads, strict=True)
        ]
    given = [Side(unit_stride(rows), unit_stride(by)) for rows, by in sides]
    bound, positive, weight = (t.contiguous() for t in (x.bound, x.positive, x.weight))
    (n, d), width = x.query.shape, x.by_query.shape[1]
    more = 0 if x.negatives is None else x.negatives.shape[0]
    size = _C.guided_workspace_size((n, more, d, width), CODE[x.query.dtype], any(wanted))
    work = workspace(x.query, size)
    _C.guided(
        [view(side.x) for side in given],
        [view(side.guide) for side in given],
        (view(x.scale), view(bound), view(positive), view(weight), directions),
        view(out.rows),
        view(out.positive),
        [view(g) for g in grads],
        (view(work), threads(n * (2.0 * n + more) * (4.0 * d + width))),
    )
    if wanted[3]:
        # each W_ij x_i . x_j is in the gradients of both of its rows
        pairs = zip(given, grads, strict=True)
        twice = sum(inner(side.x, g).double() for side, g in pairs if g is not None)
        out = out._replace(scale=(twice / (2 * x.scale.double())).to(x.scale.dtype))
    return out._replace(total=inner(out.rows.double(), x.weight.double()).to(out.rows.dtype))


def _expression(*tensors: Any, directions: int) -> Tensor:
    x = _Batch._make(tensors)
    sides, parts = x.sides(), []
    chosen = [pair for bit, *pair in DIRECTIONS.values() if directions & bit]
    for s, t in [*chosen, *[(0, 2)] * (len(sides) - 2)]:
        (a, g), (b, h) = sides[s], sides[t]
        found = lse_below(a, b, x.scale, None, LeftOut(self_pairs=t < 2), Bound(g, h, x.bound))
        parts.append(logaddexp(found, x.positive) if (s, t) == (1, 0) else found)
    return (-F.logsigmoid(x.positive - reduce(logaddexp, parts)) * x.weight).sum()


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    out = _Outputs._make(output)
    of_guide = None, None, None, None  # and of its bound
    # the rows are the gradient of the weights
    grads = (out.query, out.key, out.negatives, *of_guide, out.scale, out.positive, out.rows)
    _value_and_grad.save(ctx, inputs[:10], output, grads, directions=inputs[10])


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), *(None,) * 5


_guided = register_op(
    "guided_total(Tensor query, Tensor key, Tensor? negatives, Tensor by_query, Tensor by_key,"
    " Tensor? by_negatives, Tensor bound, Tensor scale, Tensor positive, Tensor weight,"
    " int directions, bool grad_query, bool grad_key, bool grad_negatives, bool grad_scale)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=lambda *args: tuple(_body(*args)),
    cuda=None,
    fake=lambda *args: tuple(_shapes(*args)),
    backward=_backward,
    setup=_setup,
)


def fits(x: Tensor, guide: Tensor, scale: Tensor, half: bool) -> bool:
    """Whether `guided_total` takes them; half as in `lse`."""
    plain = not x.is_cuda and scale.dim() == 0 and not rounds(half, x.dtype)
    return plain and x.dtype == guide.dtype


def guided_total(
    sides: list[Side],
    directions: tuple[str, ...],
    bound: Tensor,
    scale: Tensor,
    positive: Tensor,
    weight: Tensor,
) -> Tensor:
    """``sum_i weight_i softplus(a_i - positive_i)``, () in the dtype of the rows.

    Args:
        sides: queries and keys, n rows each, and perhaps further negatives of the queries; float32
            or float64 on a CPU, guides in that dtype.
        directions: keys of `DIRECTIONS`.
        bound: (n,) what the guide's products of the negatives of a row may be.
        scale: ().
        positive, weight: (n,).

    All but the guide and its bound receive gradients. A row without any pair adds 0.
    """
    query, key, *rest = sides
    more = rest[0] if rest else (None, None)
    bits = sum(DIRECTIONS[name][0] for name in directions)
    wanted = [_value_and_grad.wanted(x) for x in (query.x, key.x, more[0], scale)]
    rows = (query.x, key.x, more[0], query.guide, key.guide, more[1])
    total: Tensor = _guided(*rows, bound, scale, positive, weight, bits, *wanted)[0]
    return total
