"""ReSSL's loss in plain torch: the similarities of queries and keys with a queue stored."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ._codes import codes, log_codes
from ._reduce import reduce_rows


def ressl(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    temperature: Tensor,
    key_temperature: Tensor,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
) -> Tensor:
    """queue: (m, d) unit rows."""
    q = codes(F.normalize(key, dim=1), queue, key_temperature, normalize=False)
    log_p = log_codes(F.normalize(query, dim=1), queue, temperature, normalize=False)
    return reduce_rows(-(q * log_p).sum(1), reduction, sample_weight)
