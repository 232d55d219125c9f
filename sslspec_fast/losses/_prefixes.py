"""The softmax family on nested prefixes of the features, with one pass over the features for all.

The norms and the positive logits of all prefixes are running sums over the features, and
`pairwise_prefixes` does the same for the log-sum-exps; only what is done per row is repeated.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, widen
from ..primitives.pairwise.common import pair_ids
from ..primitives.pairwise.prefixes import has_prefixes, lse_prefixes
from ._catalogue import CATALOGUE
from ._common import reduce_rows
from ._softmax import one_positive_rows

# the keyword of the scale and its default, of the losses that are made here
SCALES = {
    name: (CATALOGUE[name].scale, CATALOGUE[name].scale_default)
    for name in ("nt_xent", "dcl", "info_nce", "clip")
}
MIN_ROWS = 512  # for fewer, the fixed cost of the operations around the kernel decides
_EPS = 1e-12  # as torch.nn.functional.normalize


def shared_prefixes(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    dims: list[int],
    negatives: Tensor | None,
    hyper: dict[str, Any],
) -> dict[int, Tensor] | None:
    """The loss of every prefix, or None where the losses themselves must be called: on a GPU, for
    one prefix or few rows, and with options that change more than the scale and the reduction.

    z1, z2: (n, d), checked. dims: ascending. negatives, hyper: as `matryoshka` takes them.
    """
    keyword, default = SCALES.get(loss, ("", None))
    known = hyper.keys() <= {keyword, "reduction", "sample_weight", "impl"}
    fused = hyper.get("impl", "fused") == "fused"
    value: Any = hyper.get(keyword, default)
    scalar = value is not None and (not isinstance(value, Tensor) or value.dim() == 0)
    alike = negatives is None or (
        loss == "info_nce" and negatives.shape[1:] == z1.shape[1:] and negatives.dtype == z1.dtype
    )
    if (
        not has_prefixes(z1)
        or len(dims) < 2
        or z1.shape[0] < MIN_ROWS
        or not (known and fused and scalar and alike)
    ):
        return None
    reduction = hyper.get("reduction", "mean")
    check.choice(loss, "reduction", reduction, check.REDUCTIONS)
    n, d, half = z1.shape[0], dims[-1], is_half(z1)
    x, y = widen(z1[:, :d]), widen(z2[:, :d])
    scale = check.positive(loss, keyword, value, x, rows=())
    scale = scale if keyword == "logit_scale" else scale.reciprocal()
    weight = check.sample_weight(loss, hyper.get("sample_weight"), x, n, reduction)

    columns = y if negatives is None else torch.cat([y, widen(negatives[:, :d])])
    left, right = _inverse_norms(x, dims), _inverse_norms(columns, dims)
    positive = (scale * left * right[:, :n] * _running_dots(x, y, dims)).to(x.dtype)
    if loss in ("nt_xent", "dcl"):
        both = torch.cat([left, right], 1) * scale.double().sqrt()
        ids = pair_ids(n, x.device)
        lse, _ = lse_prefixes(
            torch.cat([x, y]), None, both.to(x.dtype), None, dims, ids=ids, half=half
        )
        lse, positive = lse.view(-1, 2, n), positive[:, None]
        rows = lse - positive if loss == "dcl" else one_positive_rows(lse, positive)
    else:
        cols = loss == "clip"
        factors = (scale * left).to(x.dtype), right.to(x.dtype)
        by_row, by_col = lse_prefixes(x, columns, *factors, dims, cols=cols, half=half)
        rows = one_positive_rows(by_row, positive)
        if cols:
            rows = 0.5 * (rows + one_positive_rows(by_col, positive))
    values = [reduce_rows(r, reduction, weight) for r in rows]
    return dict(zip(dims, (v.flatten() if reduction == "none" else v for v in values), strict=True))


def _running_dots(x: Tensor, y: Tensor, dims: list[int]) -> Tensor:
    """(prefixes, n) float64: x_i[:m] . y_i[:m]."""
    ends = zip([0, *dims[:-1]], dims, strict=True)
    return torch.stack(
        [(x[:, s:e] * y[:, s:e]).sum(1, dtype=torch.float64) for s, e in ends]
    ).cumsum(0)


def _inverse_norms(x: Tensor, dims: list[int]) -> Tensor:
    """(prefixes, n) float64: 1 / max(|x_i[:m]|, eps)."""
    return _running_dots(x, x, dims).clamp_min(_EPS**2).rsqrt()
