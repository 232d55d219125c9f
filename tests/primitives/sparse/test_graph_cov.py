"""Graph-weighted covariance against dense fp64: values, gradients, memory, determinism."""

from __future__ import annotations

import pytest
import torch

from sslspec_fast import _C
from sslspec_fast.primitives.sparse.graph_cov import graph_cov, graph_cov_centred

from ...support.process import fresh_python
from ...support.sparse_cases import (
    DTYPES,
    assert_close,
    dense_rows,
    large,
    matrix,
    strided,
    symmetric_matrix,
    with_threads,
)
from ...support.tolerance import assert_no_worse


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("d", [1, 3, 8, 17, 48, 64, 100, 129])
@pytest.mark.parametrize("e", [1, 5, 16, 33, 96, 130])
def test_every_width(d: int, e: int, dtype: torch.dtype) -> None:
    a, dense = matrix(141, 129)
    x, y = dense_rows(141, d, dtype), dense_rows(129, e, dtype, 2)
    size = torch.full((d, e), float(dense.norm()), dtype=torch.float64)
    assert_close(graph_cov(a, x, y), x.double().T @ dense @ y.double(), size)


@pytest.mark.parametrize("n", [1, 2, 7, 252, 257, 3000])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("values", [None, torch.float32, torch.float64])
@pytest.mark.parametrize("loops", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_symmetric(
    n: int, wide: bool, values: torch.dtype | None, loops: bool, dtype: torch.dtype
) -> None:
    a, dense = symmetric_matrix(n, values=values, wide=wide, loops=loops)
    x = dense_rows(n, 21, dtype).requires_grad_()
    e = dense_rows(21, 21, dtype, 3)
    c = graph_cov(a, x, x)
    wide_x = x.detach().double()
    size = float(dense.norm()) * torch.ones(21, 21, dtype=torch.float64)
    assert_close(c, wide_x.T @ dense @ wide_x, size)
    assert torch.equal(c, c.T)
    (c * e).sum().backward()
    sym = (e + e.T).double()
    assert_close(x.grad, dense @ wide_x @ sym, dense.abs() @ wide_x.abs() @ sym.abs())


def test_strided_input_with_ragged_columns_reads_nothing_outside() -> None:
    a, _ = symmetric_matrix(130)
    x = dense_rows(130, 21, torch.float32)
    c = graph_cov(a, strided(x), strided(x))
    assert bool(torch.isfinite(c).all())
    assert torch.equal(c, graph_cov(a, x, x.clone()))


@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_of_any_order(symmetric: bool) -> None:
    a, _ = (
        symmetric_matrix(6, values=torch.float64)
        if symmetric
        else matrix(6, 5, values=torch.float64)
    )
    x = dense_rows(6, 3, torch.float64).requires_grad_()
    y = dense_rows(a.n_cols, 2, torch.float64, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: graph_cov(a, x, y), (x, y))
    assert torch.autograd.gradgradcheck(lambda x, y: graph_cov(a, x, y), (x, y))
    if symmetric:
        assert torch.autograd.gradcheck(lambda x: graph_cov(a, x, x), (x,))
        assert torch.autograd.gradgradcheck(lambda x: graph_cov(a, x, x), (x,))
        degree = a.row_sums()
        assert torch.autograd.gradcheck(lambda x: graph_cov_centred(a, x, degree), (x,))
        assert torch.autograd.gradgradcheck(lambda x: graph_cov_centred(a, x, degree), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_centred(dtype: torch.dtype) -> None:
    a, dense = symmetric_matrix(70)
    x = dense_rows(70, 5, dtype) + 3
    degree = dense.to(dtype).sum(1)
    target = dense.to(dtype) - torch.outer(degree, degree) / degree.sum()
    c = graph_cov_centred(a, x, degree)
    torch.testing.assert_close(c, x.T @ target @ x, rtol=1e-4, atol=1e-3)
    with pytest.raises(ValueError, match=r"degree must be \(70,\) .* got \(69,\)"):
        graph_cov_centred(a, x, degree[1:])
    directed, _ = matrix(7, 7)
    with pytest.raises(ValueError, match=r"a must be symmetric"):
        graph_cov_centred(directed, x[:7], degree[:7])


def test_operator_contract() -> None:
    ops = torch.ops.sslspec_fast
    a, _ = matrix(7, 5, values=torch.float32)
    x, y = dense_rows(7, 4, torch.float32).requires_grad_(), dense_rows(5, 3, torch.float32)
    torch.library.opcheck(ops.graph_cov.default, (*a.with_transpose(), x, y.requires_grad_()))
    m = dense_rows(3, 2, torch.float32).requires_grad_()
    torch.library.opcheck(ops.graph_cov_apply.default, (*a.with_transpose(), y, m, None, None))
    s, _ = symmetric_matrix(7)
    for degree in (None, s.row_sums().float()):
        arguments = (s.indptr, s.indices, None, x, degree, True)
        torch.library.opcheck(ops.graph_cov_self.default, arguments)
    v = dense_rows(2, 1, torch.float32)[:, 0].contiguous().requires_grad_()
    u = torch.ones(7)
    torch.library.opcheck(ops.graph_cov_apply.default, (*a.with_transpose(), y, m, u, v))


def test_precision_against_torch() -> None:
    a, dense = symmetric_matrix(900)
    ours, torchs, exact = [], [], []
    for seed in range(4):
        x = dense_rows(900, 64, torch.float32, seed)
        for rows, out in ((x.clone(), ours), (x.clone(), torchs), (x.double(), exact)):
            rows.requires_grad_()
            c = graph_cov(a, rows, rows) if out is ours else rows.T @ (dense.to(rows.dtype) @ rows)
            c.square().sum().backward()
            out += [c.detach() / 900, rows.grad / 900**2]
    for part in (0, 1):
        assert_no_worse(ours[part::2], torchs[part::2], exact[part::2])


@pytest.mark.parametrize("dtype", DTYPES)
def test_bitwise_equal_for_any_number_of_threads(dtype: torch.dtype) -> None:
    a = large(6000)
    x = dense_rows(6000, 70, dtype).requires_grad_()

    def both() -> torch.Tensor:
        c = graph_cov(a, x, x)
        return torch.cat([c, *torch.autograd.grad(c.square().sum(), x)])

    one, two, five = (with_threads(k, both) for k in (1, 2, 5))
    assert torch.equal(one, two)
    assert torch.equal(one, five)


def test_memory_does_not_grow_with_the_rows() -> None:
    values = _C.graph_cov_workspace_size(10**9, 128, 128, 0)
    assert values * 4 <= 32 * 2**20


def test_errors_name_the_argument() -> None:
    a, _ = matrix(4, 6)
    with pytest.raises(ValueError, match=r"graph_cov: x must be \(4, d\), got \(6, 2\)"):
        graph_cov(a, torch.ones(6, 2), torch.ones(6, 2))
    with pytest.raises(ValueError, match=r"graph_cov: y must be \(6, e\) .*, got \(5, 2\)"):
        graph_cov(a, torch.ones(4, 2), torch.ones(5, 2))
    with pytest.raises(ValueError, match="CPU kernels take float32 or float64, got float16"):
        graph_cov(a, torch.ones(4, 2).half(), torch.ones(6, 2).half())


@pytest.mark.parametrize("threads", [1, 2])
def test_running_out_of_memory_in_any_thread_is_a_memory_error(tmp_path, threads: int) -> None:
    # In a process of its own, because the limit on its memory cannot be taken back. It starts in
    # an empty folder: the current directory is the first place where `python -c` looks.
    code = f"""
import resource, torch, sslspec_fast as sf
torch.set_num_threads({threads})
n, wide = 4000, 400_000
graph = sf.PairGraph.from_edges(torch.arange(n), (torch.arange(n) + 1) % n, None, n=n)
x = torch.ones(n, 1, dtype=torch.float64)
y = torch.ones(1, wide, dtype=torch.float64).expand(n, wide)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + 150 * 2**20
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    graph.covariance(x, y)
except (MemoryError, RuntimeError) as problem:
    print(type(problem).__name__)
"""
    assert fresh_python(tmp_path, "-c", code) in ("MemoryError", "RuntimeError")
