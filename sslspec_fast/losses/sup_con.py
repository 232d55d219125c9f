r"""SupCon: the supervised contrastive loss, outside-the-log form.

.. math::
    L = \frac{1}{n} \sum_i \frac{-1}{|P(i)|} \sum_{p \in P(i)}
        \log \frac{e^{s_{ip}}}{\sum_{k \ne i} e^{s_{ik}}}, \qquad s_{ik} = z_i \cdot z_k / \tau,

P(i) the other rows with the label of i; an anchor without positives counts as 0 in the mean. The
positive sum is :math:`z_i \cdot (\sum_{y_j = y_i} z_j - z_i)`: linear in n. Gradient as that of
`graph_info_nce` on the label graph. It replaces the (n, n) logits and masks.

Khosla et al., "Supervised Contrastive Learning" (NeurIPS 2020, arXiv 2004.11362), equation 2.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, widen
from ..primitives import pairwise
from ..ranks import agree, gather_rows, several, told_to_all
from ..reference import sup_con as reference
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    dot_with_sum,
    numbered,
    positive_sums,
    reduce_rows,
    run_reference,
    self_lse,
)
from ._softmax import smoothing
from .over_ranks import over_ranks
from .over_ranks.softmax import SUP_CON


@over_ranks(SUP_CON)
def sup_con(
    z: Tensor,
    labels: Tensor,
    *,
    temperature: float | Tensor = 0.1,
    base_temperature: float | None = None,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """SupCon of labelled rows, not normalised. Equal to SupContrast's SupConLoss.

    Args:
        z: (n, d), n >= 2, float64, float32, bfloat16 or float16 (computed in float32).
        labels: (n,) integers; a negative label means unlabelled: no positives.
        temperature: a number, a 0-dim tensor or (n,) per anchor; a tensor may require a gradient.
        base_temperature: multiplies the loss by temperature / base_temperature; None: no factor.
        reduction: "mean" over all n rows, "sum", or "none": (n,).
        sample_weight: (n,); mean = sum of w l / sum of w over all rows.
        label_smoothing: fraction of the target spread over the n - 1 columns, for anchors with
            positives.
        return_terms: also return {"alignment": of the mean positive logits, "uniformity"}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> z = torch.eye(2, 8).repeat(2, 1)
    >>> round(float(sup_con(z, torch.tensor([0, 1, 0, 1]), temperature=0.5)), 4)
    0.2395
    """
    op = "sup_con"
    check.common(op, impl, group, reduction)
    check.matrix(op, "z", z, min_rows=2)
    label_smoothing = check.fraction(op, "label_smoothing", label_smoothing)
    x = widen(z)
    n = x.shape[0]
    y = check.integers(op, "labels", labels, x, n)
    t = check.positive(op, "temperature", temperature, x, rows=(n,))
    weight = check.sample_weight(op, sample_weight, x, n, reduction)
    factor: float | Tensor = 1.0
    if base_temperature is not None:
        factor = t / check.number(op, "base_temperature", base_temperature, low=0.0, strict=True)

    scale = t.reciprocal()
    if impl == "torch":
        loss = run_reference(
            reference.sup_con,
            x,
            y,
            temperature=t,
            base_temperature=base_temperature,
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
        )
        if not return_terms:
            return loss
        positive = scale * run_reference(reference.mean_positive, x, y)
    else:
        sums, count = positive_sums(x, y, numbered(y), n)
        anchor = count > 0
        positive = torch.where(anchor, scale * sums / count.clamp(min=1), 0.0)
        rows = self_lse(x, scale, None, is_half(z)) - positive
        if label_smoothing:
            total = scale * (dot_with_sum(x, x) - x.square().sum(1))
            rows = rows + smoothing(positive, total, n - 1, label_smoothing)
        loss = reduce_rows(torch.where(anchor, rows * factor, 0.0), reduction, weight)
    return add_terms(loss, positive * factor, reduction, weight) if return_terms else loss


class SupConLoss(Loss):
    """SupCon with SupContrast's constructor and call.

    ``forward(features, labels=None, mask=None)``: features (n, views, ...) are flattened to (n,
    views, d) and not normalised. labels (n,) or (n, 1), of any real dtype, say which samples are
    positives: those with an equal label, a negative one means unlabelled; mask (n, n) says it
    directly and may be asymmetric or weighted; with neither, the views of a sample are positives of
    each other (SimCLR). Over ranks, features and labels are those of a rank's own samples, and mask
    must be None.

    ``sample_weight`` (n,), for all views of a sample, and the options of `sup_con` need
    contrast_mode="all" and no mask.

    Args:
        temperature, base_temperature, group, options: as in `sup_con`.
        contrast_mode: "all": every view is an anchor; "one": the first one.

    Raises:
        ValueError or TypeError: base_temperature or contrast_mode is out of range.
    """

    functional = staticmethod(sup_con)
    named = ("temperature", "base_temperature")

    def __init__(
        self,
        temperature: float = 0.07,
        contrast_mode: str = "all",
        base_temperature: float | None = 0.07,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        if base_temperature is not None:
            check.number("SupConLoss", "base_temperature", base_temperature, low=0.0, strict=True)
        check.choice("SupConLoss", "contrast_mode", contrast_mode, ("all", "one"))
        if options and contrast_mode == "one":
            raise ValueError(
                f"SupConLoss: contrast_mode must be 'all' with {', '.join(options)}, got 'one'"
            )
        self.temperature = temperature
        self.contrast_mode = contrast_mode
        self.base_temperature = base_temperature

    def forward(
        self,
        features: Tensor,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        sample_weight: Tensor | None = None,
    ) -> LossOrTerms:
        op = "SupConLoss"
        group = several(op, self.group)
        with told_to_all(op, group):
            stack, y, views = self._checked(features, labels, mask, group)
            weight = self._weight(sample_weight, mask, stack, y.shape[0], views)
        if group is not None:
            return self._over_ranks(stack, labels is not None, y, views, weight, group)
        n = y.shape[0]
        if y.is_floating_point():
            y = torch.where(y < 0, -1, numbered(y))
        if mask is None and self.contrast_mode == "all":
            return self._plain(stack, y.repeat(views), sample_weight=weight)
        if mask is None:
            itself = torch.eye(n, dtype=torch.bool, device=y.device)
            mask = (y[:, None] == y) & ((y >= 0)[:, None] | itself)
        return self._masked(widen(stack), mask, views, is_half(stack))

    def _checked(
        self, features: Tensor, labels: Tensor | None, mask: Tensor | None, group: Any
    ) -> tuple[Tensor, Tensor, int]:
        """View-major rows, a label for each sample, and the number of views."""
        op = "SupConLoss"
        if not isinstance(features, Tensor) or features.dim() < 3:
            got = tuple(features.shape) if isinstance(features, Tensor) else type(features).__name__
            raise ValueError(f"{op}: features must have shape (n, views, ...), got {got}")
        if labels is not None and mask is not None:
            raise ValueError(f"{op}: mask must be None with labels, got both")
        if group is not None and mask is not None:
            raise ValueError(f"{op}: mask must be None over several ranks, where labels say it")
        n, views = features.shape[:2]
        if features.shape[1:].numel() == 0 or (n == 0 and group is None):
            raise ValueError(f"{op}: features must not be empty, got {tuple(features.shape)}")
        d = features.shape[2:].numel()
        stack = features.reshape(n, views, d).transpose(0, 1).reshape(n * views, d)
        y = torch.arange(n, device=stack.device)
        if labels is not None:
            y = check.labels(op, labels, stack, n)
        check.matrix(op, "features", stack, min_rows=2 if group is None else 0)
        if mask is not None:
            if not isinstance(mask, Tensor):
                raise check.not_a_tensor(op, "mask", mask)
            if mask.shape != (n, n):
                raise ValueError(f"{op}: mask must have shape ({n}, {n}), got {tuple(mask.shape)}")
        return stack, y, views

    def _weight(
        self,
        sample_weight: Tensor | None,
        mask: Tensor | None,
        stack: Tensor,
        n: int,
        views: int,
    ) -> Tensor | None:
        """One weight for each row of the stack."""
        op = "SupConLoss"
        given = [*self.options, *([] if sample_weight is None else ["sample_weight"])]
        if given and mask is not None:
            raise ValueError(f"{op}: mask must be None with {', '.join(given)}, got a tensor")
        if sample_weight is None:
            return None
        if self.contrast_mode == "one":
            raise ValueError(f"{op}: contrast_mode must be 'all' with sample_weight, got 'one'")
        reduction = self.options.get("reduction", "mean")
        weight = check.sample_weight(op, sample_weight, stack, n, reduction)
        return None if weight is None else weight.repeat(views)

    def _plain(self, stack: Tensor, y: Tensor, **keywords: Any) -> LossOrTerms:
        return sup_con(
            stack,
            y,
            temperature=self.temperature,
            base_temperature=self.base_temperature,
            **keywords,
            **self.options,
        )

    def _over_ranks(
        self,
        stack: Tensor,
        labelled: bool,
        y: Tensor,
        views: int,
        weight: Tensor | None,
        group: Any,
    ) -> LossOrTerms:
        """Labels are numbered over all ranks; without any, a sample has its global number."""
        n = y.shape[0]
        facts = {
            "views": views,
            "contrast_mode": self.contrast_mode,
            "labels": y.dtype if labelled else None,
        }
        ranks, _ = agree("SupConLoss", group, facts, n)
        every = torch.arange(ranks.n, device=y.device)
        if labelled:
            given = gather_rows(y, ranks)
            alone = every + ranks.n if self.contrast_mode == "one" else -1
            every = torch.where(given < 0, alone, numbered(given))
        if self.contrast_mode == "one":  # the other views are columns only
            weight = torch.ones_like(widen(stack[:, 0]))
            weight[n:] = 0
        labels = every[ranks.here].repeat(views)
        return self._plain(stack, labels, sample_weight=weight, group=group)

    def _masked(self, stack: Tensor, mask: Tensor, views: int, half: bool) -> Tensor:
        """The mask is dense anyway: positive sums are one product with the sum of the views.

        half: as in `pairwise.lse`.
        """
        n, mask = mask.shape[0], mask.to(stack)
        anchors = stack if self.contrast_mode == "all" else stack[:n]
        copies = anchors.shape[0] // n
        t = check.positive("SupConLoss", "temperature", self.temperature, stack, rows=())
        own = mask.diagonal().repeat(copies)
        with torch.autocast(stack.device.type, enabled=False):
            positives = mask @ stack.view(views, n, -1).sum(0)
        dot = (anchors * positives.repeat(copies, 1)).sum(1) - own * anchors.square().sum(1)
        count = (views * mask.sum(1)).repeat(copies) - own
        # anchors without positives: divisor 1, and still counted in the mean
        count_or_one = torch.where(count < 1e-6, 1.0, count)
        if copies == views:
            lse = self_lse(stack, t.reciprocal(), None, half)
        else:
            itself = pairwise.LeftOut(self_pairs=True)
            lse, _ = pairwise.lse(anchors, stack, t.reciprocal(), itself, half=half)
        rows = (count * lse - dot / t) / count_or_one
        base = self.base_temperature
        return rows.mean() if base is None else rows.mean() * (t / base)
