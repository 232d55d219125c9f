"""How a loss over ranks says what its arguments are and how it is computed of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ...graph.pair_graph import PairGraph
from ...ranks import Ranks

SLOTS = 16

# kinds of tensor arguments
ROWS = "rows"  # (n_r, ...): this rank's
MORE = "more"  # (m_r, ...): this rank's, of another number
FURTHER = "further"  # (p_r, ...): this rank's, of a third number
SCALE = "scale"  # 0-dim: a copy on every rank; (n_r,) or (2 n_r,) view-major: this rank's
MORE_SCALE = "scale of more"  # 0-dim: a copy on every rank; (m_r,): this rank's
COPY = "copy"  # the same on every rank
MORE_OF_ROW = "more of a row"  # (n_r,): a number of a row of MORE among those of this rank
ROW_OF_FURTHER = "row of a further"  # (p_r,): a number of a row of ROWS among those of this rank
MORE_OF_FURTHER = "more of a further"  # (p_r,): of one of MORE

SCALES = {SCALE: ROWS, MORE_SCALE: MORE}  # and whose rows they are
COUNTED = {
    ROWS: ROWS,
    MORE: MORE,
    FURTHER: FURTHER,
    MORE_OF_ROW: ROWS,
    ROW_OF_FURTHER: FURTHER,
    MORE_OF_FURTHER: FURTHER,
}


class Given(NamedTuple):
    """Checked arguments: tensors, numbers and choices by name, in the order of the form."""

    tensors: dict[str, Tensor | None]
    numbers: dict[str, float]
    to_prepare: Any = None  # what `Form.prepare` makes a tensor of
    choices: dict[str, str] | None = None
    graph: PairGraph | None = None


@dataclass(frozen=True)
class Problem:
    """What a form computes with: tensors, numbers and choices by name, the ranks, and the graph of
    a graph loss.
    """

    op: str
    ranks: Ranks
    more: Ranks
    further: Ranks
    reduction: str
    wants_terms: bool
    tensors: dict[str, Tensor | None]
    numbers: dict[str, float]
    half: bool  # as `is_half` found it of the rows
    choices: dict[str, str]
    graph: PairGraph | None

    @property
    def relation(self) -> PairGraph:
        assert self.graph is not None
        return self.graph

    def rows(self, name: str) -> Tensor:
        value = self.tensors[name]
        assert value is not None
        return value


Result = tuple[Tensor, Sequence[Tensor]]  # the loss, and its terms where they are wanted


@dataclass(frozen=True)
class Form:
    """A loss over ranks.

    op: the name of the functional, whose own arguments `tensors`, `numbers` and `choices` name;
        choices are strings.
    graph: the argument that is a graph, or that may be one: its ranks are then those of the loss.
    needs_graph: whether a group of several ranks needs one whose rows are on them.
    check: takes all arguments of the functional but impl, group and return_terms.
    compute: the loss of the global batch, differentiable, with the same collectives on all ranks.
    min_rows: of all ranks together.
    views: how many losses reduction="none" gives for each row of the first tensor (2 for NT-Xent).
    shape: of what reduction="none" gives, by the tensors, where that is the same on all ranks and
        no value per row of a rank.
    reduction: what holds where the functional has no argument of that name; "none" for what is no
        scalar.
    terms: names of what return_terms=True returns.
    weighed_terms: further names, of terms that are there where the number of that name is not 0.
    fits: raises where the numbers of ROWS and MORE of the ranks do not fit together.
    reduces: whether the functional takes a reduction.
    prepare: the arguments after what needs all ranks was made of them and of the group's name.
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
    weighed_terms: tuple[str, ...] = ()
    fits: Callable[[Ranks, Ranks], None] | None = None
    shape: Callable[..., Sequence[int]] | None = None
    reduction: str = "mean"
    reduces: bool = True
    prepare: Callable[[Given, Any], Given] | None = None
    restore: Callable[[dict[str, Any]], dict[str, Any]] = dict
    choices: tuple[str, ...] = ()
    graph: str = ""
    needs_graph: bool = True

    def __post_init__(self) -> None:
        FORMS[self.op] = self

    def names_of_terms(self, numbers: Sequence[float]) -> tuple[str, ...]:
        given = dict(zip(self.numbers, numbers, strict=True))
        return self.terms + tuple(name for name in self.weighed_terms if given[name])


FORMS: dict[str, Form] = {}
