r"""SigLIP of rows that are spread over ranks.

The columns of all ranks are gathered, a piece at a time. For a mean or a sum the weight of a row is
known beforehand, so that one visit of a piece makes its part of the value and of every gradient;
the gradient of the columns is sent to their owners: 6 (8) n_r N d operations on rank r.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ... import _checks as check
from ..._dtypes import as_multiplied
from ...primitives.pairwise import LeftOut
from ...primitives.pairwise.blocks import softplus_block
from ...primitives.pairwise.common import ALL_PAIRS, inner
from ...ranks import Ranks, replicated, sum_to_rows, sum_to_value
from ...ranks.differentiable import scatter_sum
from ...ranks.pieces import Piece, gathered_pieces, pieces_of
from ...ranks.value_and_grad import refuse_second_derivative
from ._agreed import scale_given
from ._form import ROWS, SCALE, Form, Given, Problem, Result
from ._reduce import check_weight, reduce_rows

Block = tuple[slice, slice, LeftOut]  # rows of this rank, columns of a piece, what does not count
Blocks = Callable[[Tensor, Tensor, Piece], Iterable[Block]]  # of the rows and the columns


class Negatives(NamedTuple):
    """The rows of all ranks as columns; blocks: which pairs with those of a piece are negatives.

    half: the rows are multiplied in bfloat16 where the device does, and sent so.
    """

    ranks: Ranks
    half: bool
    blocks: Blocks


def _others(left: Tensor, right: Tensor, piece: Piece) -> Iterator[Block]:
    """All pairs but those of a row with itself."""
    everything = slice(None)
    start, stop = piece.ranks.here.start, piece.ranks.here.stop
    yield everything, slice(0, start), ALL_PAIRS
    yield piece.own, slice(start, stop), LeftOut(self_pairs=True)
    yield slice(0, piece.own.start), slice(start, stop), ALL_PAIRS
    yield slice(piece.own.stop, None), slice(start, stop), ALL_PAIRS
    yield everything, slice(stop, None), ALL_PAIRS


class _Softplus(torch.autograd.Function):
    """(n_r,) sums over the negatives of softplus(scale_i a_i . b_j + bias), and with it the
    gradients of the sum of weight_i of them.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        weight: Tensor,
        negatives: Negatives,
    ) -> Tensor:
        ctx.negatives = negatives
        ctx.save_for_backward(a, b, scale, bias)
        return _visit(a, b, scale, bias, weight, negatives, False)[0]

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        a, b, scale, bias = ctx.saved_tensors
        want_b = ctx.needs_input_grad[1]
        _, grads = _visit(a, b, scale, bias, grad.contiguous(), ctx.negatives, want_b)
        return (*grads, None, None)


class _SoftplusTotal(torch.autograd.Function):
    """The weighted sum of this rank's rows, with its gradient made in the same visit. Its factor
    from above is the same on all ranks, as that of a sum to a replicated value.
    """

    @staticmethod
    def forward(
        ctx: Any,
        a: Tensor,
        b: Tensor,
        scale: Tensor,
        bias: Tensor,
        weight: Tensor,
        negatives: Negatives,
    ) -> Tensor:
        want_b = ctx.needs_input_grad[1]
        rows, grads = _visit(a, b, scale, bias, weight, negatives, want_b)
        ctx.save_for_backward(*grads, rows)
        return inner(rows.double(), weight.double()).to(rows.dtype)

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if x is None else x * grad for x in ctx.saved_tensors), None)


