r"""NT-Xent, the loss of SimCLR.

.. math::
    L = \frac{1}{2n} \sum_i -\log \frac{e^{s_{i,p(i)}}}{\sum_{k \ne i} e^{s_{ik}}},
    \qquad s_{ik} = \cos(z_i, z_k) / \tau,

over the 2n stacked rows, p(i) the other view of i. Gradient: with
:math:`B_{ik} = e^{s_{ik} - a_i} + e^{s_{ik} - a_k}` and a the log-sum-exp of the rows,
:math:`\partial L / \partial u_i = (\sum_k B_{ik} u_k - 2 u_{p(i)}) / (2 n \tau)` on unit rows u,
then through the normalisation. It replaces ``F.cross_entropy`` on the (2n, 2n - 1) logits; no logit
is stored.

Chen, Kornblith, Norouzi, Hinton, "A Simple Framework for Contrastive Learning of Visual
Representations" (ICML 2020, arXiv 2002.05709), section 2.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import _checks as check
from .._dtypes import is_half, products, widen
from ..fused.two_views import two_view_loss
from ..primitives.pairwise.common import pair_ids
from ..primitives.pairwise.value_and_grad import one_positive_total
from ..primitives.rows.unit_rows import paired_rows, unit_rows
from ..ranks import Ranks, agree, gather_rows, several, sum_to_value, told_to_all
from ..ranks.traffic import broadcast
from ..reference import nt_xent as reference
from ._common import (
    Loss,
    LossOrTerms,
    add_terms,
    dot_with_sum,
    is_scalar,
    reduce_rows,
    run_reference,
    self_lse,
    two_view_scale,
)
from ._inputs import prepare_pair
from ._softmax import check_softmax, debiased, one_positive_rows, smoothing
from .over_ranks import over_ranks
from .over_ranks.softmax import NT_XENT

TEMPERATURE = 0.5


@over_ranks(NT_XENT)
def nt_xent(
    z1: Tensor,
    z2: Tensor,
    *,
    temperature: float | Tensor = TEMPERATURE,
    reduction: str = "mean",
    sample_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    tau_plus: float = 0.0,
    return_terms: bool = False,
    impl: str = "fused",
    group: Any = None,
) -> LossOrTerms:
    """NT-Xent over n pairs; rows are normalised inside. Equal to lightly's NTXentLoss.

    Args:
        z1, z2: (n, d) float64, float32, bfloat16 or float16 (computed in float32).
        temperature: a number, a 0-dim tensor, or one per anchor: (n,) for both views of a sample
            or (2n,) view-major. A tensor may require a gradient.
        reduction: "mean" and "sum" over the 2n anchors, or "none": (2n,) view-major.
        sample_weight: (n,) per pair, applied to both views; mean = sum of w l / sum of w.
        label_smoothing: fraction of the target spread over the 2n - 1 columns.
        tau_plus: class prior of the debiased loss (arXiv 2007.00224).
        return_terms: also return {"alignment": of -s_pos, "uniformity": of the log-sum-exp}.
        impl: "fused", or "torch" for the plain reference.
        group: a process group or 1-D DeviceMesh whose ranks hold the rows of the batch together
            (docs/distributed.md).

    Returns:
        The loss, 0-dim, in the dtype of the rows (float32 for half precision), or (2n,) with
        reduction="none"; (loss, terms) with return_terms.

    Raises:
        ValueError or TypeError: shapes, dtypes, devices or ranges that do not fit.

    >>> z = torch.eye(4, 8)
    >>> round(float(nt_xent(z, z, temperature=0.5)), 4)
    0.5944
    """
    op = "nt_xent"
    pair = prepare_pair(
        op,
        ("z1", "z2"),
        z1,
        z2,
        impl=impl,
        group=group,
        reduction=reduction,
        weight=sample_weight,
        scale=("temperature", temperature),
        views=2,
    )
    label_smoothing, tau_plus = check_softmax(op, label_smoothing, tau_plus)
    n, weight = z1.shape[0], pair.weight
    plain = impl == "fused" and not (label_smoothing or tau_plus or return_terms)
    if plain and is_scalar(pair.scale):
        c = pair.inverse_scale()
        loss = two_view_loss(z1, z2, c, reduction, weight)
        return loss.reshape(2 * n) if reduction == "none" else loss
    (x1, x2), t = pair.rows(), pair.scale_tensor()
    scale, anchor_scale = two_view_scale(t.reciprocal(), n)
    u = (F.normalize if impl == "torch" else unit_rows)(torch.cat([x1, x2]))
    positive = (u[:n] * u[n:]).sum(1) * scale  # (n,), or (views, n) with a scale per anchor

    if impl == "torch":
        loss = run_reference(
            reference.nt_xent,
            x1,
            x2,
            temperature=t,
            reduction=reduction,
            sample_weight=weight,
            label_smoothing=label_smoothing,
            tau_plus=tau_plus,
        )
    else:
        negatives = self_lse(u, anchor_scale, pair_ids(n, u.device), is_half(z1)).view(2, n)
        if tau_plus:
            negatives = debiased(negatives, positive, scale, 2 * n - 2, tau_plus)
        rows = one_positive_rows(negatives, positive)
        if label_smoothing:
            total = (dot_with_sum(u, u) - u.square().sum(1)).view(2, n) * scale
            rows = rows + smoothing(positive, total, 2 * n - 1, label_smoothing)
        loss = reduce_rows(rows, reduction, weight)
        loss = loss.reshape(2 * n) if reduction == "none" else loss
    if not return_terms:
        return loss
    return add_terms(loss, positive.expand(2, n), reduction, weight)


class NTXentLoss(Loss):
    """`nt_xent` with lightly's constructor and ``forward(out0, out1)``.

    With a memory bank the loss has one direction, as in lightly: out0 against its partner in out1
    and the bank, a first-in first-out store of the out1 of earlier calls, updated when out0
    requires a gradient. Over ranks the loss is the mean over the rows of all, and every rank stores
    the out1 of all.

    Args:
        temperature, group: as in `nt_xent`.
        memory_bank_size: rows, or (rows, features) to allocate at once; 0: no bank.
        gather_distributed: the rows of all processes are one batch.
        options: further keywords of `nt_xent`.

    Raises:
        ValueError or TypeError: memory_bank_size is neither.
        TypeError: a keyword that `nt_xent` does not have.
    """

    functional = staticmethod(nt_xent)
    named = ("temperature",)
    bank: Tensor
    next: Tensor  # () the row of the bank that the next step writes first
    _shared = False  # whether all ranks of the group have the same bank

    def __init__(
        self,
        temperature: float = TEMPERATURE,
        memory_bank_size: int | Sequence[int] = 0,
        gather_distributed: bool = False,
        *,
        group: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(group, options)
        op = "NTXentLoss"
        several = isinstance(memory_bank_size, (tuple, list))
        given: list[Any] = list(memory_bank_size) if several else [memory_bank_size]  # type: ignore
        sizes = [check.count(op, "memory_bank_size", size, 0) for size in given]
        if len(sizes) not in (1, 2):
            raise ValueError(
                f"{op}: memory_bank_size must be rows or (rows, features), got {memory_bank_size}"
            )
        self.temperature, self.gather_distributed = temperature, gather_distributed
        self.memory_bank_size = sizes[0]
        if sizes[0] and options:
            raise ValueError(
                f"{op}: memory_bank_size must be 0 with {', '.join(options)}, got {sizes[0]}"
            )
        features = sizes[1] if len(sizes) == 2 else 0
        with torch.inference_mode(False):  # the buffers are written to in later training steps
            bank = unit_rows(torch.randn(sizes[0], features))
            self.register_buffer("bank", bank, persistent=False)
            self.register_buffer("next", torch.zeros((), dtype=torch.int64), persistent=False)

    def forward(
        self, out0: Tensor, out1: Tensor, *, sample_weight: Tensor | None = None
    ) -> LossOrTerms:
        group = self.group
        if self.memory_bank_size == 0:
            return nt_xent(
                out0,
                out1,
                temperature=self.temperature,
                sample_weight=sample_weight,
                group=group,
                **self.options,
            )
        if sample_weight is not None:
            raise ValueError(
                "NTXentLoss: sample_weight must be None with a memory bank, got "
                f"{type(sample_weight).__name__}"
            )
        return self._against_bank(out0, out1, several("NTXentLoss", group))

    def _against_bank(self, out0: Tensor, out1: Tensor, group: Any) -> Tensor:
        op = "NTXentLoss"
        with told_to_all(op, group):
            check.pair(op, ("out0", "out1"), out0, out1, min_rows=1 if group is None else 0)
            x, y = widen(out0), widen(out1)
            if self.bank.shape[1] == 0:
                shape = self.memory_bank_size, x.shape[1]
                with torch.inference_mode(False):
                    self.bank = unit_rows(torch.randn(shape, dtype=x.dtype, device=x.device))
            check.columns(op, "bank", self.bank.to(x), "out0", x)
            scale = check.positive(op, "temperature", self.temperature, x, rows=()).reciprocal()
        ranks = None if group is None else self._agree(out0, group)
        bank = self.bank.to(x)
        u, v, similarity = paired_rows(x, y)
        positive, n = similarity * scale, x.shape[0] if ranks is None else ranks.n
        row_weight = torch.ones_like(similarity.detach()) / n
        if x.shape[0]:
            a, b, half = products(u, out0), products(bank.clone(), out0), is_half(out0)
            loss = one_positive_total(a, b, scale, positive, row_weight, skip_self=False, half=half)
        else:
            loss = positive.sum()
        if out0.requires_grad:
            self._store(v.detach() if ranks is None else gather_rows(v.detach(), ranks))
        return loss if ranks is None else sum_to_value(loss, ranks)

    def _agree(self, out0: Tensor, group: Any) -> Ranks:
        """The ranks of a call; in the first one, all get the bank of rank 0."""
        facts = {
            "the bank": tuple(self.bank.shape),
            "temperature": self.temperature,
            "dtype": out0.dtype,
            "requires_grad of out0": out0.requires_grad,
            "whether the bank is shared": self._shared,
        }
        ranks, _ = agree("NTXentLoss", group, facts, out0.shape[0])
        if ranks.n == 0:
            raise ValueError("NTXentLoss: out0 needs at least 1 row over all ranks, got 0")
        if not self._shared:
            self.bank.copy_(broadcast(self.bank, group))
            self.next.copy_(broadcast(self.next, group))
            self._shared = True
        return ranks

    @torch.no_grad()
    def _store(self, rows: Tensor) -> None:
        """Write at the pointer; what does not fit before the end is dropped, as in lightly."""
        step = torch.arange(rows.shape[0], device=self.next.device)
        step = torch.minimum(step, self.memory_bank_size - 1 - self.next)
        self.bank[(self.next + step).to(rows.device)] = rows[step.to(rows.device)].to(self.bank)
        end = self.next + rows.shape[0]
        self.next.copy_(torch.where(end < self.memory_bank_size, end, 0))
