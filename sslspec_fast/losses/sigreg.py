r"""SIGReg: how far every view of a batch is from N(0, I), by its projections or by its pairs.

.. math::
    L = \frac{n}{S} \sum_s \sum_k w_k \Bigl| \frac1n \sum_i e^{i t_k a_s \cdot z_i}
        - e^{-t_k^2 / 2} \Bigr|^2, \qquad w_k = e^{-t_k^2 / 2} \Delta_k,

over S unit directions a, with the trapezoid rule on K points of [0, t_max], doubled. Without
slices, the mean over *all* directions, with :math:`\Omega_d(u) = E_a \cos(u\, a \cdot e)`:

.. math::
    L = \frac1n \sum_{ij} \kappa(\|z_i - z_j\|^2) - 2 \sum_i \mu(\|z_i\|^2) + n c, \qquad
    \kappa(r) = \sum_k w_k \Omega_d(t_k \sqrt r) .

Gradients: docs/math/sigreg.md. It replaces the (n, S, K) angles, sines and cosines.

Balestriero, LeCun, "LeJEPA: Provable and Scalable Self-Supervised Learning Without the Heuristics"
(arXiv 2511.08544), sections 4 and 5; the limit of many slices as a kernel: Zimmermann et al.,
"KerJEPA" (arXiv 2512.19605).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import widen
from ..primitives.normality import sliced_ecf as sliced
from ..primitives.normality.pairwise_kernel import pairwise_kernel
from ..reference import sigreg as reference
from ._common import Loss, run_reference
from ._normality import Kernel, check_options
from .over_ranks import over_ranks
from .over_ranks.normality import SIGREG


@over_ranks(SIGREG)
def sigreg(
    z: Tensor,
    *,
    slices: int | None = 1024,
    directions: Tensor | None = None,
    knots: int = 17,
    t_max: float = 3.0,
    seed: int | None = None,
    kernel: Kernel | None = None,
    reduction: str = "mean",
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """Distance of each view from N(0, I); rows are not normalised. With slices, lightly's SIGReg.

    Args:
        z: (n, d), or (views, n, d), each view by itself; float64, float32, bfloat16 or float16
            (computed in float32).
        slices: S, how many directions are drawn on every call; None for the exact mean over all.
        directions: (d, S) unit columns, used instead of drawn ones; no gradient.
        knots: K, points of the quadrature on [0, t_max], >= 2.
        t_max: the largest point, > 0.
        seed: None draws from torch's global generator of z's device. An integer draws float32
            normal columns from ``torch.Generator(device).manual_seed(seed)``, the same in every
            precision and in every process: pass the step. With a group, the first rank draws for
            all.
        kernel: with slices=None, another kernel of pairs than LeJEPA's: ("gaussian", h) for
            exp(-r / 2h^2), ("imq", b) for (b + r)^(-1/2), r the squared distance; L is then n times
            the squared maximum mean discrepancy from N(0, I).
        reduction: "mean" or "sum" over views, or "none" for (views,); a scalar for z (n, d).
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (views,) with
        reduction="none".

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; with
            slices=None, on rows longer than 1024 / t_max (110 / t_max with impl="torch"), or than
            512 with kernel "imq".

    >>> round(float(sigreg(torch.zeros(4, 3), seed=0)), 4)  # 4 sum_k w_k (1 - phi_k)^2
    1.6082
    """
    op = "sigreg"
    check.common(op, impl, group, reduction)
    check.views(op, "z", z)
    options = check_options(op, z, slices, directions, knots, t_max, seed, kernel)
    x = widen(z if z.dim() == 3 else z[None])
    by_view = reduction == "none" and z.dim() == 3
    along = draw(x, slices, directions, seed)
    if impl == "torch":
        check_reference(op, x, along, **options)
        values = run_reference(reference.sigreg, x, along, **options)
        return values if by_view else values.sum() if reduction == "sum" else values.mean()
    if by_view:
        return torch.stack([normality(view[None], along, **options) for view in x])
    mean = normality(x, along, **options)
    return mean * x.shape[0] if reduction == "sum" else mean


def draw(
    x: Tensor, slices: int | None, directions: Tensor | None, seed: int | None
) -> Tensor | None:
    """(d, S) directions in the dtype of the rows x; None for all of them."""
    if directions is not None:
        return directions.detach().to(x.dtype)
    return None if slices is None else sliced.directions(x, slices, seed)


def normality(
    x: Tensor, directions: Tensor | None, *, knots: int, t_max: float, kernel: Kernel | None
) -> Tensor:
    """The mean over views of the distance of x (views, n, d)."""
    if directions is not None:
        return sliced.sliced_ecf(x, directions, knots=knots, t_max=t_max)
    name, parameter = kernel if kernel is not None else ("slices", 0.0)
    return pairwise_kernel(x, name, parameter=parameter, knots=knots, t_max=t_max)


def check_reference(
    op: str,
    x: Tensor,
    directions: Tensor | None,
    *,
    knots: int,
    t_max: float,
    kernel: Kernel | None,
) -> None:
    """The reference of the exact form is right for rows up to a length."""
    if directions is not None or kernel is not None or not check.readable(x):
        return
    longest = math.sqrt(float(x.detach().square().sum(-1).max()))
    limit = reference.LONGEST / (2 * t_max)
    if longest > limit:
        raise ValueError(
            f"{op}: slices=None with impl='torch' takes rows no longer than {limit:g} "
            f"(110 / t_max), got a row of length {longest:g}"
        )


class SIGReg(Loss):
    """`sigreg` with lightly's constructor and ``forward(proj)``, proj (n, d) or (views, n, d).

    Directions are drawn from torch's global generator.

    Args:
        knots, t_max, group: as in `sigreg`.
        num_vectors: how many directions are drawn; None takes all of them.
        gather_distributed: the rows of all processes are one batch.
        options: further keywords of `sigreg`.

    Raises:
        TypeError: a keyword that `sigreg` does not have.
    """

    functional = staticmethod(sigreg)
    named = ("slices", "knots", "t_max", "directions")

    def __init__(
        self,
        knots: int = 17,
        t_max: float = 3.0,
        num_vectors: int | None = 1024,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        self.knots, self.t_max, self.num_vectors = knots, t_max, num_vectors
        self.gather_distributed = gather_distributed

    def forward(self, proj: Tensor) -> Tensor:
        return sigreg(
            proj,
            slices=self.num_vectors,
            knots=self.knots,
            t_max=self.t_max,
            group=self.group,
            **self.options,
        )