def _visit(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight: Tensor,
    negatives: Negatives,
    want_b: bool,
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """The rows, and the gradients of a, b, scale and bias for the given weights of the rows."""
    ranks, half, blocks = negatives
    sent = b.bfloat16() if half else b
    rows, grad_a = a.new_zeros(a.shape[0]), torch.zeros_like(a)
    grad_b = torch.empty_like(b) if want_b else None
    grad_scale, grad_bias = torch.zeros_like(scale), torch.zeros_like(bias)
    left = as_multiplied(a, half)
    for piece, every in gathered_pieces(sent, pieces_of(ranks, b.shape[1] * 8)):
        right = as_multiplied(every, half)
        of_columns = torch.zeros_like(right, dtype=b.dtype) if want_b else None
        for here, there, left_out in blocks(left, right, piece):
            c = scale[here] if scale.dim() else scale
            found, grads, of_bias = softplus_block(
                left[here], right[there], c, bias, weight[here], left_out, want_b=want_b, half=half
            )
            rows[here] += found
            grad_a[here] += grads.a
            if scale.dim():
                grad_scale[here] += grads.scale
            else:
                grad_scale += grads.scale
            grad_bias += of_bias
            if of_columns is not None:
                of_columns[there] += grads.b
        if grad_b is not None and of_columns is not None:
            grad_b[piece.own] = scatter_sum(of_columns, piece.ranks)
    return rows, (grad_a, grad_b, grad_scale, grad_bias)


def check_pairs(
    op: str,
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    sample_weight: Tensor | None,
) -> dict[str, Tensor | None]:
    check.pair(op, ("image", "text"), image, text, min_rows=0)
    n = image.shape[0]
    return {
        "image": image,
        "text": text,
        "logit_scale": scale_given(op, "logit_scale", logit_scale, image),
        "logit_bias": check.real(op, "logit_bias", logit_bias, image),
        "sample_weight": check.sample_weight(op, sample_weight, image, n, "sum"),
    }


def _check_siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    return Given(check_pairs("siglip", image, text, logit_scale, logit_bias, sample_weight), {})


def scale_and_bias(p: Problem) -> tuple[Tensor, Tensor]:
    """With the gradient of what every rank has a copy of; a scale per row is that of the rank."""
    scale, bias = p.rows("logit_scale"), p.rows("logit_bias")
    if scale.dim():
        return scale, replicated(p.ranks, bias)[0]
    scale, bias = replicated(p.ranks, scale, bias)
    return scale, bias


def with_negatives(
    p: Problem, scale: Tensor, bias: Tensor, positive: Tensor, blocks: Blocks
) -> Result:
    """The loss, given the terms (n_r,) of the positives of each row and what its negatives are."""
    weight, ranks = p.tensors["sample_weight"], p.ranks
    x, y, negatives = p.rows("image"), p.rows("text"), Negatives(ranks, p.half, blocks)
    if p.reduction == "none":
        rows = _Softplus.apply(x, y, scale, bias, torch.ones_like(positive), negatives)
        loss = reduce_rows(p, rows + positive, weight)
    else:
        row_weight = torch.ones_like(positive) if weight is None else weight
        if p.reduction == "mean":
            of_all = ranks.n if weight is None else sum_to_rows(row_weight.sum(), ranks)
            row_weight = row_weight / of_all
        part = _SoftplusTotal.apply(x, y, scale, bias, row_weight, negatives)
        loss = sum_to_value(part, ranks) + reduce_rows(p, positive, weight)
    if not p.wants_terms:
        return loss, ()
    with torch.no_grad():
        on = reduce_rows(p, positive.detach(), weight)
    return loss, (on, loss.detach() - on)


def _siglip(p: Problem) -> Result:
    check_weight(p, p.tensors["sample_weight"])
    scale, bias = scale_and_bias(p)
    positive = -F.logsigmoid((p.rows("image") * p.rows("text")).sum(1) * scale + bias)
    return with_negatives(p, scale, bias, positive, _others)


PAIRS_OF_SIGLIP = {
    "image": ROWS,
    "text": ROWS,
    "logit_scale": SCALE,
    "logit_bias": SCALE,
    "sample_weight": ROWS,
}
SIGLIP = Form(
    "siglip",
    PAIRS_OF_SIGLIP,
    (),
    _check_siglip,
    _siglip,
    terms=("positive", "negative"),
)
