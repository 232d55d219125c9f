"""What `eigsh` does with a problem and why, decided before the first step of a method.

The probe tells whether the wanted end is well separated; then a Chebyshev filter of known degree is
all it takes. If it is not, a level structure of the graph predicts both sides: the fill of a
factorisation, and the degree that any polynomial method needs (about five times the number of
levels: products carry information one level at a time).

`RULES` are asked in order, and the first that applies names the method. docs/eigensolver.md begins
with their table.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..operators.base import SymmetricOperator
from .linalg.basis import host_memory
from .linalg.chebyshev_filter import growth_rate
from .linalg.cost import (
    FILLED_ROWS,
    guarded_width,
    guards,
    lanczos_block,
    start_width,
)
from .linalg.factorization import Structure, structure
from .prediction import Cost
from .problem.first_filter import FirstFilter, first_filter, is_multiple_of_identity
from .problem.probe import Probe
from .problem.reorder import renumbering_pays
from .problem.task import Task

__all__ = ["RULES", "Plan", "Rule", "lapack_pays", "make_plan", "plan_of_cluster", "takes_lapack"]

# The thresholds of every choice. Seconds are those of one core of an AMD EPYC (AVX-512), tol 1e-4
# on the graphs of `benchmarks.cases.eigsh` and 1e-6 on planted communities ("blocks") and paths.

# Rows up to which LAPACK is at most some 10 ms slower than an iteration, and finds every copy. 6
# and 20 pairs of 300 rows take it 12 and 11 ms (chebyshev 16 and 33 blocks, 10 and 27 path), of 400
# rows 21 (22 and 37, 12 and 17), of 600 rows 44 (20 and 38, 19 and 16).
DENSE_ROWS = 400
# Wanted pairs, as a fraction of the rows, beyond which LAPACK is faster: blocks of 2000 rows take
# it 1.1 s; chebyshev takes 0.8 s for an eighth of the pairs, 3.4 s for a fifth.
DENSE_FRACTION = 5
DENSE_LIMIT = 20_000  # rows: 3.2 GB of float64 per copy
# Growth per degree (log, base e) from which the wanted end counts as separated, and where rows have
# `FILLED_ROWS` entries, so that a factor fills in: mnist5k has 0.16 for 10 pairs (chebyshev takes
# 0.014 s, shift_invert 0.93) and 0.84 for 64 (0.045, 1.6), pp50k-32 has 1.3; the probe does not
# resolve the ends of usa (1.0, 0.22) and geonames (13, 2.1).
SEPARATED = 0.15
SEPARATED_FILLED = 0.05
# Problems so small that this many degrees of a filter take less than these seconds.
SMALL_ROWS = 5000
SMALL_SECONDS = 1e-3
SMALL_DEGREE = 10.0
FACTOR_MEMORY = 0.25  # of the memory of the machine that a factor may take
FACTOR_ENTRY = 24.0  # bytes of it, for each predicted entry


@dataclass(frozen=True)
class Plan:
    """Decided before the first step of a method; `EigInfo.plan`.

    method        what runs
    reason        why
    rejected      why not, for each other method, where `auto` had the choice
    width         columns of the start block (0 for "dense")
    first_filter  the Chebyshev filter of the start block; None: it has none
    cluster       pairs above a gap that the filters are made for, where the wanted ones are some of
                  these
    reordered     the nodes are renumbered by reverse Cuthill-McKee before the iteration
    seconds       predicted for one core of the host, the probe included; None: nothing predicts
                  them (dense, lanczos, lobpcg, a GPU, ranks, `x0`, shift_invert that was asked for)
    """

    method: str
    reason: str
    rejected: dict[str, str] = field(default_factory=dict)
    width: int = 0
    first_filter: FirstFilter | None = field(default=None, repr=False)
    cluster: int | None = None
    reordered: bool = False
    seconds: float | None = None

    @property
    def degree(self) -> int | None:
        """Of the filter of the start block."""
        return None if self.first_filter is None else self.first_filter.degree


@dataclass
class Choice:
    """What the rules are asked about: a task, and what the probe found of its spectrum, which is
    None where LAPACK is to run.
    """

    task: Task
    found: Probe | None

    @property
    def spectrum(self) -> Probe:
        assert self.found is not None
        return self.found

    @cached_property
    def rate(self) -> float:
        """Log of what a degree of a filter gains, as far as the probe tells; 0: it does not."""
        cut, last = self.spectrum.split(self.task.k + guards(self.task.k))
        return 0.0 if last is None else growth_rate(last, self.spectrum.lo, cut)

    @cached_property
    def separated(self) -> str | None:
        """Why a filter of moderate degree is all it takes, or None: the probe does not show it."""
        op = self.task.op
        filled = (op.nnz() or 0) >= FILLED_ROWS * op.n
        if self.rate <= (SEPARATED_FILLED if filled else SEPARATED):
            return None
        return f"well separated top, {self.rate:.2f} digits (base e) per degree"

    @cached_property
    def structure(self) -> Structure | None:
        """Levels of the graph and what a factor takes; None where A is not stored."""
        matrix = self.task.op.assemble()
        return None if matrix is None else structure(matrix)

    @property
    def levels(self) -> int:
        """Of the graph; 0 where no rule has asked for them."""
        known = self.__dict__.get("structure")
        return known.levels if known is not None else 0

    @cached_property
    def width(self) -> int:
        """Columns of the start block of filters."""
        return _width(self.task, "chebyshev")

    @cached_property
    def first(self) -> FirstFilter | None:
        """The filter of that block; None where a start was given, or there is nothing to filter."""
        if self.task.warm is not None:
            return None
        return first_filter(self.task, self.spectrum, self.width)

    @property
    def cost(self) -> Cost:
        return Cost(self.task, self.spectrum, self.width, self.first, self.rate, self.levels)

    def seconds(self, method: str) -> float | None:
        """Of `Plan.seconds`."""
        op, first = self.task.op, self.first if method == "chebyshev" else None
        if op.device.type != "cpu" or op.ranks is not None:
            return None
        if method == "shift_invert" and self.levels and self.structure is not None:
            return self.cost.factored(self.structure)
        return None if first is None else self.cost.filtered(self.separated is not None)

    def predicted(self) -> tuple[float, float, str]:
        """Seconds with a factor, seconds with filters, and both in words."""
        assert self.structure is not None
        shape = self.structure
        direct, polynomial = self.cost.factored(shape), self.cost.filtered(False)
        return (
            direct,
            polynomial,
            f"{shape.levels} levels, separator {shape.separator}, predicted fill "
            f"{shape.fill_ratio:.1f}x; predicted {direct:.2g} s against "
            f"{polynomial:.2g} s by filtering",
        )


@dataclass(frozen=True)
class Rule:
    """`method`, where `judge` says that it applies; judge also says why, or why not."""

    method: str
    when: str
    because: str
    judge: Callable[[Choice], tuple[bool, str]]


def lapack_pays(n: int, k: int) -> str | None:
    """Why LAPACK is the right choice for k pairs of a matrix of n rows, or None."""
    if n <= DENSE_ROWS:
        return f"n = {n} <= {DENSE_ROWS}"
    if k > n // DENSE_FRACTION and n <= DENSE_LIMIT:
        return f"k = {k} > n / {DENSE_FRACTION} = {n // DENSE_FRACTION}"
    return None


def _why_lapack(op: SymmetricOperator, k: int) -> str | None:
    """`lapack_pays`, where the rows are in one process: elsewhere they are gathered if it does."""
    return None if op.ranks is not None else lapack_pays(op.n, k)


def takes_lapack(op: SymmetricOperator, k: int, method: str) -> bool:
    """Whether the plan of `method=` is "dense". Needs no product with A."""
    return method == "dense" or (method == "auto" and _why_lapack(op, k) is not None)


def _lapack(choice: Choice) -> tuple[bool, str]:
    op, k = choice.task.op, choice.task.k
    why = _why_lapack(op, k)
    if why is not None:
        return True, why
    if op.ranks is not None:
        return False, "the rows are spread over ranks"
    most = op.n // DENSE_FRACTION
    if k > most:
        return False, f"n = {op.n} > {DENSE_LIMIT}"
    return False, f"n = {op.n} > {DENSE_ROWS} and k = {k} <= n / {DENSE_FRACTION} = {most}"


def _identity(choice: Choice) -> tuple[bool, str]:
    if is_multiple_of_identity(choice.task, choice.spectrum):
        return True, "A is a multiple of the identity"
    return False, "A is no multiple of the identity, and filters need fewer passes over the basis"


def _separated(choice: Choice) -> tuple[bool, str]:
    clear = choice.separated
    return clear is not None, clear or ""


def _no_entries(choice: Choice) -> tuple[bool, str]:
    op = choice.task.op
    applies = op.device.type != "cpu" or op.nnz() is None
    return applies, "no entries to factorise on the host"


def _small(choice: Choice) -> tuple[bool, str]:
    n = choice.task.op.n
    applies = choice.cost.degree_seconds * SMALL_DEGREE < SMALL_SECONDS and n < SMALL_ROWS
    return applies, f"small problem, n = {n}"


def _not_stored(choice: Choice) -> tuple[bool, str]:
    return choice.structure is None, "A has no stored entries to factorise"


def _factor_pays(choice: Choice) -> tuple[bool, str]:
    direct, polynomial, facts = choice.predicted()
    assert choice.structure is not None
    memory = FACTOR_ENTRY * choice.structure.fill
    return direct < polynomial and memory < FACTOR_MEMORY * host_memory(), facts


def _filter_pays(choice: Choice) -> tuple[bool, str]:
    return True, choice.predicted()[2]


RULES = (
    Rule(
        "dense",
        f"`n` ≤ {DENSE_ROWS}, or `k` > `n` / {DENSE_FRACTION} and `n` ≤ {DENSE_LIMIT}",
        "LAPACK takes milliseconds, or less than an iteration, and finds every multiplicity",
        _lapack,
    ),
    Rule(
        "lanczos",
        "`A` is a multiple of the identity",
        "there is nothing to filter",
        _identity,
    ),
    Rule(
        "chebyshev",
        f"the wanted end is well separated: a degree of a filter gains more than {SEPARATED} "
        f"(base e), {SEPARATED_FILLED} where rows have {FILLED_ROWS} entries or more",
        "a short filter is all it takes; rows of many entries fill a factor in",
        _separated,
    ),
    Rule(
        "chebyshev",
        "`A` is a callable, or on a GPU",
        "there are no entries to factorise on the host",
        _no_entries,
    ),
    Rule(
        "chebyshev",
        f"`n` < {SMALL_ROWS}, and {SMALL_DEGREE:.0f} degrees of a filter take less than "
        f"{SMALL_SECONDS * 1e3:.0f} ms",
        "filters cost too little for a prediction to pay",
        _small,
    ),
    Rule(
        "chebyshev",
        "`A` is dense, centred, of low rank, of implicit cliques, or spread over ranks",
        "there are no stored entries to factorise",
        _not_stored,
    ),
    Rule(
        "shift_invert",
        "a factorisation is predicted to cost less than filters, from the levels of the graph, and "
        f"fits in {FACTOR_MEMORY:.0%} of the memory",
        "a filter needs a degree of several times the levels; a factor of little fill does not",
        _factor_pays,
    ),
    Rule(
        "chebyshev",
        "else",
        "the factor would fill in",
        _filter_pays,
    ),
)
# mnist5k 1373 columns (chebyshev 736), for 64 pairs 11789 (2133), pp50k-32 616 (432), pp100k-16 421
# (240), pp100k-64 1068 (640), without a multigrid preconditioner; usa fails in 60 steps.
_NEVER = "it needs more products than chebyshev"


def choose(choice: Choice) -> tuple[str, str, dict[str, str]]:
    """(method, reason, rejected) of the first rule that applies."""
    rejected: dict[str, str] = {}
    for rule in RULES:
        applies, why = rule.judge(choice)
        if applies:
            for other in RULES:
                rejected.setdefault(other.method, f"{rule.method} was chosen first: {why}")
            rejected["lobpcg"] = _NEVER
            rejected.pop(rule.method)
            return rule.method, why, rejected
        if rule.method != "chebyshev":  # asked more than once, and for other reasons
            rejected[rule.method] = why
    raise AssertionError("the last rule always applies")


def make_plan(task: Task, method: str, found: Probe | None) -> Plan:
    """The plan of `method=` for a task with its tolerance set; found: None for LAPACK."""
    choice = Choice(task, found)
    reason, rejected = "as asked", dict[str, str]()
    if method == "auto" and task.preconditioner is not None:
        method, reason = "lobpcg", "a preconditioner was given"
    asked = method != "auto"
    if not asked:
        method, reason, rejected = choose(choice)
    if found is None:
        return Plan(method, reason, rejected)
    if asked:  # a short filter pays for no other order; else the levels are to be counted
        levels = None if choice.separated is None else 0
    else:
        levels = choice.levels
    filtered = method == "chebyshev"
    first = choice.first if filtered else None
    reordered = filtered and renumbering_pays(task.op, levels)
    return Plan(
        method,
        reason,
        rejected,
        _width(task, method),
        first,
        reordered=reordered,
        seconds=choice.seconds(method),
    )


def plan_of_cluster(task: Task, method: str, found: Probe) -> Plan | None:
    """The plan of filters for all pairs of the cluster that the wanted ones are in; None where the
    probe shows no such cluster, or another method pays.

    A filter that tells the k-th value from the next one needs a degree of 1 / sqrt(gap). Where the
    gap behind the cluster is wide, a block that holds all of it takes a fraction of that, and
    Rayleigh-Ritz tells its values apart.
    """
    size = found.whole
    if size is None:
        return None
    plan = make_plan(replace(task, k=size, angle_tol=None), method, found)
    if plan.method != "chebyshev":
        return None
    reason = f"{plan.reason}; filters hold all {size} pairs above a gap"
    return replace(plan, cluster=size, reason=reason)


def _width(task: Task, method: str) -> int:
    """Columns of the start block."""
    k, free = task.k, task.free
    if method == "chebyshev":
        given = 0 if task.warm is None else task.warm.shape[1]
        return max(start_width(k, free), given)
    if method == "lanczos":
        return min(k + lanczos_block(k, free), free)
    return guarded_width(k, free)
