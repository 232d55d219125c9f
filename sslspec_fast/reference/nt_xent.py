"""NT-Xent in plain torch: cross-entropy over the 2n x (2n-1) cosine logits, diagonal removed."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = 0.5,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
) -> Tensor:
    n = z1.shape[0]
    u = F.normalize(torch.cat([z1, z2]), dim=1)
    scale = torch.as_tensor(1.0 / temperature, dtype=u.dtype, device=u.device)
    if scale.dim() == 1:
        scale = scale.repeat(2 * n // scale.shape[0])[:, None]  # one per anchor row

    i = torch.arange(2 * n, device=u.device)
    k = torch.arange(2 * n - 1, device=u.device)
    logits = (u @ u.T * scale).gather(1, k + (k >= i[:, None]).long())  # all columns but the own
    target = torch.where(i < n, i + n - 1, i - n)
    rows = F.cross_entropy(logits, target, reduction="none", label_smoothing=label_smoothing)

    if tau_plus:  # debiased estimate of the negatives, Chuang et al. 2020
        top = logits.detach().amax(1, keepdim=True)  # shift: e^logits may overflow
        logits, least = logits - top, torch.exp((-scale - top)[:, 0])
        pos = logits.gather(1, target[:, None])[:, 0]
        neg = logits.scatter(1, target[:, None], -math.inf).exp().sum(1)
        m = 2 * n - 2
        neg = torch.maximum((neg - tau_plus * m * pos.exp()) / (1 - tau_plus), m * least)
        rows = torch.log(pos.exp() + neg) - pos

    w = None if sample_weight is None else sample_weight.repeat(2)
    return reduce_rows(rows, reduction, w)
