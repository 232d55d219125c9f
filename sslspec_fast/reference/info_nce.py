"""One-directional InfoNCE in plain torch: cross-entropy over the n x (n + m) cosine logits."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    negatives: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    margin: float = 0.0,
    ids: Tensor | None = None,
    column_ids: Tensor | None = None,
    threshold: Tensor | None = None,
) -> Tensor:
    """column_ids: of keys and negatives."""
    n = query.shape[0]
    columns = key if negatives is None else torch.cat([key, negatives])
    scale = torch.as_tensor(1.0 / temperature, dtype=query.dtype, device=query.device)
    scale = scale.reshape(-1, 1)  # a column: one for all rows, or one per row
    cosines = F.normalize(query, dim=1) @ F.normalize(columns, dim=1).T
    target = torch.arange(n, device=query.device)
    positive = torch.zeros_like(cosines, dtype=torch.bool).scatter(1, target[:, None], True)
    false = torch.zeros_like(positive)
    if ids is not None and column_ids is not None:
        false |= ids[:, None] == column_ids
    if threshold is not None:
        false |= cosines > threshold.reshape(-1, 1)
    logits = ((cosines - margin * positive.to(cosines)) * scale).masked_fill(
        false & ~positive, -math.inf
    )
    rows = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)

    if tau_plus:  # debiased estimate of the negatives, Chuang et al. 2020
        top = logits.detach().amax(1, keepdim=True)  # shift: e^logits may overflow
        logits, least = logits - top, torch.exp((-scale - top)[:, 0])
        pos = logits.gather(1, target[:, None])[:, 0]
        neg = logits.scatter(1, target[:, None], -math.inf).exp().sum(1)
        m = logits.shape[1] - 1
        neg = torch.maximum((neg - tau_plus * m * pos.exp()) / (1 - tau_plus), m * least)
        rows = torch.log(pos.exp() + neg) - pos

    return reduce_rows(rows, reduction, sample_weight)
