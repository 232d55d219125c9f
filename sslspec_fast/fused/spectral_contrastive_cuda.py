"""``spectral_contrastive`` on a GPU: cut and packed rows, two GEMMs, the loss; then the gradient.

On the (d, d) side while d <= n / 2, where the pairs (i, i) are subtracted, otherwise in strips of
the (n, n) side, where they are masked. As in `gram/cuda.py`, the backward pass completes the
gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._dtypes import computed_dtype
from .._seam import _C, stream, unit_stride, view
from ..primitives import _value_and_grad
from ..primitives.gram.products import ROWS, GramLoss, StripProducts, blocks
from . import composed

__all__ = ["ROW_NUMBERS", "finish", "value"]

ROW_NUMBERS = 3  # numbers per row that the backward pass reads


def value(
    z1: Tensor, z2: Tensor, options: tuple[float, float, bool, bool], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss (), sums over pairs, 0 and over i != j (3,), products (operands, n, d) and row numbers
    (ROW_NUMBERS, n); z1, z2 of any float type.
    """
    longest, factor, mean, half = options
    z1, z2 = unit_stride(z1), unit_stride(z2)
    n, d = z1.shape
    wide = computed_dtype(z1)
    short: bool = _C.gram_uses_dual(d, n, True)
    products = StripProducts(n, d, 2, columns=short, mixed=not short, cross=True, masked=not short)
    pairs = blocks(n, ROWS)
    sums = products.sums(z1, 3 * pairs)
    kept = torch.bfloat16 if half else wide
    factors = z1.new_empty((2, products.rows, d), dtype=kept)
    rows, queue = z1.new_empty((ROW_NUMBERS, n), dtype=wide), stream(z1)
    _C.cuda_spectral_pack(
        view(z1), view(z2), longest, short, view(factors), view(rows), view(sums), queue
    )
    loss, sums_out = z1.new_empty((), dtype=wide), z1.new_empty(3, dtype=wide)
    attraction, repulsion = composed.weights(n, factor, mean)
    total = GramLoss(pairs, pairs, (1.0, 0.0, 1.0), (attraction, 0.0, repulsion), loss, sums_out)
    gradients = products.run(factors, sums, wanted, total)
    return loss, sums_out, gradients, rows


def finish(
    z1: Tensor,
    z2: Tensor,
    gradients: Tensor,
    rows: Tensor,
    grad: Tensor,
    options: tuple[float, float, bool, bool],
    wanted: tuple[bool, bool],
) -> tuple[Tensor, Tensor]:
    """The gradients of z1 and z2, in their dtype, of what `value` left."""
    longest, factor, mean, _ = options
    grads = _value_and_grad.outputs(z1, wanted[0], z2, wanted[1])
    z1, z2 = unit_stride(z1), unit_stride(z2)
    g1, g2 = (view(g) if asked else None for g, asked in zip(grads, wanted, strict=True))
    attraction, repulsion = composed.weights(len(z1), factor, mean)
    _C.cuda_spectral_finish(
        view(z1),
        view(z2),
        (longest, attraction, repulsion),
        view(rows),
        view(gradients),
        view(grad),
        (g1, g2),
        stream(z1),
    )
    return grads
