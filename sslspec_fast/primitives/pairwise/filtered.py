r"""Log-sum-exp of `pairwise` over the pairs that are not too similar.

.. math::
    r_i = \log \sum_{j:\ a_i \cdot b_j \le \theta_i} e^{c_i\, a_i \cdot b_j} .

The pairs above the threshold are found by blocks of rows and left out as a pattern, in the forward
and again in the backward pass: memory O((n + m) d), one block of products, and two numbers a pair
that is left out. Which pairs those are has no gradient. On a GPU the host waits for their number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from . import softmax
from .common import ALL_PAIRS, LOGITS, LeftOut, Logits, of_logits

__all__ = ["lse_below", "pairs_above"]

_BLOCK_ELEMENTS = 1 << 22  # products in flight


def pairs_above(a: Tensor, b: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """CSR pattern (indptr, indices), int64, of the pairs with ``a_i . b_j > threshold_i``."""
    n, wide = a.shape[0], computed_dtype(a)
    limit, columns = threshold.expand(n)[:, None], b.detach().to(wide).T
    step = max(1, _BLOCK_ELEMENTS // max(1, b.shape[0]))
    counts, indices = [a.new_zeros(1, dtype=torch.int64)], [a.new_zeros(0, dtype=torch.int64)]
    for first in range(0, n, step):
        rows = slice(first, first + step)
        above = a[rows].detach().to(wide) @ columns > limit[rows]
        counts.append(above.sum(1))
        indices.append(above.nonzero()[:, 1])
    return torch.cat(counts).cumsum(0), torch.cat(indices)


@of_logits
def _shapes(x: Logits, threshold: Tensor) -> Tensor:
    return x.a.new_empty(x.a.shape[0], dtype=computed_dtype(x.a))


def _without_above(x: Logits, threshold: Tensor) -> LeftOut:
    assert x.b is not None
    indptr, indices = pairs_above(x.a, x.b, threshold)
    return x.left_out._replace(indptr=indptr, indices=indices)


@of_logits
def _body(x: Logits, threshold: Tensor) -> Tensor:
    assert x.b is not None
    return softmax.lse(x.a, x.b, x.scale, _without_above(x, threshold))[0]


@of_logits
def _bwd_shapes(
    x: Logits, threshold: Tensor, row: Tensor, grad: Tensor, want_b: bool
) -> tuple[Tensor, Tensor, Tensor]:
    assert x.b is not None
    grad_b = x.b.new_empty(x.b.shape if want_b else (0,))
    return x.a.new_empty(x.a.shape), grad_b, x.scale.new_empty(x.scale.shape)


@of_logits
def _bwd_body(
    x: Logits, threshold: Tensor, row: Tensor, grad: Tensor, want_b: bool
) -> tuple[Tensor, Tensor, Tensor]:
    flat = x.a, x.b, x.scale, *_without_above(x, threshold)
    none = row.new_empty(0)
    out: tuple[Tensor, Tensor, Tensor] = softmax.lse_bwd(
        *flat, False, False, row, none, grad, none, want_b, None
    )
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.skip_self, threshold = inputs
    ctx.save_for_backward(*tensors, threshold, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, threshold, row = ctx.saved_tensors
    want_b = ctx.needs_input_grad[1]
    # under create_graph=True the parts, whose own backward is differentiable
    backward: Any = _bwd_body if torch.is_grad_enabled() else _lse_below_bwd
    g_a, g_b, g_scale = backward(*tensors, ctx.skip_self, threshold, row, grad, want_b)
    return g_a, g_b if want_b else None, g_scale, *(None,) * 6


_lse_below_bwd = register_op(
    f"pairwise_lse_below_bwd({LOGITS}, Tensor threshold, Tensor row, Tensor grad, bool want_b)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_lse_below = register_op(
    f"pairwise_lse_below({LOGITS}, Tensor threshold) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def lse_below(
    a: Tensor, b: Tensor, scale: Tensor, threshold: Tensor, left_out: LeftOut = ALL_PAIRS
) -> Tensor:
    """``log sum_j exp(scale_i a_i . b_j)`` over the pairs with ``a_i . b_j <= threshold_i``.

    threshold: 0-dim or (n,), in the dtype that is computed in, a constant; the other arguments as
    in `softmax.lse`, without a pattern. Returns (n,); a row without any pair gives ``-inf`` and no
    gradient.
    """
    if left_out.indptr is not None:
        raise ValueError("pairwise.lse_below: left_out must be without a pattern, got indptr")
    out: Tensor = _lse_below(a, b, scale, *left_out, threshold)
    return out
