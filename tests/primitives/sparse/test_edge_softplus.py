"""Cross-entropies of the entries of a sparse matrix, against dense torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast.graph import PairGraph
from sslspec_fast.primitives.sparse.csr import Csr
from sslspec_fast.primitives.sparse.edge_softplus import edge_softplus

from ...support.inputs import pair_rows, weighted_graph

KINDS = ("binary", "targets", "rectangular")


def problem(kind: str, n: int, d: int) -> tuple[Csr, Tensor, list[Tensor]]:
    """The matrix, the same dense with a mask of its entries, and x, y, bias."""
    if kind == "rectangular":
        m = n + 3
        pattern = torch.arange(n * m).view(n, m) % 4 == 1
        values = torch.linspace(0, 1, int(pattern.sum()), dtype=torch.float64)
        indptr = nnf.pad(pattern.sum(1).cumsum(0), (1, 0))
        a = Csr(indptr, pattern.nonzero()[:, 1].contiguous(), values, m)
    elif kind == "targets":
        a = (0.5 * weighted_graph(n)).stored()
    else:
        a = PairGraph.from_edges(*torch.tensor([[0, 1, 2, 0], [1, 2, 0, n - 1]]), n=n).stored()
    dense = torch.full((n, a.n_cols), torch.nan, dtype=torch.float64)
    rows = torch.repeat_interleave(a.indptr.diff())
    dense[rows, a.indices.long()] = 1.0 if a.values is None else a.values.double()
    x, y = pair_rows(n, d)[0], pair_rows(a.n_cols, d, 1)[0]
    return a, dense, [x, y, torch.tensor(-0.7, dtype=torch.float64)]


def expected(dense: Tensor, x: Tensor, y: Tensor, bias: Tensor) -> Tensor:
    stored = ~dense.isnan()
    pairs = nnf.binary_cross_entropy_with_logits(
        x @ y.T + bias, dense.nan_to_num(0.0), reduction="none"
    )
    return torch.where(stored, pairs, 0.0).sum(1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "d"), [(7, 3), (60, 33)])
def test_values_and_gradients(kind: str, n: int, d: int, dtype: torch.dtype) -> None:
    a, dense, exact = problem(kind, n, d)
    here = [t.to(dtype).requires_grad_() for t in exact]
    there = [t.detach().double().requires_grad_() for t in here]
    ours, wanted = edge_softplus(a, *here), expected(dense, *there)
    weight = torch.linspace(-1, 2, n, dtype=torch.float64)
    torch.testing.assert_close(ours.double(), wanted, rtol=2e-6, atol=2e-6)
    grads = torch.autograd.grad(ours, here, weight.to(dtype))
    exact_grads = torch.autograd.grad(wanted, there, weight)
    for got, want in zip(grads, exact_grads, strict=True):
        assert got.dtype == dtype
        torch.testing.assert_close(got.double(), want, rtol=2e-5, atol=2e-5)
    if dtype == torch.float64:
        torch.testing.assert_close((ours, grads), (wanted, exact_grads))


@pytest.mark.parametrize("targets", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_derivatives_and_operator(kind: str, targets: bool) -> None:
    a, _, (x, y, bias) = problem(kind, 7, 3)
    for t in (bias, torch.linspace(-1, 1, 7, dtype=torch.float64)):
        here = [z.requires_grad_() for z in (x, y, t)]

        def loss(*z: Tensor) -> Tensor:
            return edge_softplus(a, *z, targets=targets)

        assert torch.autograd.gradcheck(loss, here)
        assert torch.autograd.gradgradcheck(loss, here)
        op = torch.ops.sslspec_fast.edge_softplus.default
        torch.library.opcheck(op, (*a.with_transpose(), *here, None, targets))


@pytest.mark.parametrize("shape", [(), (7,)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_scale(kind: str, shape: tuple[int, ...]) -> None:
    a, dense, (x, y, bias) = problem(kind, 7, 3)
    scale = torch.linspace(0.5, 2, 7, dtype=torch.float64) if shape else bias + 2
    here = [z.detach().requires_grad_() for z in (x, y, bias, scale)]

    def loss(x: Tensor, y: Tensor, bias: Tensor, scale: Tensor) -> Tensor:
        return edge_softplus(a, x, y, bias, scale=scale)

    got = loss(*here)
    want = expected(dense, x * (here[3][:, None] if shape else here[3]), *here[1:3])
    torch.testing.assert_close(got, want)
    assert torch.autograd.gradcheck(loss, here)
    assert torch.autograd.gradgradcheck(loss, here)
    op = torch.ops.sslspec_fast.edge_softplus.default
    torch.library.opcheck(op, (*a.with_transpose(), *here, True))


@pytest.mark.parametrize("kind", KINDS)
def test_weights_and_a_bias_per_row(kind: str) -> None:
    """The first term alone, with weights of any size."""
    a, dense, (x, y, _) = problem(kind, 20, 5)
    if a.values is not None:
        a, dense = a.scaled(3.0), 3 * dense
    here = [z.requires_grad_() for z in (x, y, torch.linspace(-1, 1, 20, dtype=torch.float64))]
    got = edge_softplus(a, *here, targets=False)
    pairs = -nnf.logsigmoid(x @ y.T + here[2][:, None])
    want = (dense.nan_to_num(0.0) * pairs).sum(1)
    weight = torch.linspace(-1, 2, 20, dtype=torch.float64)
    grads = [torch.autograd.grad(z, here, weight) for z in (got, want)]
    torch.testing.assert_close((got, grads[0]), (want, grads[1]))


@pytest.mark.parametrize("n", [1, 9])
def test_a_matrix_with_the_identity(n: int) -> None:
    empty = torch.zeros(0, dtype=torch.int64)
    directed = PairGraph.from_edges(torch.arange(n - 1), torch.arange(1, n), n=n)
    cases = [directed, PairGraph.from_edges(empty, empty, n=n)]
    if n > 1:
        cases += [PairGraph.from_labels(torch.arange(n) % 4).without_diagonal()]
        cases += [(0.5 * weighted_graph(n)).without_diagonal()]
    for graph in cases:
        a = graph.stored()
        both = a.with_identity()
        for one, given in ((both, a), (both.t(), a.t())):
            dense = torch.from_numpy(given.to_scipy().toarray()) + torch.eye(n).double()
            assert torch.equal(torch.from_numpy(one.to_scipy().toarray()), dense)
            rows = one.rows() * n + one.indices
            assert (rows.diff() > 0).all()  # ascending in each row, none twice
        assert both.symmetric == a.symmetric


def test_sure_entries_keep_their_digits() -> None:
    a = PairGraph.from_edges([0, 1], [1, 0], n=2).stored()
    x = torch.eye(2)[[0, 0]].requires_grad_()
    out = edge_softplus(a, 40 * x, x.detach(), torch.tensor(0.0))
    torch.testing.assert_close(out, torch.full((2,), 4.2483543e-18), rtol=1e-5, atol=0)
    (grad,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(grad[:, 0], torch.full((2,), -40 * 4.2483543e-18), rtol=1e-5, atol=0)


def test_strided_rows() -> None:
    a, _, (x, y, bias) = problem("targets", 20, 8)
    wide = torch.cat([x, y], 1)
    got = edge_softplus(a, wide[:, :8], wide.T.contiguous().T[:, 8:], bias)
    torch.testing.assert_close(got, edge_softplus(a, x, y, bias))


def test_bad_shapes() -> None:
    a, _, (x, y, bias) = problem("rectangular", 7, 3)
    with pytest.raises(ValueError, match=r"y must be \(10, d\) torch.float64, got \(7"):
        edge_softplus(a, x, x, bias)
    with pytest.raises(ValueError, match=r"y must be .*, got \(10, 3\) torch.float32"):
        edge_softplus(a, x, y.float(), bias)
