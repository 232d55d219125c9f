"""``spectral_views`` on a GPU: cut and packed rows, two GEMMs and the loss; gradient afterwards.

On the (d, d) side while d <= n / 2, where the pairs (i, i) are subtracted, otherwise in strips of
the (n, n) side, where they are masked. As in `_gram_cuda`, the backward pass completes the
gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._checks import computed_dtype
from .._register import register_op
from .._seam import _C, stream, unit_stride, view
from ..primitives import _value_and_grad
from ..primitives.gram.products import ROWS, Products, blocks
from . import composed

__all__ = ["spectral_contrastive"]


def _shapes(
    z1: Tensor, z2: Tensor, longest: float, factor: float, mean: bool, grad_1: bool, grad_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    n, d = z1.shape
    shapes: tuple[tuple[int, ...], ...] = ((), (3,), (grad_1 + grad_2, n, d), (3, n))
    loss, sums, gradients, rows = (z1.new_empty(s, dtype=computed_dtype(z1)) for s in shapes)
    return loss, sums, gradients, rows


def _body(
    z1: Tensor, z2: Tensor, longest: float, factor: float, mean: bool, grad_1: bool, grad_2: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    z1, z2 = unit_stride(z1), unit_stride(z2)
    n, d = z1.shape
    wide = computed_dtype(z1)
    short: bool = _C.gram_uses_dual(d, n, True)
    products = Products(n, d, 2, columns=short, mixed=not short, cross=True, masked=not short)
    pairs = blocks(n, ROWS)
    sums = z1.new_empty(3 * pairs + sum(products.slots), dtype=torch.float64)
    kept = torch.bfloat16 if z1.dtype == torch.bfloat16 else wide
    factors = z1.new_empty((2, products.rows, d), dtype=kept)
    rows, queue = z1.new_empty((3, n), dtype=wide), stream(z1)
    _C.cuda_spectral_pack(
        view(z1), view(z2), longest, short, view(factors), view(rows), view(sums), queue
    )
    gradients = products.run(factors, sums, (grad_1, grad_2))
    loss, sums_out = z1.new_empty((), dtype=wide), z1.new_empty(3, dtype=wide)
    attraction, repulsion = composed.weights(n, factor, mean)
    _C.cuda_gram_loss(
        view(sums), pairs, pairs, (1.0, 0.0, 1.0), (attraction, 0.0, repulsion), view(loss),
        view(sums_out), queue,
    )  # fmt: skip
    return loss, sums_out, gradients, rows


def _backward_shapes(
    z1: Tensor, z2: Tensor, gradients: Tensor, rows: Tensor, grad: Tensor, longest: float,
    factor: float, mean: bool, grad_1: bool, grad_2: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _value_and_grad.outputs(z1, grad_1, z2, grad_2)


def _backward_body(
    z1: Tensor, z2: Tensor, gradients: Tensor, rows: Tensor, grad: Tensor, longest: float,
    factor: float, mean: bool, grad_1: bool, grad_2: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grads = _value_and_grad.outputs(z1, grad_1, z2, grad_2)
    z1, z2 = unit_stride(z1), unit_stride(z2)
    g1, g2 = (
        view(g) if wanted else None for g, wanted in zip(grads, (grad_1, grad_2), strict=True)
    )
    attraction, repulsion = composed.weights(len(z1), factor, mean)
    _C.cuda_spectral_finish(
        view(z1), view(z2), longest, attraction, repulsion, z1.dtype == torch.bfloat16, view(rows),
        view(gradients), view(grad), g1, g2, stream(z1),
    )  # fmt: skip
    return grads


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    z1, z2, *numbers, grad_1, grad_2 = inputs
    ctx.wanted = grad_1, grad_2
    names = ("longest", "factor", "mean")
    _value_and_grad.save(
        ctx, (z1, z2), output, output[2:], **dict(zip(names, numbers, strict=True))
    )


def _backward(ctx: Any, grad: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    def complete(z1: Tensor, z2: Tensor, gradients: Tensor, rows: Tensor) -> Any:
        return _finish(z1, z2, gradients, rows, grad, *ctx.options.values(), *ctx.wanted)

    return *_value_and_grad.gradient(ctx, grad, composed.loss, complete), *(None,) * 5


_fused = register_op(
    "spectral_cuda(Tensor z1, Tensor z2, float longest, float factor, bool mean,"
    " bool grad_1, bool grad_2) -> (Tensor, Tensor, Tensor, Tensor)",
    body=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)
_finish = register_op(
    "spectral_cuda_backward(Tensor z1, Tensor z2, Tensor gradients, Tensor rows, Tensor grad,"
    " float longest, float factor, bool mean, bool grad_1, bool grad_2)"
    " -> (Tensor, Tensor)",
    body=_backward_body,
    fake=_backward_shapes,
)


def spectral_contrastive(
    z1: Tensor, z2: Tensor, *, longest: float, factor: float, mean: bool
) -> tuple[Tensor, Tensor]:
    """Loss () and sums (3,): over pairs, 0, over i != j; z1, z2 of any float type."""
    wanted = _value_and_grad.wanted(z1), _value_and_grad.wanted(z2)
    loss, sums, *_ = _fused(z1, z2, float(longest), float(factor), mean, *wanted)
    return loss, sums
