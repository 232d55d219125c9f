"""A softmax for every positive of a class, value and gradients, against dense torch in fp64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.fused.per_positive import per_positive_total
from sslspec_fast.primitives.pairwise.common import pair_workspace
from sslspec_fast.primitives.sparse.csr import Csr

from ..support.row_cases import assert_same, doubles, leaves, rows, weights

pytestmark = pytest.mark.usefixtures("default_kept_limit")

DTYPES = [torch.float64, torch.float32]
SHAPES = [(6, 3), (60, 20), (300, 33), (450, 130)]


def classes(kind: str, n: int) -> Tensor:
    """Class of each row; a row alone in its class has no positive."""
    return {
        "pairs": torch.arange(n) % (n // 2),
        "one large": (torch.arange(n) * 7 % n).clamp(min=n // 3) - n // 3,
        "all": torch.zeros(n, dtype=torch.int64),
    }[kind]


def positives(labels: Tensor, weighted: torch.dtype | None, wide: bool) -> tuple[Csr, Tensor]:
    """In compressed rows and dense; symmetric values, ones where weighted is None."""
    g = (labels[:, None] == labels).double().fill_diagonal_(0)
    if weighted is not None:
        g *= 1 + (labels[:, None] + labels) % 3
    i, j = g.nonzero().T
    indptr = torch.cat([torch.zeros(1, dtype=torch.int64), (g > 0).sum(1).cumsum(0)])
    values = None if weighted is None else g[i, j].to(weighted)
    n = len(labels)
    return Csr(indptr, j if wide else j.int(), values, n, symmetric=True), g


def dense(u: Tensor, scale: Tensor, weight: Tensor, labels: Tensor, g: Tensor) -> Tensor:
    s = scale * (u @ u.T)
    lse = s.masked_fill(labels[:, None] == labels, -math.inf).logsumexp(1, keepdim=True)
    return (weight * (g * -nnf.logsigmoid(s - lse)).sum(1)).sum()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scale", [3.0, 200.0])  # without a shift, and with one
@pytest.mark.parametrize("kind", ["pairs", "one large", "all"])
@pytest.mark.parametrize("weighted", [None, torch.float32, torch.float64])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_dense(
    n: int, d: int, weighted: torch.dtype | None, kind: str, scale: float, dtype: torch.dtype
) -> None:
    if n < 60 and scale > 100 and dtype == torch.float32:
        pytest.skip("a handful of rows: nothing averages the rounding of logits near 200")
    labels = classes(kind, n)
    csr, g = positives(labels, weighted, wide=n % 4 == 0)
    here = leaves(rows(n, d, dtype), torch.tensor(scale, dtype=dtype), weights(n, dtype=dtype))
    there = doubles(*here)
    ours = per_positive_total(*here, labels.int(), csr)
    found = torch.autograd.grad(1.5 * ours, here)
    if kind == "all":  # no row of another class: no loss, no gradient
        assert ours == 0
        assert all(not x.any() for x in found)
        return
    theirs = dense(*there, labels, g)
    assert_same((ours,), (theirs,), dtype)
    assert_same(found, torch.autograd.grad(1.5 * theirs, there), dtype)


@pytest.mark.parametrize("some", range(3))
def test_gradients_that_are_not_requested(some: int) -> None:
    labels = classes("one large", 60)
    csr, _ = positives(labels, None, wide=True)
    given = leaves(rows(60, 8, torch.float64), torch.tensor(4.0).double(), torch.ones(60).double())
    value = per_positive_total(*given, labels.int(), csr)
    wanted = torch.autograd.grad(value, given)
    alone = [x if i == some else x.detach() for i, x in enumerate(given)]
    (found,) = torch.autograd.grad(per_positive_total(*alone, labels.int(), csr), alone[some])
    assert torch.equal(found, wanted[some])
    with torch.no_grad():
        assert torch.equal(per_positive_total(*given, labels.int(), csr), value)


@pytest.mark.parametrize("scale", [3.0, 200.0])
def test_same_bits_for_every_limit_and_number_of_threads(scale: float) -> None:
    labels = classes("one large", 700)
    csr, _ = positives(labels, None, wide=True)
    given = leaves(rows(700, 90, torch.float32), torch.tensor(scale), torch.ones(700))
    results = []
    for limit in (64 << 20, 600_000, 0):
        for threads in (1, 2, 5):
            sf.set_kept_limit(limit)
            torch.set_num_threads(threads)
            total = per_positive_total(*given, labels.int(), csr)
            results.append([total, *torch.autograd.grad(total, given)])
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("weighted", [False, True])
def test_reductions_are_those_of_the_rows(reduction: str, weighted: bool) -> None:
    """Rows without a class, and class sizes as weights, with those of samples."""
    labels = torch.tensor([0, 0, 1, -1, 1, 1, 2, 0, -1])
    graph = sf.PairGraph.from_labels(labels, weight="class_size" if weighted else "uniform")
    z = rows(9, 4, torch.float64).requires_grad_()
    w = torch.linspace(1, 2, 9).double() if weighted else None
    options = {"negatives": "per_positive", "sample_weight": w, "reduction": reduction}
    both = [F.graph_info_nce(z, graph, impl=i, **options) for i in ("fused", "torch")]
    torch.testing.assert_close(*both)
    torch.testing.assert_close(*(torch.autograd.grad(x, z)[0] for x in both))
    again, _ = F.graph_info_nce(z, graph, return_terms=True, **options)
    assert torch.equal(again, both[0])


def test_no_less_exact_than_torch() -> None:
    """Errors against float64 in float32, beside those of dense torch."""
    labels = torch.arange(256) // 4
    csr, g = positives(labels, None, wide=True)
    for scale in (10.0, 100.0):
        here = leaves(rows(256, 100, torch.float32), torch.tensor(scale), torch.ones(256))
        there = doubles(*here)
        exact = torch.autograd.grad(dense(*there, labels, g), there[0])[0]
        ours = torch.autograd.grad(per_positive_total(*here, labels.int(), csr), here[0])[0]
        theirs = torch.autograd.grad(dense(*here, labels, g.float()), here[0])[0]
        assert (ours - exact).norm() <= 1.5 * (theirs - exact).norm()


def test_derivatives() -> None:
    labels = torch.tensor([0, 0, 1, 2, 1, 1])
    csr, _ = positives(labels, torch.float64, wide=True)
    given = leaves(rows(6, 3, torch.float64), torch.tensor(2.0).double(), torch.rand(6).double())

    def total(*x: Tensor) -> Tensor:
        return per_positive_total(*x, labels.int(), csr)

    assert torch.autograd.gradcheck(total, given)
    assert torch.autograd.gradgradcheck(total, given)


def test_opcheck() -> None:
    labels = torch.tensor([0, 0, 1, 2, 1, 1])
    csr, _ = positives(labels, torch.float32, wide=True)
    given = leaves(rows(6, 3, torch.float32), torch.tensor(2.0), torch.rand(6))
    op = torch.ops.sslspec_fast.per_positive_total.default
    torch.library.opcheck(op, (*given, labels.int(), *csr.arrays(), True, True))
    torch.library.opcheck(op, (*given, labels.int(), *csr.arrays(), True, False))


def test_the_core_names_what_is_wrong() -> None:
    u, row, scale, ids = torch.ones(4, 3), torch.zeros(4), torch.ones(()), torch.zeros(4).int()
    csr, _ = positives(torch.zeros(4).long(), None, wide=True)
    small, _ = positives(torch.zeros(3).long(), None, wide=True)

    def call(csr: Csr = csr, weight: Tensor = row, grad: Tensor = u) -> None:
        run = view(pair_workspace(u, None, backward=True)), 1
        rows = view(u), view(scale), view(ids)
        stats = view(row), view(row)
        _C.per_positive(rows, csr.view(), view(weight), stats, view(row), view(grad), run)

    with pytest.raises(ValueError, match="positives must have 4 rows, got 3"):
        call(small)
    with pytest.raises(ValueError, match="weight must have size 4"):
        call(weight=torch.zeros(5))
    with pytest.raises(ValueError, match="grad must be contiguous"):
        call(grad=torch.zeros(4, 6)[:, :3])
