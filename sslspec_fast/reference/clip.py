"""CLIP's symmetric loss in plain torch, with the n x n logits of both directions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    logit_bias: float | Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
) -> Tensor:
    n = image.shape[0]
    scale = torch.as_tensor(logit_scale, dtype=image.dtype, device=image.device).reshape(-1, 1)
    bias = 0.0 if logit_bias is None else logit_bias
    target = torch.arange(n, device=image.device)

    def one_direction(a: Tensor, b: Tensor) -> Tensor:
        logits = a @ b.T * scale + bias
        if not tau_plus:
            return F.cross_entropy(
                logits, target, reduction="none", label_smoothing=label_smoothing
            )
        # debiased estimate of the negatives, Chuang et al. 2020; shifted: e^logits may overflow
        top = (logits - bias).detach().amax(1, keepdim=True)
        logits, least = logits - bias - top, torch.exp((-scale - top)[:, 0])
        pos = logits.diagonal()
        neg = logits.scatter(1, target[:, None], -math.inf).exp().sum(1)
        neg = torch.maximum(
            (neg - tau_plus * (n - 1) * pos.exp()) / (1 - tau_plus), (n - 1) * least
        )
        return torch.log(pos.exp() + neg) - pos

    rows = 0.5 * (one_direction(image, text) + one_direction(text, image))
    return reduce_rows(rows, reduction, sample_weight)
