"""InfoNCE on a graph in plain torch: dense G, dense logits, dense mask of negatives."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def graph_info_nce(
    z: Tensor,
    graph: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    normalize: bool = True,
    negatives: str = "others",
    ids: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
) -> Tensor:
    n = z.shape[0]
    own = torch.eye(n, dtype=torch.bool, device=z.device)
    g = graph.to_dense().to(z.dtype).masked_fill(own, 0)
    degree = g.sum(1)
    positive = g != 0
    u = F.normalize(z, dim=1) if normalize else z
    scale = torch.as_tensor(1.0 / temperature, dtype=z.dtype, device=z.device).reshape(-1, 1)
    logits = u @ u.T * scale

    allowed = ~own if ids is None else (ids[:, None] != ids)
    keep = (allowed | positive) & ~own if negatives == "others" else allowed & ~positive
    some = keep.any(1)
    lse = logits.masked_fill(~keep & some[:, None], -math.inf).logsumexp(1)
    lse = lse.masked_fill(~some, -math.inf)
    if tau_plus:  # debiased estimate of the negatives, Chuang et al. 2020
        top = logits.detach().amax(1, keepdim=True)  # shift: e^logits may overflow
        e = torch.exp(logits - top)
        partners = positive.sum(1).to(z.dtype)
        m = n - 1 - partners
        mean_pos = (e * positive).sum(1) / partners.clamp(min=1)
        neg = ((e * (~positive & ~own)).sum(1) - tau_plus * m * mean_pos) / (1 - tau_plus)
        neg = torch.maximum(neg, m * torch.exp((-scale - top)[:, 0]))
        lse = torch.log((e * positive).sum(1) + neg) + top[:, 0]

    anchor = degree > 0
    target = g / torch.where(anchor, degree, 1.0)[:, None]
    if label_smoothing:
        others = (~own).to(z.dtype)
        target = (1 - label_smoothing) * target + label_smoothing / (n - 1) * others
    rows = lse - (target * logits).sum(1)
    if negatives == "per_positive":  # a softmax of each positive and the negatives
        rows = -(target * F.logsigmoid(logits - lse[:, None])).sum(1)
    rows = torch.where(anchor, rows, 0.0)

    w = anchor.to(z.dtype) if sample_weight is None else anchor * sample_weight
    if reduction == "none":
        return rows * w
    if reduction == "sum":  # the paper's L: without 1/d_i and without 1/n
        return (degree * rows * w).sum()
    return (rows * w).sum() / w.sum()
