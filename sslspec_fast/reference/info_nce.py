"""InfoNCE in plain torch: cross-entropy over the cosine logits of all candidates of a query."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ._hard_negatives import reweighted
from ._reduce import reduce_rows


def info_nce(
    query: Tensor,
    key: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    negatives: Tensor | None = None,
    directions: Sequence[str] = ("query_to_key",),
    target: Tensor | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    margin: float = 0.0,
    ids: tuple[Tensor, Tensor, Tensor | None] | None = None,
    threshold: Tensor | None = None,
    guide: tuple[Tensor, Tensor, Tensor | None] | None = None,
    guide_margin: float = 0.0,
    guide_relative: bool = False,
    hardness: float = 0.0,
    log_weight: Tensor | None = None,
) -> Tensor:
    """negatives: (l, d), or (n, l, d). ids, guide: of queries, keys and negatives. log_weight: of
    keys and negatives.
    """
    target = torch.arange(len(query), device=query.device) if target is None else target
    scale = torch.as_tensor(1.0 / temperature, dtype=query.dtype, device=query.device)
    scale = scale.reshape(-1, 1)  # a column: one for all rows, or one per row
    positive, cosines, own = _cosines(query, key, negatives, target, directions)

    false = own
    if ids is not None:
        pairs = _pairs(*ids, target, directions)
        false = false | torch.cat([a[:, None] == b for a, b, _ in pairs], 1)
    if threshold is not None:
        false = false | (cosines > threshold.reshape(-1, 1))
    if guide is not None:
        of_pair, guided, _ = _cosines(*guide, target, directions)
        false = false | (guided > of_pair - guide_margin * (of_pair.abs() if guide_relative else 1))

    positive = (positive - margin) * scale
    negative = (cosines * scale).masked_fill(false, -math.inf)
    if "key_to_query" in directions:
        negative, own = torch.cat([negative, positive], 1), F.pad(own, (0, 1))
    negative = reweighted(negative, log_weight, hardness)
    logits = torch.cat([positive, negative], 1)
    rows = F.cross_entropy(logits, torch.zeros_like(target), reduction="none")

    if label_smoothing:
        every = torch.cat([positive, negative.masked_fill(own, 0.0)], 1)
        mean = every.sum(1) / (1 + (~own).sum(1))
        rows = rows + label_smoothing * (positive[:, 0] - mean)
    if tau_plus:  # debiased estimate of the negatives, Chuang et al. 2020
        top = logits.detach().amax(1, keepdim=True)  # shift: e^logits may overflow
        pos, neg = (positive - top).exp()[:, 0], (negative - top).exp().sum(1)
        m, least = (~own).sum(1).to(pos.dtype), torch.exp((-scale - top)[:, 0])
        neg = torch.maximum((neg - tau_plus * m * pos) / (1 - tau_plus), m * least)
        rows = torch.log(pos + neg) - (positive - top)[:, 0]

    return reduce_rows(rows, reduction, sample_weight)


def _pairs(
    query: Tensor, key: Tensor, negatives: Tensor | None, target: Tensor, directions: Sequence[str]
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Rows and columns of the candidates, and the column of each row that is itself or its key."""
    index, own = torch.arange(len(query), device=query.device), key[target]
    if "query_to_key" in directions:
        yield query, key, target
    if negatives is not None:
        yield query, negatives, torch.full_like(index, -1)
    if "query_to_query" in directions:
        yield query, query, index
    if "key_to_key" in directions:
        yield own, key, target
    if "key_to_query" in directions:
        yield own, query, index


def _cosines(
    query: Tensor, key: Tensor, negatives: Tensor | None, target: Tensor, directions: Sequence[str]
) -> tuple[Tensor, Tensor, Tensor]:
    """Cosines of queries with their keys, of all pairs, and which of these are a row's own."""
    u, v = F.normalize(query, dim=1), F.normalize(key, dim=1)
    extra = None if negatives is None else F.normalize(negatives, dim=-1)
    pairs = list(_pairs(u, v, extra, target, directions))
    own = [torch.arange(b.shape[-2], device=b.device) == mine[:, None] for _, b, mine in pairs]
    products = [torch.einsum("nd,nld->nl", a, b) if b.dim() == 3 else a @ b.T for a, b, _ in pairs]
    positive = (u * v[target]).sum(1, keepdim=True)
    return positive, torch.cat(products, 1), torch.cat(own, 1)
