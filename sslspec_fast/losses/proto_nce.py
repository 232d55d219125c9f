r"""ProtoNCE: each row near the prototype of its cluster and far from all others.

.. math::
    L = \frac1n \sum_i \Bigl[ \log \sum_k e^{u_i \cdot c_k / \phi_k}
        - u_i \cdot c_{y_i} / \phi_{y_i} \Bigr],

u the unit rows, c the unit prototypes, y the clusters and :math:`\phi` their concentrations,
smaller for denser clusters (`concentration`). All prototypes are columns; PCL, which stores the
logits, samples some. Gradient: with :math:`P_{ik}` the softmax of a row,
:math:`\partial L / \partial u_i = \frac1n (\sum_k P_{ik} c_k / \phi_k - c_{y_i} / \phi_{y_i})`. It
replaces ``F.cross_entropy(u @ c.T / phi, y)`` and its (n, k) logits.

Li, Zhou, Xiong, Hoi, "Prototypical Contrastive Learning of Unsupervised Representations" (arXiv
2005.04966), section 3.3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import computed_dtype, products, widen
from ..primitives import pairwise
from ..primitives.rows.unit_rows import unit_rows
from ..reference import proto_nce as reference
from ._common import LossOrTerms, add_terms, reduce_rows, rows_at, run_reference
from ._prototypes import check_clusters, check_heads
from .over_ranks import over_ranks
from .over_ranks.prototypes.rows import PROTO_NCE


@over_ranks(PROTO_NCE)
def proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Any,
    *,
    concentration: float | Tensor = 0.2,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """ProtoNCE of n rows and k clusters; PCL averages it over several clusterings.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        prototypes: (k, d) centres of the clusters; they may require a gradient. Rows and prototypes
            are scaled to unit length.
        assignment: (n,) integers in [0, k), the cluster of each row.
        concentration: phi > 0, a number, a 0-dim tensor or (k,) of the clusters, as
            `concentration` gives them; a tensor may require a gradient.
        reduction: "mean", "sum" or "none" over the n rows.
        sample_weight: (n,); mean = sum of w l / sum of w.
        return_terms: also return {"alignment": of minus the own logits, "uniformity": of the
            log-sum-exps}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together,
            and each all prototypes and concentrations (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of z (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; on a CPU also
            an assignment outside [0, k).

    >>> z = torch.eye(3)
    >>> round(float(proto_nce(z, z, [0, 1, 2], concentration=0.5)), 4)
    0.2395
    """
    op = "proto_nce"
    check.common(op, impl, group, reduction)
    check.dense(op, "prototypes", prototypes)
    k = check_heads(op, z, z, prototypes, None, ("z", "z"))
    n, kind = z.shape[0], computed_dtype(z)
    own = check_clusters(op, assignment, z, k)
    phi = check.positive(op, "concentration", concentration, z, rows=(k,))
    weight = check.sample_weight(op, sample_weight, z, n, reduction)
    x, w = widen(z).to(kind), widen(prototypes).to(kind)

    unit = F.normalize if impl == "torch" else unit_rows
    u, inverse = unit(x), phi.reciprocal()
    columns = unit(w) * (inverse if inverse.dim() == 0 else inverse[:, None])
    positive = (u * rows_at(columns, own)).sum(1)
    if impl == "torch":
        loss = run_reference(
            reference.proto_nce,
            x,
            w,
            own,
            concentration=phi,
            reduction=reduction,
            sample_weight=weight,
        )
    else:
        lse = pairwise.lse(products(u, z), products(columns, z), u.new_ones(()))[0]
        loss = reduce_rows(lse - positive, reduction, weight)
    return add_terms(loss, positive, reduction, weight) if return_terms else loss


@torch.no_grad()
def concentration(
    z: Tensor, prototypes: Tensor, assignment: Any, *, temperature: float = 0.2
) -> Tensor:
    """The concentrations of k clusters, as PCL estimates them.

    The mean distance of a cluster's unit rows from its unit prototype over log(size + 10); clusters
    of at most one row get the largest of the others. All are then clipped to their 10th and 90th
    percentile and scaled to the mean `temperature`. Where all rows lie at their prototypes, or no
    cluster has two of them, all are `temperature`.

    Args:
        z: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        prototypes: (k, d) centres of the clusters. Rows and prototypes are scaled to unit length.
        assignment: (n,) integers in [0, k), the cluster of each row.
        temperature: > 0, the mean of the concentrations.

    Returns:
        (k,) in the dtype of z (float32 for half precision), without a gradient.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit; on a CPU also
            an assignment outside [0, k).

    >>> z = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.1, 1.0], [-0.1, 1.0]])
    >>> concentration(z, torch.eye(2), [0, 0, 1, 1])
    tensor([0.2000, 0.2000])
    """
    op = "concentration"
    check.dense(op, "prototypes", prototypes)
    k = check_heads(op, z, z, prototypes, None, ("z", "z"))
    own = check_clusters(op, assignment, z, k)
    temperature = check.number(op, "temperature", temperature, low=0.0, strict=True)
    kind = computed_dtype(z)
    u, c = unit_rows(widen(z).to(kind)), unit_rows(widen(prototypes).to(kind))
    distance = torch.linalg.vector_norm(u - c[own], dim=1)
    size = torch.bincount(own, minlength=k).to(kind)
    total = torch.zeros(k, dtype=kind, device=z.device).index_add(0, own, distance)
    phi = total / size.clamp(min=1) / (size + 10).log()
    several = size > 1
    phi = torch.where(several, phi, torch.where(several, phi, 0).max())
    low, high = torch.quantile(phi, torch.tensor([0.1, 0.9], dtype=kind, device=z.device)).unbind()
    phi = phi.clamp(low, high)
    mean = phi.mean()
    return torch.where(
        mean > 0, temperature * phi / mean.clamp(min=torch.finfo(kind).tiny), temperature
    )
