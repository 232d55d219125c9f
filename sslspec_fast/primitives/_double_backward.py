"""Second derivatives of the pairwise statistics, by plain torch on blocks of rows.

The backward operators are sums over rows of terms that see one block of logits at a time. Their own
gradient, which a double backward asks for, is taken by autograd through that plain-torch form, a
block of rows at a time: memory stays O(n d) plus one block. Third derivatives raise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["row_blocks_vjp", "softmax_weights", "through_composition"]

# logits in flight: 32 MiB in float64, a few times that with autograd's copies
_BLOCK_ELEMENTS = 1 << 22

BlockLoss = Callable[..., Tensor]


def through_composition(
    compose: Callable[..., Tensor | Sequence[Tensor]],
    inputs: Sequence[Tensor | None],
    grads: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """Gradients of ``compose(*inputs)``, themselves differentiable: for a backward under
    create_graph=True. None for an input that needs none.

    These are partial derivatives, so the inputs are aliased first: one may be a function of another
    (two views and a predictor), or the same tensor, and autograd would follow that path too.
    """
    aliases = [None if t is None else t.view_as(t) for t in inputs]
    leaves = [t for t in aliases if t is not None and t.requires_grad]
    values = compose(*aliases)
    values = [values] if isinstance(values, Tensor) else values
    kept = [(v, g) for v, g in zip(values, grads, strict=False) if v.requires_grad]
    if not kept:
        return (None,) * len(aliases)
    outputs, factors = zip(*kept, strict=True)
    parts = iter(torch.autograd.grad(outputs, leaves, factors, create_graph=True))
    return tuple(next(parts) if t is not None and t.requires_grad else None for t in aliases)


def row_blocks_vjp(
    block_loss: BlockLoss, n_rows: int, n_cols: int, *tensors: Tensor
) -> tuple[Tensor, ...]:
    """Gradients of the sum of ``block_loss(rows, *tensors)`` over row blocks, in every tensor."""
    grads: tuple[Tensor, ...] = _RowBlocks.apply(block_loss, n_rows, n_cols, *tensors)
    return grads


class _RowBlocks(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, block_loss: BlockLoss, n_rows: int, n_cols: int, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        total = [torch.zeros_like(t) for t in tensors]
        step = max(1, _BLOCK_ELEMENTS // max(1, n_cols))
        for start in range(0, n_rows, step):
            rows = slice(start, min(n_rows, start + step))
            with torch.enable_grad():
                leaves = [t.detach().requires_grad_() for t in tensors]
                loss = block_loss(rows, *leaves)
                parts = torch.autograd.grad(loss, leaves, allow_unused=True)
            for sum_, part in zip(total, parts, strict=True):
                if part is not None:
                    sum_ += part
        return tuple(total)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise NotImplementedError("pairwise: third derivatives are not supported")


def softmax_weights(
    rows: slice,
    logits: Tensor,
    left_out: Tensor,
    row: Tensor,
    grad_row: Tensor,
    col: Tensor | None,
    grad_col: Tensor | None,
) -> Tensor:
    """W_ij = grad_row_i exp(s_ij - row_i) + grad_col_j exp(s_ij - col_j) for a block of rows."""

    def part(lse: Tensor, grad: Tensor) -> Tensor:
        seen = ~left_out & ~torch.isneginf(lse)
        # masked before exp: 0 * inf would be NaN in the gradient
        return torch.where(seen, torch.where(seen, logits - lse, 0.0).exp() * grad, 0.0)

    w = part(row[rows, None], grad_row[rows, None])
    return w if col is None or grad_col is None else w + part(col, grad_col)
