"""SigLIP on a graph in plain torch: a binary cross-entropy of every pair of the n x n logits."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ._reduce import reduce_rows


def graph_siglip(
    image: Tensor,
    text: Tensor,
    graph: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    scale = torch.as_tensor(logit_scale, dtype=image.dtype, device=image.device).reshape(-1, 1)
    logits = image @ text.T * scale + logit_bias
    own = torch.eye(len(image), dtype=torch.bool, device=image.device)
    target = graph.to(image.dtype).masked_fill(own, 1.0)
    rows = -(target * F.logsigmoid(logits) + (1 - target) * F.logsigmoid(-logits)).sum(1)

    return reduce_rows(rows, reduction, sample_weight)
