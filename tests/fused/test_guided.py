"""Softmax rows whose negatives a guide selects, with gradients, against dense torch in fp64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast as sf
from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.fused import guided

from ..support.row_cases import assert_same, doubles, leaves, rows, weights

pytestmark = pytest.mark.usefixtures("default_kept_limit")

DTYPES = [torch.float64, torch.float32]
EVERY = tuple(guided.DIRECTIONS)
GIST = EVERY[:3]
# rows, negatives, columns, those of the guide: one block and many, ragged ones, rows without a pair
SHAPES = [(1, 0, 3, 2), (5, 4, 4, 3), (48, 0, 16, 5), (130, 300, 33, 20), (420, 0, 70, 40)]


class Problem:
    """Rows, scale, positives and weights, which have gradients, and the guide with its bound."""

    def __init__(self, shape: tuple[int, int, int, int], scale: float, dtype: torch.dtype) -> None:
        n, more, d, e = shape
        counts = [n, n, more][: 3 if more else 2]
        self.rows = [rows(count, d, dtype, i) for i, count in enumerate(counts)]
        self.guides = [rows(count, e, dtype, i + 5) for i, count in enumerate(counts)]
        self.bound = torch.linspace(-0.6, 0.9, n, dtype=dtype)
        positive = scale * (weights(n, dtype=dtype) - 0.5)
        self.leaves = leaves(
            *self.rows, torch.tensor(scale, dtype=dtype), positive, weights(n, dtype=dtype)
        )

    def total(self, tensors: list[Tensor], directions: tuple[str, ...]) -> Tensor:
        *given, scale, positive, weight = tensors
        sides = [guided.Side(x, by) for x, by in zip(given, self.guides, strict=True)]
        return guided.guided_total(sides, directions, self.bound, scale, positive, weight)

    def dense(self, tensors: list[Tensor], directions: tuple[str, ...]) -> Tensor:
        *given, scale, positive, weight = tensors
        by, n = [x.double() for x in self.guides], len(positive)
        parts = [positive[:, None]] * (1 + ("key_to_query" in directions))
        chosen = [pair for name, (_, *pair) in guided.DIRECTIONS.items() if name in directions]
        for s, t in [*chosen, *[(0, 2)] * (len(given) - 2)]:
            out = by[s] @ by[t].T > self.bound.double()[:, None]
            out |= torch.eye(n, len(by[t]), dtype=torch.bool) & (t < 2)
            parts.append((scale * given[s] @ given[t].T).masked_fill(out, -math.inf))
        return (weight * (torch.cat(parts, 1).logsumexp(1) - positive)).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3.0, -2.0, 200.0])  # without a shift, and with one
@pytest.mark.parametrize("directions", [GIST, EVERY, EVERY[:1], EVERY[2:3], EVERY[3:]])
@pytest.mark.parametrize("shape", SHAPES)
def test_dense(
    shape: tuple[int, int, int, int],
    directions: tuple[str, ...],
    scale: float,
    dtype: torch.dtype,
) -> None:
    if shape[0] < 48 and scale > 100 and dtype == torch.float32:
        pytest.skip("a handful of rows: nothing averages the rounding of logits near 200")
    problem = Problem(shape, scale, dtype)
    there = doubles(*problem.leaves)
    ours, theirs = problem.total(problem.leaves, directions), problem.dense(there, directions)
    if shape[0] == 1 and "key_to_query" not in directions:  # no pair: no loss, no gradient
        assert ours == 0
        assert all(not g.any() for g in torch.autograd.grad(ours, problem.leaves))
        return
    assert_same((ours,), (theirs,), dtype)
    found = torch.autograd.grad(1.5 * ours, problem.leaves)
    wanted = torch.autograd.grad(1.5 * theirs, there, materialize_grads=True)
    for g, e in zip(found, wanted, strict=True):
        if e.norm() > 1e-12:  # of a row with its positive twice it is 0
            assert_same((g,), (e,), dtype)


def test_negatives_alone() -> None:
    problem = Problem((70, 90, 8, 4), 4.0, torch.float64)
    there = doubles(*problem.leaves)
    ours, theirs = problem.total(problem.leaves, ()), problem.dense(there, ())
    assert_same((ours,), (theirs,), torch.float64)
    wanted = torch.autograd.grad(theirs, there, materialize_grads=True)
    assert_same(torch.autograd.grad(ours, problem.leaves), wanted, torch.float64)


@pytest.mark.parametrize("some", range(5))
def test_gradients_that_are_not_requested(some: int) -> None:
    """Each of queries, keys, negatives, the scale and the positives alone."""
    problem = Problem((60, 70, 8, 4), 4.0, torch.float64)
    alone = [x if i == some else x.detach() for i, x in enumerate(problem.leaves)]
    wanted = torch.autograd.grad(problem.total(problem.leaves, GIST), problem.leaves)[some]
    (found,) = torch.autograd.grad(problem.total(alone, GIST), alone[some])
    assert torch.equal(found, wanted)


def test_without_gradients_the_value_is_the_same() -> None:
    problem = Problem((200, 70, 8, 4), 4.0, torch.float32)
    value = problem.total(problem.leaves, GIST)
    assert torch.equal(problem.total([x.detach() for x in problem.leaves], GIST), value)
    with torch.no_grad():
        assert torch.equal(problem.total(problem.leaves, GIST), value)


@pytest.mark.parametrize("scale", [3.0, 200.0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_for_every_limit_and_number_of_threads(scale: float, dtype: torch.dtype) -> None:
    problem = Problem((420, 100, 40, 40), scale, dtype)
    results = []
    for limit in (64 << 20, 600_000, 0):  # all products are kept, some, none
        for threads in (1, 2, 5):
            sf.set_kept_limit(limit)
            torch.set_num_threads(threads)
            total = problem.total(problem.leaves, GIST)
            results.append([total, *torch.autograd.grad(total, problem.leaves)])
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_no_less_exact_than_torch() -> None:
    """Errors against float64 in float32, beside those of dense torch."""
    for scale in (20.0, 100.0):
        problem = Problem((256, 0, 200, 100), scale, torch.float32)
        problem.bound += 0.003  # no cosine of the guide is a rounding away from it
        there = doubles(*problem.leaves)
        exact = torch.autograd.grad(problem.dense(there, GIST), there)
        found = torch.autograd.grad(problem.total(problem.leaves, GIST), problem.leaves)
        dense = Problem.__new__(Problem)
        dense.guides, dense.bound = problem.guides, problem.bound
        theirs = torch.autograd.grad(dense.dense(problem.leaves, GIST), problem.leaves)
        for ours, other, e in list(zip(found, theirs, exact, strict=True))[:2]:
            assert (ours - e).norm() <= 1.5 * (other - e).norm()


@pytest.mark.parametrize("scale", [3.0, 200.0])
def test_nan_is_kept(scale: float) -> None:
    problem = Problem((60, 0, 8, 4), scale, torch.float32)
    with torch.no_grad():
        problem.leaves[0][3, 1] = math.nan
    total = problem.total(problem.leaves, GIST)
    assert total.isnan()
    assert torch.autograd.grad(total, problem.leaves[0])[0][3].isnan().all()


def test_a_guide_that_knows_nothing_leaves_out_the_pairs_themselves() -> None:
    """A bound that is NaN is exceeded by nothing, as in a comparison of torch."""
    problem = Problem((50, 0, 8, 4), 3.0, torch.float64)
    problem.bound.fill_(math.nan)
    there = doubles(*problem.leaves)
    ours, theirs = problem.total(problem.leaves, GIST), problem.dense(there, GIST)
    assert_same((ours,), (theirs,), torch.float64)
    wanted = torch.autograd.grad(theirs, there)
    assert_same(torch.autograd.grad(ours, problem.leaves), wanted, torch.float64)


def test_derivatives() -> None:
    problem = Problem((5, 4, 4, 3), 2.0, torch.float64)
    problem.bound = torch.linspace(-0.9, 0.9, 5).double()
    for directions in (GIST, EVERY):

        def total(*x: Tensor, directions: tuple[str, ...] = directions) -> Tensor:
            return problem.total(list(x), directions)

        assert torch.autograd.gradcheck(total, problem.leaves)
        assert torch.autograd.gradgradcheck(total, problem.leaves)


def test_opcheck() -> None:
    problem = Problem((9, 7, 4, 3), 2.0, torch.float32)
    q, k, more, *others = problem.leaves
    op = torch.ops.sslspec_fast.guided_total.default
    guides, flags = problem.guides, (7, True, True, True, True)
    torch.library.opcheck(op, (q, k, more, *guides, problem.bound, *others, *flags))
    without = (q, k, None, *guides[:2], None, problem.bound, *others, 3, True, True, False, True)
    torch.library.opcheck(op, without)


def test_strided_rows() -> None:
    problem = Problem((60, 0, 8, 4), 3.0, torch.float32)
    wide = [torch.cat([x.detach(), x.detach()], 1) for x in problem.rows]
    given = [*(x[:, :8] for x in wide), *problem.leaves[2:]]
    assert torch.equal(problem.total(given, GIST), problem.total(problem.leaves, GIST))


def test_the_core_names_what_is_wrong() -> None:
    a, row, scale = nnf.normalize(torch.ones(4, 3), dim=1), torch.zeros(4), torch.ones(())
    work = torch.zeros(_C.guided_workspace_size((4, 0, 3, 3), 0, True))

    def call(count: int = 2, bound: Tensor = row, work: Tensor = work, rows: Tensor = row) -> None:
        both = [view(a)] * 2
        loss = view(scale), view(bound), view(row), view(row), 7
        run = view(work), 1
        _C.guided(both[:count], both, loss, view(rows), view(row), [view(a), None], run)

    with pytest.raises(ValueError, match="needs queries, keys and perhaps negatives, got 1"):
        call(1)
    with pytest.raises(ValueError, match=r"bound must have size 4 .* got shape \(5,\)"):
        call(bound=torch.zeros(5))
    with pytest.raises(ValueError, match="row_loss must have size 4"):
        call(rows=torch.zeros(3))
    with pytest.raises(ValueError, match="workspace must have size"):
        call(work=work[1:])
