"""SigLIP in plain torch: a binary classification of every pair of the n x n logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    n = image.shape[0]
    scale = torch.as_tensor(logit_scale, dtype=image.dtype, device=image.device).reshape(-1, 1)
    logits = image @ text.T * scale + logit_bias
    sign = 2 * torch.eye(n, dtype=image.dtype, device=image.device) - 1
    rows = -F.logsigmoid(sign * logits).sum(1)

    return reduce_rows(rows, reduction, sample_weight)
