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

__all__ = ["lse_below", "pairs_above"]

_BLOCK_ELEMENTS = 1 << 22  # products in flight


def pairs_above(a: Tensor, b: Tensor, threshold: Tensor) -> tuple[Tensor, Tensor]:
    """CSR pattern (indptr, indices), int64, of the pairs with ``a_i . b_j > threshold_i``."""
    n, wide = a.shape[0], computed_dtype(a)
    limit, columns = threshold.expand(n)[:, None], b.detach().to(wide).T
    step = max(1, _BLOCK_ELEMENTS // max(1, b.shape[0]))
    counts, indices = [a.new_zeros(1, dtype=torch.int64)], []
    for first in range(0, n, step):
        rows = slice(first, first + step)
        above = a[rows].detach().to(wide) @ columns > limit[rows]
        counts.append(above.sum(1))
        indices.append(above.nonzero()[:, 1])
    return torch.cat(counts).cumsum(0), torch.cat(indices)


_ARGS = (
    "Tensor a, Tensor b, Tensor scale, Tensor threshold, Tensor? ids_a, Tensor? ids_b, "
    "bool skip_self"
)


def _shapes(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_self: bool,
) -> Tensor:
    return a.new_empty(a.shape[0], dtype=computed_dtype(a))


def _body(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_self: bool,
) -> Tensor:
    skip = pairs_above(a, b, threshold)
    return softmax.lse(a, b, scale, ids_a=ids_a, ids_b=ids_b, skip=skip, skip_self=skip_self)[0]


def _bwd_shapes(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_self: bool,
    row: Tensor,
    grad: Tensor,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_b = b.new_empty(b.shape if want_b else (0,))
    return a.new_empty(a.shape), grad_b, scale.new_empty(scale.shape)


def _bwd_body(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor,
    ids_a: Tensor | None,
    ids_b: Tensor | None,
    skip_self: bool,
    row: Tensor,
    grad: Tensor,
    want_b: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    indptr, indices = pairs_above(a, b, threshold)
    none = row.new_empty(0)
    out: tuple[Tensor, Tensor, Tensor] = softmax.lse_bwd(
        a,
        b,
        scale,
        ids_a,
        ids_b,
        indptr,
        indices,
        skip_self,
        False,
        False,
        row,
        none,
        grad,
        none,
        want_b,
    )
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.skip_self = inputs
    ctx.save_for_backward(*tensors, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    saved, want_b = ctx.saved_tensors, ctx.needs_input_grad[1]
    # under create_graph=True the parts, whose own backward is differentiable
    backward: Any = _bwd_body if torch.is_grad_enabled() else _lse_below_bwd
    g_a, g_b, g_scale = backward(*saved[:-1], ctx.skip_self, saved[-1], grad, want_b)
    return g_a, g_b if want_b else None, g_scale, None, None, None, None


_lse_below_bwd = register_op(
    f"pairwise_lse_below_bwd({_ARGS}, Tensor row, Tensor grad, bool want_b)"
    " -> (Tensor, Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_lse_below = register_op(
    f"pairwise_lse_below({_ARGS}) -> Tensor",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def lse_below(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor,
    *,
    ids_a: Tensor | None = None,
    ids_b: Tensor | None = None,
    skip_self: bool = False,
) -> Tensor:
    """``log sum_j exp(scale_i a_i . b_j)`` over the pairs with ``a_i . b_j <= threshold_i``.

    threshold: 0-dim or (n,), in the dtype that is computed in, a constant; the other arguments as
    in `softmax.lse`. Returns (n,); a row without any pair gives ``-inf`` and no gradient.
    """
    out: Tensor = _lse_below(a, b, scale, threshold, ids_a, ids_b, skip_self)
    return out
