"""What every loss does around its maths: widen, normalise, reduce, report terms."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor

from .. import _checks as check
from ..primitives import pairwise
from ..primitives.rows.reduced import reduce_rows as reduce_rows
from ..ranks.group import Held, world

Terms = dict[str, Tensor]
# Tensor, or (Tensor, Terms) with return_terms=True. A union would make every caller narrow it.
LossOrTerms: TypeAlias = Any


class Loss(torch.nn.Module):
    """A functional as a module; its repr shows the hyperparameters of the constructor.

    group: the process group or 1-D DeviceMesh over whose ranks the rows are spread. Without one,
    ``gather_distributed=True`` stands for all processes, once torch.distributed is initialised.

    options: further keywords of the functional, such as ``reduction="none"`` and
    ``return_terms=True``; ``forward`` takes what belongs to one batch, such as ``sample_weight``.
    """

    functional: ClassVar[Callable[..., Any]]
    named: ClassVar[tuple[str, ...]] = ()  # keywords of the functional that are no options
    _held: Held | None = None

    def __init__(self, group: Any = None, options: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        if group is not None:
            self._held = Held(type(self).__name__, group)
        self.options = {} if options is None else dict(options)
        self._check_options()

    def _check_options(self) -> None:
        if not self.options:
            return
        op, functional = type(self).__name__, type(self).functional
        known = [
            name
            for name, parameter in inspect.signature(functional).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
            and name not in (*self.named, "sample_weight", "group")
        ]
        for name, value in self.options.items():
            if name not in known:
                raise TypeError(f"{op}: has no keyword {name!r}, only {', '.join(known)}")
            if name == "reduction":
                check.choice(op, name, value, check.REDUCTIONS)
            if name == "impl":
                check.choice(op, name, value, check.IMPLEMENTATIONS)

    @property
    def gather_distributed(self) -> bool:
        """Whether the ranks of all processes count."""
        return bool(self.__dict__.get("gather_distributed", False))

    @gather_distributed.setter
    def gather_distributed(self, value: bool) -> None:
        if value and not torch.distributed.is_available():
            raise ValueError(
                f"{type(self).__name__}: gather_distributed must be False with a torch that has no "
                "torch.distributed, got True"
            )
        self.__dict__["gather_distributed"] = value  # where the repr looks for hyperparameters

    @property
    def group(self) -> Any:
        """What the functional gets as its ``group``."""
        if self._held is not None:
            return self._held.group
        return world() if self.gather_distributed else None

    def extra_repr(self) -> str:
        names = inspect.signature(type(self).__init__).parameters
        given = {name: getattr(self, name) for name in names if name in vars(self)}
        given |= given.pop("options", {})
        each = [f"{name}={value!r}" for name, value in given.items()]
        if self._held is not None:
            each.append(f"group of {self._held.size}")
        return ", ".join(each)


def row_ids(ids: Tensor) -> Tensor:
    """Ids as the int32 that the pairwise kernels compare."""
    return ids.to(torch.int32)


def numbered(labels: Tensor) -> Tensor:
    """int64: the labels along the last dimension as 0, 1, ... in their order; by sorting, so that
    no shape depends on the data.
    """
    ordered, order = labels.sort(dim=-1)
    fresh = torch.ones_like(order)
    fresh[..., 1:] = (ordered[..., 1:] != ordered[..., :-1]).to(fresh.dtype)
    return torch.empty_like(order).scatter(-1, order, fresh.cumsum(-1) - 1)


def rows_at(x: Tensor, index: Tensor) -> Tensor:
    """x[index], (*index.shape, d). Its gradient adds in a fixed order on a CPU; that of indexing
    does not where several threads add to one row.
    """
    return x.index_select(0, index.flatten()).view(*index.shape, x.shape[1])


def positive_sums(
    x: Tensor,
    labels: Tensor,
    number: Tensor,
    classes: int,
    over_rows: Callable[[Tensor], Tensor] = lambda sums: sums,
    over_counts: Callable[[Tensor], Tensor] = lambda counts: counts,
) -> tuple[Tensor, Tensor]:
    """(n,) sums of x_i . x_j over the other rows with the label of i, and how many they are.

    number: (n,) in [0, classes), equal where labels are; a negative label has no other rows.
    over_rows, over_counts: add the sums (classes, d) and counts (classes,) of ranks.
    """
    labelled = (labels >= 0).to(x.dtype)
    by_class = x.new_zeros(classes, x.shape[1]).index_add(0, number, x * labelled[:, None])
    others = rows_at(over_rows(by_class), number) - x
    size = over_counts(x.new_zeros(classes).index_add(0, number, labelled))
    return (x * others).sum(1) * labelled, (size[number] - 1) * labelled


def self_lse(u: Tensor, scale: Tensor, ids: Tensor | None, half: bool) -> Tensor:
    """(n,) log sum over k != i with another id of exp(scale_i u_i . u_k).

    half: the rows came as bfloat16, and a CPU that multiplies bfloat16 does.
    """
    if scale.dim() == 0:
        return pairwise.lse_self(u, scale, ids, half=half)
    return pairwise.lse(u, u, scale, pairwise.LeftOut(ids, ids, self_pairs=True), half=half)[0]


def is_scalar(scale: float | Tensor) -> bool:
    return not isinstance(scale, Tensor) or scale.dim() == 0


def row_weights(rows: Tensor, reduction: str, weight: Tensor | None) -> Tensor:
    """(n,) the factor of each row in the mean or sum of `reduce_rows`."""
    factors = torch.ones_like(rows) if weight is None else weight
    return factors / factors.sum() if reduction == "mean" else factors


def with_terms(loss: Tensor, terms: Terms | None) -> LossOrTerms:
    """loss, or (loss, detached terms)."""
    if terms is None:
        return loss
    return loss, {name: value.detach() for name, value in terms.items()}


def run_reference(reference: Callable[..., Tensor], *args: Any, **hyper: Any) -> Tensor:
    """The plain-torch loss at the precision of its inputs: autocast would round its products."""
    with torch.autocast(args[0].device.type, enabled=False):
        return reference(*args, **hyper)


def two_view_scale(scale: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """A scale as () or (1 or 2, n) beside the two views, and as () or (2n,) beside the anchors."""
    if scale.dim() == 0:
        return scale, scale
    by_view = scale.view(-1, n)
    return by_view, by_view.expand(2, n).reshape(2 * n)


def add_terms(loss: Tensor, positive: Tensor, reduction: str, weight: Tensor | None) -> LossOrTerms:
    """loss = alignment (of minus the positive logits) + uniformity (of the log-sum-exp)."""
    alignment = reduce_rows(-positive, reduction, weight).reshape(loss.shape)
    return with_terms(loss, {"alignment": alignment, "uniformity": loss - alignment})


def dot_with_sum(x: Tensor, columns: Tensor) -> Tensor:
    """(n,) sum over k of x_i . columns_k, in O(n d)."""
    return (x * columns.sum(0)).sum(1)
