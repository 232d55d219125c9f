r"""Blocks of a larger matrix of logits: statistics of a block, gradients under those of the whole.

For rows a and columns b of the block, :math:`s_{ij} = c_i\, a_i \cdot b_j`, and statistics r, q of
whole rows and columns of which the block is a part,

.. math::
    W_{ij} = \bar r_i e^{s_{ij} - r_i} + \bar q_j e^{s_{ij} - q_j},

and the block's part of the gradients is :math:`\bar a_i = c_i \sum_j W_{ij} b_j`,
:math:`\bar b_j = \sum_i W_{ij} c_i a_i`, :math:`\bar c_i = a_i \cdot \sum_j W_{ij} b_j`. Nothing
here is differentiable: these are the steps of an operator that sees one block after the other.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from . import cuda, sigmoid, softmax, value_and_grad
from .common import ALL_PAIRS, LeftOut, Logits

__all__ = ["Gradients", "lse_block", "lse_block_gradients", "softplus_block"]


class Gradients(NamedTuple):
    """Gradients of a and b in float32 (float64), b's empty where it is not wanted; of the scale."""

    a: Tensor
    b: Tensor
    scale: Tensor


def _rows(x: Logits) -> tuple[Tensor, Tensor, Tensor]:
    assert x.b is not None
    return x.a, x.b, x.scale


def lse_block(logits: Logits, *, cols: bool, half: bool) -> tuple[Tensor, Tensor]:
    """(n,) and (m,) log-sum-exps of the rows and, if asked, of the columns of a block.

    Args:
        logits: of the block, with a b; a and b may have any length, 0 included.
        half: as in `pairwise.lse`.
    """
    a, b, scale = _rows(logits)
    if a.shape[0] and b.shape[0]:
        half = half and not a.is_cuda
        return softmax.lse(a, b, scale, logits.left_out, cols=cols, half=half)
    kind = computed_dtype(a)
    row = a.new_full(a.shape[:1], -torch.inf, dtype=kind)
    return row, a.new_full((b.shape[0] if cols else 0,), -torch.inf, dtype=kind)


def lse_block_gradients(
    logits: Logits,
    row: tuple[Tensor, Tensor],
    col: tuple[Tensor, Tensor] | None,
    *,
    want_b: bool,
    half: bool,
) -> Gradients:
    """The part of the gradients that the block adds.

    Args:
        row, col: (statistics, their gradients) of the whole rows and columns; None for no columns.
        The others: as in `lse_block`.
    """
    a, b, scale = _rows(logits)
    kind = computed_dtype(a)
    if not (a.shape[0] and b.shape[0]):
        grad_b = b.new_zeros(b.shape if want_b else (0,), dtype=kind)
        return Gradients(torch.zeros_like(a, dtype=kind), grad_b, torch.zeros_like(scale))
    if a.is_cuda:
        q, grad_q = (None, None) if col is None else col
        g_a, g_b, by_row, _ = cuda.backward(
            logits, (row[0], q), (row[1], grad_q), grad_dtype=kind, want_b=want_b
        )
        g_scale = by_row if scale.ndim else by_row.sum()
        return Gradients(g_a, b.new_empty(0) if g_b is None else g_b, g_scale.to(scale.dtype))
    none = a.new_empty(0)
    q, grad_q = (none, none) if col is None else col
    flat = a, b, scale, *logits.left_out, col is not None, half
    return Gradients(*softmax.lse_bwd(*flat, row[0], q, row[1], grad_q, want_b, None))


def softplus_block(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    bias: Tensor,
    weight: Tensor,
    left_out: LeftOut = ALL_PAIRS,
    *,
    want_b: bool,
    half: bool = False,
) -> tuple[Tensor, Gradients, Tensor]:
    """``r_i = sum_j softplus(scale_i a_i . b_j + bias)``, and the gradients of sum_i weight_i r_i.

    Args:
        a, b: (n, d) and (m, d), of any length, 0 included.
        scale: 0-dim or (n,); bias: 0-dim; weight: (n,).
        left_out: pairs that do not count.
        half: as in `pairwise.lse`.

    Returns:
        r (n,); the gradients of a, b and scale; that of the bias.
    """
    kind = computed_dtype(a)
    if not (a.shape[0] and b.shape[0]):
        grad_b = b.new_zeros(b.shape if want_b else (0,), dtype=kind)
        grads = Gradients(torch.zeros_like(a, dtype=kind), grad_b, torch.zeros_like(scale))
        return a.new_zeros(a.shape[:1], dtype=kind), grads, torch.zeros_like(bias)
    if a.is_cuda:
        rows = sigmoid.softplus(a, b, scale, bias, left_out)
        logits = Logits(a, b, scale, left_out, bias)
        g_a, g_b, by_row, of_bias = cuda.backward(
            logits, (None, None), (weight, None), grad_dtype=kind, want_b=want_b
        )
        g_scale = (by_row if scale.ndim else by_row.sum()).to(scale.dtype)
        grads = Gradients(g_a, b.new_empty(0) if g_b is None else g_b, g_scale)
        return rows, grads, of_bias.sum().to(bias.dtype)
    _, rows, g_a, g_b, g_scale, g_bias = value_and_grad._softplus(
        a, b, scale, bias, weight, *left_out, half, want_b
    )
    return rows, Gradients(g_a, g_b, g_scale), g_bias
