"""A loss whose value and gradients are made together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ....ranks import Ranks
from ....ranks.value_and_grad import refuse_second_derivative

__all__ = ["ValueAndGradients"]


class ValueAndGradients(torch.autograd.Function):
    """A loss, its terms, and the gradients of the rows of this rank that were made with them."""

    @staticmethod
    def forward(
        ctx: Any, make: Callable[..., Any], ranks: Ranks, *rows: Tensor
    ) -> tuple[Tensor, Tensor]:
        loss, terms, grads = make(*rows)
        ctx.size = ranks.size
        ctx.save_for_backward(*grads)
        kind = rows[0].dtype
        terms = torch.stack(terms).to(kind)
        ctx.mark_non_differentiable(terms)
        return loss.to(kind), terms

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        factor = grad * ctx.size  # the loss is the same on all ranks, as of `sum_to_value`
        return None, None, *(x.mul(factor) for x in ctx.saved_tensors)
