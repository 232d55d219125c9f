r"""What a teacher adds to the logits of each prototype: centering, or Sinkhorn's iteration.

.. math::
    \beta = -c / \tau \qquad\text{or}\qquad \beta = -v: \quad
    v_j \leftarrow \log \sum_i \omega_i e^{\ell_{ij} - r_i}, \quad
    r_i \leftarrow \log \sum_j e^{\ell_{ij} - v_j}, \qquad \ell = b\, w^\top / \tau,

from r = 0. The codes :math:`\mathrm{softmax}_j(\ell_{ij} + \beta_j)` are Sinkhorn and Knopp's
after as many rounds: rows of sum 1, columns of equal sums. Each step is a log-sum-exp, so that no
exponential overflows and no (m, k) matrix is stored (of small ones the logits are kept). The means
of logits that centering follows are those of the mean row: O(m d + k d). None has a gradient.

Caron et al., "Unsupervised Learning of Visual Features by Contrasting Cluster Assignments" (arXiv
2006.09882), section 3; centering: Caron et al. (arXiv 2104.14294), section 3.1.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype
from ..reference import _column_bias as reference
from ._common import run_reference
from ._prototypes import check_heads
from ._sinkhorn import STARTS, balance, scaled
from .over_ranks import over_ranks
from .over_ranks.prototypes.column_bias import COLUMN_MEAN, SINKHORN_BIAS


def center_bias(center: Tensor, temperature: float) -> Tensor:
    """The bias ``-center / temperature`` that centering is.

    Args:
        center: (k,), what centering takes off the teacher's logits; float64, float32, bfloat16 or
            float16.
        temperature: the teacher's, > 0.

    Returns:
        (k,) in the dtype of the center (float32 for half precision), without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> center_bias(torch.tensor([0.1, -0.2]), 0.05)
    tensor([-2.,  4.])
    """
    op = "center_bias"
    check.dense(op, "center", center)
    if center.dim() != 1:
        raise ValueError(f"{op}: center must be (k,), got {tuple(center.shape)}")
    temperature = check.number(op, "temperature", temperature, low=0.0, strict=True)
    return center.detach().to(computed_dtype(center)) / -temperature


@torch.no_grad()
@over_ranks(COLUMN_MEAN)
def column_mean(
    rows: Tensor,
    prototypes: Tensor | None = None,
    *,
    normalize: bool = True,
    sample_weight: Tensor | None = None,
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """Means over the rows of their logits; what DINO's center is a moving average of.

    Args:
        rows: (m, d) of the teacher; logits (m, k) without prototypes. float64, float32, bfloat16 or
            float16 (computed in float32).
        prototypes: (k, d).
        normalize: rows and prototypes to unit length; not with logits.
        sample_weight: (m,) weights of the mean.
        impl: "fused", or "torch", which stores the logits.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows together, and each all
            prototypes (docs/distributed.md).

    Returns:
        (k,) in the dtype of the rows (float32 for half precision), without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> column_mean(torch.eye(2), torch.eye(2))
    tensor([0.5000, 0.5000])
    """
    op = "column_mean"
    check.common(op, impl, group)
    check_heads(op, rows, rows, prototypes, None)
    weight = check.sample_weight(op, sample_weight, rows, rows.shape[0], "mean")
    x, w = scaled(rows, prototypes, normalize)
    if impl == "torch":
        logits = run_reference(lambda x: x if w is None else x @ w.T, x)
        return run_reference(reference.column_mean, logits, weight)
    mean = x.mean(0) if weight is None else (x * weight[:, None]).sum(0) / weight.sum()
    with torch.autocast(x.device.type, enabled=False):
        return mean if w is None else w @ mean


@torch.no_grad()
@over_ranks(SINKHORN_BIAS)
def sinkhorn_bias(
    rows: Tensor,
    prototypes: Tensor | None = None,
    *,
    temperature: float,
    iterations: int = 3,
    start: str = "zero",
    normalize: bool = True,
    sample_weight: Tensor | None = None,
    impl: str = "fused",
    group: Any = None,
) -> Tensor:
    """The bias after which the codes of the rows are those of Sinkhorn's iteration.

    Args:
        rows: (m, d) of the teacher; logits (m, k) without prototypes.
        prototypes: (k, d).
        temperature: > 0.
        iterations: rounds of columns and rows, >= 0.
        start: "zero" from the exponentials of the logits (SwAV, DINOv2), "rows" from their softmax
            (MSN).
        normalize: rows and prototypes to unit length; not with logits.
        sample_weight: (m,) sums of the rows, >= 0; None: equal ones.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows together, and each all
            prototypes (docs/distributed.md).

    Rounds and logits are float32 (float64 for float64 rows).

    Returns:
        (k,) in the dtype of the rounds, without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> logits = torch.tensor([[1.0, 0.0], [1.0, 0.0]])  # both rows prefer the first column
    >>> codes = torch.softmax(logits + sinkhorn_bias(logits, temperature=1.0), dim=1)
    >>> bool(torch.allclose(codes, torch.full((2, 2), 0.5)))
    True
    """
    op = "sinkhorn_bias"
    check.common(op, impl, group)
    check_heads(op, rows, rows, prototypes, None)
    temperature = check.number(op, "temperature", temperature, low=0.0, strict=True)
    iterations = check.count(op, "iterations", iterations, 0)
    check.choice(op, "start", start, STARTS)
    weight = check.sample_weight(op, sample_weight, rows, rows.shape[0], "mean")
    x, w = scaled(rows, prototypes, normalize)
    if impl == "torch":
        logits = run_reference(lambda x: x if w is None else x @ w.T, x / temperature)
        logs = x.new_zeros(x.shape[0]) if weight is None else weight.log()
        return run_reference(reference.sinkhorn_bias, logits, logs, iterations, start == "rows")
    return balance(x, w, temperature, iterations, start, weight)
