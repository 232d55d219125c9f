"""The CUDA kernels without a GPU: compiled for the host and run thread by thread.

    SSLSPEC_EMULATE_CUDA=build/emulator pytest tests/gpu -k emulated

builds tests/cuda_emulator in that folder (needs a compiler, cmake and the CUDA headers) and checks
indexing, barriers, copies, fragment layouts and ragged edges of every portable kernel. Without the
variable the tests are skipped. Speed, registers and memory ordering are not modelled.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslspec_fast import PairGraph, functional
from sslspec_fast.fused import spectral_contrastive
from sslspec_fast.primitives import gram
from sslspec_fast.primitives.gram import products
from sslspec_fast.primitives.pairwise import LeftOut, Logits
from sslspec_fast.primitives.sparse import csr, graph_cov_cuda

from ..support.agreement import check, leaves_of, value_and_gradients
from ..support.cases import CASES as LOSSES
from ..support.emulation import BF16, ERROR, F16, F32, F64, GpuPaths, close, emulated, view
from ..support.inputs import pair_rows

pytestmark = emulated


def unit(n: int, d: int, dtype: torch.dtype) -> Tensor:
    return F.normalize(torch.randn(n, d, dtype=F64), dim=1).to(dtype)


def case(core: Any, n: int, m: int, d: int, dtype: torch.dtype, tau: float, **options: Any) -> None:
    """One problem against dense float64; options are the flags below."""
    flags = ("symmetric", "cols", "ids", "skip", "skip_self", "row_scale", "bias", "fast")
    o = SimpleNamespace(**(dict.fromkeys(flags, False) | options))
    torch.manual_seed(n + m + d)
    kind = F64 if dtype == F64 else F32
    a = unit(n, d, dtype)
    b = None if o.symmetric else unit(m, d, dtype)
    m = n if o.symmetric else m
    scale = (torch.rand(n) + 0.5 if o.row_scale else torch.ones(())).to(kind) / tau
    bias = torch.tensor(-3.0, dtype=kind) if o.bias else None
    out = torch.zeros(n, m, dtype=torch.bool)
    left_out = LeftOut(self_pairs=o.skip_self)
    if o.ids:
        ids_a = torch.randint(0, max(2, n // 3), (n,), dtype=torch.int32)
        ids_b = ids_a if o.symmetric else torch.randint(0, max(2, n // 3), (m,), dtype=torch.int32)
        left_out = left_out._replace(ids_a=ids_a, ids_b=ids_b)
        out = out | (ids_a[:, None] == ids_b[None, :])
    if o.skip:
        pattern = torch.rand(n, m) < 0.2
        pattern[n // 2] = True
        left_out = left_out._replace(
            indptr=F.pad(pattern.sum(1).cumsum(0), (1, 0)),
            indices=pattern.nonzero()[:, 1].contiguous(),
        )
        out = out | pattern
    if o.skip_self:
        out = out | torch.eye(n, m, dtype=torch.bool)

    left, exact = a.double().requires_grad_(), scale.double().requires_grad_()
    right = left if b is None else b.double().requires_grad_()
    shift = None if bias is None else bias.double().requires_grad_()
    logits = (left @ right.T) * (exact[:, None] if o.row_scale else exact)
    grad_row, grad_col = torch.randn(n, dtype=kind), torch.randn(m, dtype=kind)
    if shift is not None:
        want_row = F.softplus(logits + shift).masked_fill(out, 0.0).sum(1)
    else:
        logits = logits.masked_fill(out, -torch.inf)
        want_row = logits.logsumexp(1)
    want_col = logits.logsumexp(0)
    total = (torch.where(want_row.isinf(), 0.0, want_row) * grad_row).sum()
    if o.cols:
        total = total + (torch.where(want_col.isinf(), 0.0, want_col) * grad_col).sum()
    total.backward()

    inputs = Logits(a, b, scale, left_out, bias)
    row, col = core.forward(inputs, cols=o.cols)
    error = ERROR[F16] if o.fast else ERROR[dtype]
    close(row, want_row, error)
    statistics = (None if o.bias else row, None), (grad_row, None)
    if o.cols:
        close(col, want_col, error)
        statistics = (row, col), (grad_row, grad_col)
    grad_a, grad_b, row_dot, row_total = core.backward(inputs, *statistics)
    assert left.grad is not None
    assert exact.grad is not None
    close(grad_a, left.grad.nan_to_num(0.0), error)
    if b is not None:
        assert right.grad is not None
        close(grad_b, right.grad.nan_to_num(0.0), error)
    by_row = row_dot * (0.5 if o.symmetric else 1.0)
    # the terms of a scale's gradient have both signs and nearly cancel
    close(by_row if o.row_scale else by_row.sum(), exact.grad.nan_to_num(0.0), 20 * error)
    if shift is not None:
        assert shift.grad is not None
        close(row_total.sum(), shift.grad, error)


CASES = [
    (257, 130, 7, 0.5, {"cols": True}),
    (130, 0, 64, 0.1, {"symmetric": True, "skip_self": True}),
    (300, 0, 72, 0.1, {"symmetric": True, "skip_self": True, "ids": True}),
    (300, 0, 72, 0.01, {"symmetric": True, "skip_self": True, "ids": True}),
    (70, 200, 130, 0.1, {"cols": True, "ids": True, "skip": True, "skip_self": True}),
    (70, 200, 130, 0.01, {"cols": True, "ids": True, "skip": True, "skip_self": True}),
    (200, 70, 40, 0.2, {"skip": True, "row_scale": True}),
    (130, 130, 252, 0.2, {"skip_self": True, "bias": True}),
    (130, 150, 20, 0.2, {"row_scale": True, "bias": True}),
    (70, 200, 20, 0.2, {"bias": True, "ids": True, "skip": True, "skip_self": True}),
    (1, 1, 8, 0.1, {"cols": True}),
    (2, 0, 8, 0.1, {"symmetric": True, "skip_self": True}),
]
WIDE = [
    (70, 201, 300, 0.1, {"cols": True, "ids": True, "skip": True, "skip_self": True}),
    (70, 201, 300, 0.01, {"cols": True, "ids": True, "skip": True, "skip_self": True}),
    (201, 70, 300, 0.1, {"skip": True, "row_scale": True}),
    (130, 131, 300, 0.1, {"skip_self": True, "row_scale": True, "bias": True}),
    (70, 201, 300, 0.1, {"bias": True, "ids": True, "skip": True, "skip_self": True}),
]


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize(("n", "m", "d", "tau", "options"), CASES)
def test_statistics_and_chained_backward(
    pairs: ModuleType, n: int, m: int, d: int, tau: float, options: Any, dtype: torch.dtype
) -> None:
    case(pairs, n, m, d, dtype, tau, **options)


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize(("n", "m", "d", "tau", "options"), WIDE)
def test_wide_rows(
    pairs: ModuleType, n: int, m: int, d: int, tau: float, options: Any, dtype: torch.dtype
) -> None:
    case(pairs, n, m, d, dtype, tau, **options)


def test_tf32(pairs: ModuleType) -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        case(pairs, 257, 130, 100, F32, 0.1, cols=True, fast=True)
    finally:
        torch.set_float32_matmul_precision(before)


def test_several_super_blocks_and_strips(pairs: ModuleType) -> None:
    # the emulator allows two super blocks a side: 18 tiles in one direction are two strips each
    case(pairs, 1300, 0, 24, BF16, 0.1, symmetric=True, skip_self=True, ids=True)
    case(pairs, 200, 2250, 24, BF16, 0.01, cols=True, ids=True)


@pytest.mark.parametrize("dtype", [BF16, F32])
def test_gpus_with_less_shared_memory(pairs: ModuleType, dtype: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("SSLSPEC_EMULATE_SHARED", str(99 << 10))
    for d in (60, 128, 250):  # neither all of X nor the chained backward fits everywhere
        case(pairs, 150, 140, d, dtype, 0.1, cols=True, skip_self=True)


def test_hopper_vectors_and_clearing(pairs: ModuleType) -> None:
    # d > 256 and m >= 1024 choose the Hopper branch, whose GEMM has a stand-in here
    options = {"cols": True, "ids": True, "skip": True, "skip_self": True}
    case(pairs, 140, 1030, 264, BF16, 0.1, **options)
    case(pairs, 140, 1030, 264, BF16, 0.01, **options)
    case(pairs, 1100, 0, 264, BF16, 0.1, symmetric=True, skip_self=True, ids=True)


# one constant top; a top per warp; for scores of both signs and size, a top per row and column
@pytest.mark.parametrize("tau", [0.1, 0.01, 0.001])
@pytest.mark.parametrize(
    ("n", "m", "d", "options"),
    [
        (300, 290, 24, {"cols": True, "ids": True, "skip": True, "skip_self": True}),
        (1100, 150, 24, {"cols": True, "skip_self": True}),  # chunks end inside the slots
        (150, 900, 264, {"row_scale": True}),
        (1, 1, 8, {"cols": True}),
        (300, 290, 24, {"bias": True, "skip_self": True}),
        (300, 0, 24, {"symmetric": True, "skip_self": True, "ids": True}),
        (1500, 0, 24, {"symmetric": True, "skip_self": True}),
        (130, 0, 264, {"symmetric": True}),
    ],
)
@pytest.mark.parametrize("kernel", ["sums", "statistics", "strips"])
def test_hopper_statistics(
    pairs: ModuleType,
    monkeypatch: Any,
    n: int,
    m: int,
    d: int,
    options: Any,
    tau: float,
    kernel: str,
) -> None:
    # the products have a stand-in here; everything around them is the real thing
    monkeypatch.setenv("SSLSPEC_HOPPER", kernel)
    if options.get("bias"):
        tau = max(tau, 0.1)
    case(pairs, n, m, d, BF16, tau, **options)


@pytest.mark.parametrize("kernel", ["sums", "statistics", "strips", "portable"])
@pytest.mark.parametrize("by_rows", [True, False])
def test_sums_far_below_those_of_their_neighbours(
    pairs: ModuleType, monkeypatch: Any, kernel: str, by_rows: bool
) -> None:
    """A column without a pair in rows whose logits are 200 above what the others have for it."""
    monkeypatch.setenv("SSLSPEC_HOPPER", kernel)
    n, m, d = 200, 150, 8
    a, b = torch.zeros(n, d), torch.zeros(m, d)
    a[:, 0], b[:, 0] = -1.0, 1.0
    a[:64, 0] = 1.0  # logits 100, and -100 from row 64 on
    a[64:, 1], b[3, 1] = -1.0, 1.0  # and -200 against column 3
    ids_a, ids_b = torch.arange(n, dtype=torch.int32), torch.arange(m, dtype=torch.int32) + 1000
    ids_a[:64], ids_b[3] = 7, 7
    left, right, ids = a.bfloat16(), b.bfloat16(), (ids_a, ids_b)
    if by_rows:
        left, right, ids = right, left, (ids_b, ids_a)
    logits = 100 * left.double() @ right.double().T
    logits[ids[0][:, None] == ids[1]] = -torch.inf
    row, col = pairs.forward(Logits(left, right, torch.tensor(100.0), LeftOut(*ids)), cols=True)
    close(row, logits.logsumexp(1), 1e-5)
    close(col, logits.logsumexp(0), 1e-5)


@pytest.mark.parametrize("scale", [16.0, 34.0, 37.0])
def test_gradients_times_a_loss_scale_stay_finite(pairs: ModuleType, scale: float) -> None:
    """Weights of pairs that are all far apart, with gradients of 2^19, in rows wide and narrow."""
    for d in (40, 264):
        a = torch.zeros(2, d)
        a[:, 0], a[:, 1] = 1.0, torch.tensor([0.01, -0.01])
        left, right, tau = a.bfloat16(), -a.bfloat16(), torch.tensor(scale)
        inputs, seed = Logits(left, right, tau), torch.full((2,), 2.0**19)
        row, _ = pairs.forward(inputs)
        statistics = (row, None), (seed, None)
        # the scale is folded into the weights
        got = pairs.backward(inputs, *statistics, want_scale=False)
        exact = torch.autograd.grad(
            (scale * (x := left.double().requires_grad_()) @ right.double().T).logsumexp(1),
            x,
            seed.double(),
        )[0]
        close(got[0], exact, ERROR[BF16])


@pytest.mark.parametrize("dtype", [F16, F32])
@pytest.mark.parametrize(("n", "m", "d", "tau", "options"), WIDE)
def test_wide_rows_by_split_products(
    pairs: ModuleType,
    split_products: None,
    n: int,
    m: int,
    d: int,
    tau: float,
    options: Any,
    dtype: Any,
) -> None:
    case(pairs, n, m, d, dtype, tau, **options)


@pytest.mark.parametrize("seed", [1.0, 1e-30])
@pytest.mark.parametrize("tau", [0.5, 0.1, 0.02])
def test_split_products_lose_no_digits(
    pairs: ModuleType, split_products: None, tau: float, seed: float
) -> None:
    torch.manual_seed(0)
    n, m, d = 200, 330, 264
    a, b, scale = unit(n, d, F32), unit(m, d, F32), torch.tensor(1 / tau)
    seeds = seed * torch.randn(n), seed * torch.randn(m)

    def plain(dtype: torch.dtype) -> tuple[Tensor, ...]:
        left, right = a.to(dtype).requires_grad_(), b.to(dtype).requires_grad_()
        logits = left @ right.T * scale.to(dtype)
        outputs = logits.logsumexp(1), logits.logsumexp(0)
        return torch.autograd.grad(outputs, (left, right), [s.to(dtype) for s in seeds])

    inputs = Logits(a, b, scale)
    ours = pairs.backward(inputs, pairs.forward(inputs, cols=True), seeds)[:2]
    for got, torchs, exact in zip(ours, plain(F32), plain(F64), strict=True):
        errors = [float((g.double() - exact).norm()) for g in (got, torchs)]
        assert errors[0] <= 2 * errors[1]


@pytest.mark.parametrize("dtype", [BF16, F32, F64])
@pytest.mark.parametrize("d", [40, 300])
def test_gradient_of_one_side(pairs: ModuleType, d: int, dtype: torch.dtype) -> None:
    kind = F64 if dtype == F64 else F32
    a, b, scale = unit(150, d, dtype), unit(200, d, dtype), torch.tensor(5.0, dtype=kind)
    inputs, seed = Logits(a, b, scale), torch.rand(150, dtype=kind)
    row, _ = pairs.forward(inputs)
    arguments = inputs, (row, None), (seed, None)
    both, one = pairs.backward(*arguments), pairs.backward(*arguments, want_b=False)
    assert one[1] is None
    assert torch.equal(one[0], both[0])
    assert torch.equal(one[2], both[2])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("b", [1, 3, 8, 16, 36, 80, 130])
def test_sparse(core: ModuleType, monkeypatch: Any, b: int, index: torch.dtype, dtype: Any) -> None:
    torch.manual_seed(b)
    n = 41
    pattern = torch.rand(n, n) < 0.15
    pattern |= pattern.T.clone()
    pattern[3] = pattern[:, 3] = False
    a = torch.rand(n, n, dtype=F64)
    a = (a + a.T) * pattern
    indptr, values = F.pad(pattern.sum(1).cumsum(0), (1, 0)), a[pattern]
    indices = pattern.nonzero()[:, 1].to(index)
    x, own, w = (torch.randn(n, b, dtype=dtype) for _ in range(3))
    r, c, diagonal = (torch.rand(n, dtype=dtype) for _ in range(3))
    sparse = (view(indptr), view(indices), view(values))
    y = torch.randn(n, b, dtype=dtype)
    want = 1.5 * r.double()[:, None] * (a @ (c[:, None] * x).double()) + 0.5 * y.double()
    want = want + (0.3 + 0.7 * diagonal.double())[:, None] * w.double()
    core.cuda_spmm(
        sparse,
        view(x),
        None,
        (view(r), view(c), False),
        (1.5, 0.5, 0.3, 0.7, view(w), view(diagonal)),
        view(y),
        -1,
        0,
    )
    close(y, want, ERROR[dtype])
    summed = a * (r.double()[:, None] + c.double())
    want = summed.sum(1, keepdim=True) * own.double() - summed @ x.double()
    scales, plain = (view(r), view(c), True), (1.0, 0.0, 0.0, 0.0, None, None)
    core.cuda_spmm(sparse, view(x), view(own), scales, plain, view(y), -1, 0)
    close(y, want, ERROR[dtype])
    out = torch.empty(n, dtype=dtype)
    for squared in (False, True):
        core.cuda_edges(sparse, view(x), view(own), view(out), squared, 0)
        ends = x.double() @ own.double().T
        if squared:
            ends = torch.cdist(x.double(), own.double()).square()
        close(out, (a * ends).sum(1), 10 * ERROR[dtype])
    each = torch.empty(len(indices), dtype=dtype)
    core.cuda_edge_values(sparse, view(x), view(own), view(each), 0)
    close(each, (x.double() @ own.double().T)[pattern], 10 * ERROR[dtype])
    monkeypatch.setattr(graph_cov_cuda, "_C", core)
    for module in (graph_cov_cuda, csr):
        monkeypatch.setattr(module, "view", view)
    got = graph_cov_cuda.compute(csr.Sparse(indptr, indices, values), x, None)
    close(got, x.double().T @ a @ x.double(), 10 * ERROR[dtype])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(
    ("n", "d", "form"),
    [(1, 5, "one"), (600, 7, "one"), (257, 33, "two"), (1, 5, "product"), (600, 33, "product")],
)
def test_moments(core: ModuleType, n: int, d: int, form: str, dtype: torch.dtype) -> None:
    two, product = form != "one", form == "product"
    x = torch.randn(n, d, dtype=dtype) + 5
    y = 1e5 * torch.randn(n, d, dtype=dtype) if two else None
    mean, var = torch.empty(2, 3 if two else 1, d, dtype=dtype)
    work = torch.empty(core.cuda_moments_workspace_size(n, d, 2 if two else 1), dtype=dtype)
    core.cuda_moments_forward(view(x), view(y), product, view(mean), view(var), (view(work), 0))
    columns = [x] if y is None else [x, y] if product else [x, y, x - y]
    for s, column in enumerate(columns):
        close(mean[s], column.double().mean(0), ERROR[dtype])
        close(var[s], column.double().var(0, unbiased=False), ERROR[dtype])
    if product and y is not None:
        a, b = (t.double() - t.double().mean(0) for t in (x, y))
        assert not mean[2].any()
        close(var[2], (a * b).mean(0), 10 * ERROR[dtype])


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("longest", [0.0, 2.0])
@pytest.mark.parametrize(("n", "d"), [(1, 5), (19, 33), (40, 160)])
def test_unit_rows(core: ModuleType, n: int, d: int, longest: float, dtype: torch.dtype) -> None:
    z = torch.randn(2, n, d, dtype=dtype) * torch.logspace(-2, 1, n)[:, None].to(dtype)
    x, grad_z, norm, dot = torch.empty_like(z), torch.empty_like(z), z.norm(dim=2), z.new_empty(n)
    seeds = torch.randn(2, n, d, dtype=dtype), torch.randn(n, dtype=dtype)
    views = [[view(t) for t in pair] for pair in (z, x, norm, seeds[0], grad_z)]
    core.cuda_unit_rows_forward(views[0], longest, views[1], views[2], view(dot), 0)
    core.cuda_unit_rows_backward(views[1], views[2], longest, views[3], view(seeds[1]), views[4], 0)
    leaf = z.double().requires_grad_()
    length = leaf.norm(dim=2, keepdim=True)
    exact = leaf * (longest / length).clamp(max=1) if longest else F.normalize(leaf, dim=2)
    exact_dot = (exact[0] * exact[1]).sum(1)
    torch.autograd.backward((exact, exact_dot), [s.double() for s in seeds])
    close(x, exact, ERROR[dtype])
    close(dot, exact_dot, ERROR[dtype])
    assert leaf.grad is not None
    close(grad_z, leaf.grad, ERROR[dtype])


@pytest.mark.parametrize("dtype", [BF16, F16, F32, F64])
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_on_its_gpu_path(name: str, dtype: torch.dtype, gpu_paths: GpuPaths) -> None:
    check(name, 37, 20, dtype, "cpu")


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("name", ["nt_xent", "clip", "siglip", "sup_con", "vicreg", "barlow_twins"])
def test_wide_rows_on_the_gpu_path(name: str, dtype: torch.dtype, gpu_paths: GpuPaths) -> None:
    check(name, 70, 260, dtype, "cpu")


def test_batched_gradients_on_the_gpu_path(gpu_paths: GpuPaths) -> None:
    graph = PairGraph.from_edges([0, 1, 1, 2, 3, 4], [1, 0, 2, 1, 4, 3], n=6)
    z = torch.randn(6, 3, dtype=F64).requires_grad_()
    c = functional.graph_covariance(z, graph)
    seeds = torch.eye(9, dtype=F64).reshape(9, 3, 3)
    got = torch.autograd.grad(c, z, seeds, retain_graph=True, is_grads_batched=True)[0]
    each = [torch.autograd.grad(c, z, seed, retain_graph=True)[0] for seed in seeds]
    torch.testing.assert_close(got, torch.stack(each))


@pytest.mark.parametrize("ratio", [1e-5, 1e3, 1e5])
@pytest.mark.parametrize(("n", "d"), [(128, 24), (24, 80)])
def test_views_of_unlike_scale(n: int, d: int, ratio: float, gpu_paths: GpuPaths) -> None:
    clean, noisy = pair_rows(n, d)
    rows = [(ratio * clean).float(), noisy.float()]
    for loss in (functional.barlow_twins, functional.spectral_contrastive, functional.vicreg):
        value, grads = value_and_gradients(loss, leaves_of(rows))
        want, wanted = value_and_gradients(loss, leaves_of(rows, dtype=F64), impl="torch")
        close(value, want, 5e-6)
        for got, exact in zip(grads, wanted, strict=True):
            close(got, exact, 1e-5)


@pytest.mark.parametrize("scale", [1e17, 1e18])
def test_barlow_twins_of_huge_columns(scale: float, gpu_paths: GpuPaths) -> None:
    rows = [(scale * x).float() for x in pair_rows(700, 9)]
    value, grads = value_and_gradients(functional.barlow_twins, leaves_of(rows))
    want, wanted = value_and_gradients(
        functional.barlow_twins, leaves_of(rows, dtype=F64), impl="torch"
    )
    close(value, want, 5e-6)
    for got, exact in zip(grads, wanted, strict=True):
        close(got * scale, exact * scale, 1e-5)


@pytest.mark.parametrize("dtype", [BF16, F32, F64])
def test_nothing_to_correct_without_negatives(dtype: torch.dtype, gpu_paths: GpuPaths) -> None:
    x, y = (F.normalize(t).to(dtype).requires_grad_() for t in pair_rows(1, 20))
    for loss in (
        functional.nt_xent(x, y, tau_plus=0.1),
        functional.info_nce(x, y, tau_plus=0.1),
        functional.clip(x, y, 3.0, tau_plus=0.1),
    ):
        grads = torch.autograd.grad(loss, (x, y))
        assert loss.item() == 0
        assert not any(g.any() for g in grads)
    z = pair_rows(6, 20)[0].to(dtype)
    graph = PairGraph.from_labels([0] * 6)
    loss = functional.graph_info_nce(z, graph, tau_plus=0.1)
    close(loss, functional.graph_info_nce(z.double(), graph, tau_plus=0.1, impl="torch"), 1e-5)


FORMS: dict[str, Callable[..., Tensor]] = {
    "norm": lambda x, y, half: gram.sqnorm(x, half=half),
    "centred": lambda x, y, half: gram.sqnorm(x, off_diagonal=True, center=True, half=half),
    "cross": lambda x, y, half: gram.sqnorm(x, y, half=half),
    "cross off": lambda x, y, half: gram.sqnorm(x, y, off_diagonal=True, center=True, half=half),
}
FUSED: dict[str, Callable[..., Tensor]] = {
    "vicreg": lambda x, y: gram.vicreg(
        x, y, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4
    )[0],
    "barlow": lambda x, y: gram.barlow_twins(x, y, off_diagonal=5e-3, eps=1e-5)[0],
    "spectral": lambda x, y: spectral_contrastive.spectral_contrastive(
        x, y, longest=0.9 * x.shape[1] ** 0.5, factor=1.0, mean=True
    )[0],
}


def gram_results(form: str, x: Tensor, y: Tensor, *half: bool) -> list[Tensor]:
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    value = FUSED[form](*leaves) if form in FUSED else FORMS[form](*leaves, *half or (False,))
    value.backward(torch.full_like(value, 1.5))
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [value.detach(), *grads]


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("n", "d"), [(5, 9), (50, 130), (300, 700), (700, 300)])
@pytest.mark.parametrize("form", FORMS | FUSED)
def test_gram_in_strips(
    form: str, n: int, d: int, dtype: torch.dtype, gpu_paths: GpuPaths, monkeypatch: Any
) -> None:
    monkeypatch.setattr(products, "_STRIP_BYTES", 0)  # strips of 128
    x, y = torch.randn(2, n, d, dtype=F64) + 0.3
    with gpu_paths.off():
        want = gram_results(form, x, y)
    for got, exact in zip(gram_results(form, x.to(dtype), y.to(dtype)), want, strict=True):
        assert got.dtype == dtype
        assert (got.double() - exact).norm() <= ERROR[dtype] * exact.norm()


@pytest.mark.parametrize(("n", "d"), [(200, 500), (500, 200)])
@pytest.mark.parametrize("form", FORMS)
def test_gram_in_bfloat16_keeps_wide_sums(form: str, n: int, d: int, gpu_paths: GpuPaths) -> None:
    x, y = (torch.randn(2, n, d) + 0.3).bfloat16().float()
    with gpu_paths.off():
        want = gram_results(form, x.double(), y.double())
    for got, exact in zip(gram_results(form, x, y, True), want, strict=True):
        assert got.dtype == F32
        assert (got.double() - exact).norm() <= 2e-2 * exact.norm()


@pytest.mark.parametrize("dtype", [BF16, F16, F32])
@pytest.mark.parametrize(("n", "d"), [(200, 500), (500, 200), (2100, 72), (2049, 5)])
@pytest.mark.parametrize("form", FUSED)
def test_losses_read_and_write_the_dtype_of_the_rows(
    form: str, n: int, d: int, dtype: torch.dtype, gpu_paths: GpuPaths
) -> None:
    # 2048 rows and more, few columns: the sums of the products are cut, rows of zeros follow
    x, y = (torch.randn(2, n, d) + 0.3).to(dtype)
    with gpu_paths.off():
        want = gram_results(form, x.double(), y.double())
    value, *grads = gram_results(form, x, y)
    assert value.dtype == F32
    assert (value.double() - want[0]).abs() <= ERROR[dtype] * want[0].abs()
    for got, exact in zip(grads, want[1:], strict=True):
        assert got.dtype == dtype
        assert (got.double() - exact).norm() <= ERROR[dtype] * exact.norm()


@pytest.mark.parametrize(("n", "d"), [(20, 60), (60, 20)])
@pytest.mark.parametrize("form", FUSED)
def test_fused_gradients_are_made_again_and_differentiated(
    form: str, n: int, d: int, gpu_paths: GpuPaths
) -> None:
    x, y = (torch.randn(n, d, dtype=F64).requires_grad_() for _ in range(2))
    value = FUSED[form](x, y)
    both = torch.autograd.grad(value, (x, y), retain_graph=True)
    again = torch.autograd.grad(value, (x, y), torch.tensor(-3.0, dtype=F64), retain_graph=True)
    only = torch.autograd.grad(value, y, retain_graph=True)[0]
    differentiable = torch.autograd.grad(value, (x, y), create_graph=True)
    second = torch.autograd.grad(differentiable[0].square().sum(), y)[0]
    for a, b, c in zip(both, again, differentiable, strict=True):
        torch.testing.assert_close(b, -3 * a)
        torch.testing.assert_close(c.detach(), a)
    assert torch.equal(only, both[1])
    alone = FUSED[form](x.detach(), y)
    torch.testing.assert_close(torch.autograd.grad(alone, y)[0], both[1])
    with gpu_paths.off():
        first = torch.autograd.grad(FUSED[form](x, y), (x, y), create_graph=True)
        want = torch.autograd.grad(first[0].square().sum(), y)[0]
    torch.testing.assert_close(second, want)


def test_gram_operators(gpu_paths: GpuPaths) -> None:
    ops = torch.ops.sslspec_fast
    for n, d in ((6, 15), (15, 6)):
        x, y = (torch.randn(n, d).requires_grad_() for _ in range(2))
        opcheck = torch.library.opcheck
        opcheck(ops.gram_sqnorm, (x, None, True, True, False, True, False))
        opcheck(ops.gram_sqnorm, (x, y, False, False, True, True, True))
        opcheck(ops.gram_vicreg, (x, y, 25.0, 25.0, 1.0, 1e-4, False, True, True))
        opcheck(ops.gram_barlow_twins, (x.detach(), y, 5e-3, 1e-5, False, False, True))
        opcheck(ops.spectral_contrastive, (x, y, 1.0, 0.5, True, False, True, True))
