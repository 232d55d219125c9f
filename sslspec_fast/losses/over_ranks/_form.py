"""How a loss over ranks says what its arguments are and how it is computed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...ranks import Ranks

SLOTS = 6

# kinds of tensor arguments
ROWS = "rows"  # (n_r, ...): this rank's
MORE = "more"  # (m_r, ...): this rank's, of another number
SCALE = "scale"  # 0-dim: a copy on every rank; (n_r,) or (2 n_r,) view-major: this rank's
COPY = "copy"  # the same on every rank


class Given(NamedTuple):
    """Checked arguments: tensors and numbers by name, in the order of the form."""

    tensors: dict[str, Tensor | None]
    numbers: dict[str, float]
    function: Any = None  # for `Form.prepare`


@dataclass(frozen=True)
class Problem:
    """What a form computes with: tensors and numbers by name, and the ranks."""

    op: str
    ranks: Ranks
    more: Ranks
    reduction: str
    wants_terms: bool
    tensors: dict[str, Tensor | None]
    numbers: dict[str, float]
    half: bool  # the rows came as bfloat16

    def rows(self, name: str) -> Tensor:
        value = self.tensors[name]
        assert value is not None
        return value


Result = tuple[Tensor, Sequence[Tensor]]  # the loss, and its terms where they are wanted


@dataclass(frozen=True)
class Form:
    """A loss over ranks.

    op: the name of the functional, whose own arguments `tensors` and `numbers` name.
    check: takes all arguments of the functional but impl, group and return_terms.
    compute: the loss of the global batch, differentiable, with the same collectives on all ranks.
    min_rows: of all ranks together.
    views: rows of a loss with reduction="none" per row of the first tensor.
    terms: names of what return_terms=True returns.
    reduces: whether the functional takes a reduction.
    prepare: the arguments after what needs the rows of all ranks was made of them and of the group.
    restore: the arguments of the functional, of tensors and numbers that stand for others.
    """

    op: str
    tensors: dict[str, str]
    numbers: tuple[str, ...]
    check: Callable[..., Given]
    compute: Callable[[Problem], Result]
    terms: tuple[str, ...] = ()
    min_rows: int = 1
    views: int = 1
    reduces: bool = True
    prepare: Callable[[Given, Any], Given] | None = None
    restore: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def __post_init__(self) -> None:
        FORMS[self.op] = self


FORMS: dict[str, Form] = {}
