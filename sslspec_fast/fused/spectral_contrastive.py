r"""Spectral contrastive loss of two views, from the rows to the loss in one operator.

.. math::
    L = a \sum_i s_i + r \sum_{i \ne j} (x_i \cdot y_j)^2, \qquad s_i = x_i \cdot y_i, \qquad
    \bar x_i = 2 r\, x_i (Y^\top Y) + (a - 2 r s_i)\, y_i,

x, y the rows of the views, those longer than ``longest`` cut to it. The second sum is
:math:`\langle X^\top X, Y^\top Y \rangle - \sum_i s_i^2`: O(n d^2). With at least d rows the CPU
does all of it, cut and gradient included, in four passes over the rows that store two (d, d)
matrices (no larger than a view) and no shortened row. With fewer rows it is the composition of
`unit_rows` and `gram`, on whichever side is smaller. A GPU does the same with library GEMMs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._dtypes import computed_dtype, widen
from .._seam import _C, CODE, rounds, threads, unit_stride, view, workspace
from ..primitives import _value_and_grad
from . import composed
from . import spectral_contrastive_cuda as cuda
from .composed import weights

__all__ = ["spectral_contrastive", "weights"]


def _cpu(
    z1: Tensor, z2: Tensor, options: tuple[float, float, bool, bool], wanted: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    longest, factor, mean, half = options
    kind = computed_dtype(z1)
    half = rounds(half, kind)
    if not half:  # also bfloat16 rows of a processor without such products
        z1, z2 = widen(z1), widen(z2)
    grads = _value_and_grad.outputs(z1, wanted[0], z2, wanted[1], kind)
    z1, z2 = unit_stride(z1), unit_stride(z2)
    sums = z1.new_empty(2, dtype=torch.float64)  # over pairs, over i != j
    n, d = z1.shape
    attraction, repulsion = weights(n, factor, mean)
    size = _C.spectral_contrastive_workspace_size(n, d, CODE[kind])
    work = workspace(z1, size, kind)
    g1, g2 = (view(g) if asked else None for g, asked in zip(grads, wanted, strict=True))
    _C.spectral_contrastive(
        view(z1),
        view(z2),
        (longest, attraction, repulsion),
        half,
        view(sums),
        (g1, g2),
        (view(work), threads(6.0 * n * d * d)),
    )
    loss = attraction * sums[0] + repulsion * sums[1]
    return loss.to(kind), sums.to(kind), *grads


_spectral = _value_and_grad.register_loss(
    "spectral_contrastive",
    "float longest, float factor, bool mean, bool half",
    terms=2,
    cpu=_cpu,
    cuda=cuda.value,
    finish=cuda.finish,
    extra=-cuda.ROW_NUMBERS,
    expression=composed.loss,
)


def spectral_contrastive(
    z1: Tensor, z2: Tensor, *, longest: float, factor: float, mean: bool, half: bool = False
) -> tuple[Tensor, Tensor]:
    """Loss () and the sums over pairs and over i != j, both without gradient.

    Args:
        z1, z2: (n, d) float32 or float64, paired rows; differentiable. Also bfloat16 (products of
            bfloat16 factors with float32 sums) or, on a GPU, float16; results are float32.
        longest: > 0; longer rows are cut to it.
        factor, mean: a = -2 w and r = w / (n - 1) with w = factor / n for the mean, factor for the
            sum. They are made from n inside the operator: a traced program takes any n.
        half: the rows were bfloat16 before they were widened, as in `gram.sqnorm`; rows that are
            bfloat16 here need not say it.
    """
    half = half or z1.dtype == torch.bfloat16
    if not z1.is_cuda and z1.shape[0] < z1.shape[1]:
        x, y = widen(z1), widen(z2)
        return composed.composed(x, y, longest=longest, factor=factor, mean=mean, half=half)
    return _spectral(z1, z2, (float(longest), float(factor), mean, half))
