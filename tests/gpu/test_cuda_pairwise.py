"""The CUDA pairwise operators against the CPU operators in float64."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from sslspec_fast.primitives import pairwise

pytestmark = pytest.mark.cuda

# Largest error relative to the largest entry.
ERROR = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 2e-2, torch.float16: 4e-3}
SHAPES = [(1, 1, 8), (2, 7, 3), (130, 7, 64), (257, 252, 100), (252, 257, 200), (130, 400, 300)]


def unit(n: int, d: int, dtype: torch.dtype) -> Tensor:
    rows = torch.randn(n, d, dtype=torch.float64)
    return F.normalize(rows, dim=1).to(dtype)


def close(actual: Tensor, expected: Tensor, error: float) -> None:
    actual, expected = actual.double().cpu(), expected.double().cpu()
    finite = torch.isfinite(expected)
    assert torch.equal(actual[~finite], expected[~finite])
    worst = (actual - expected)[finite].abs().max() if finite.any() else torch.zeros(())
    scale = expected[finite].abs().max() if finite.any() else torch.ones(())
    assert worst <= error * max(float(scale), 1e-12), f"{float(worst / scale):.2e} > {error:.0e}"


def compare(
    call: Callable[..., tuple[Tensor, ...]],
    inputs: list[Tensor],
    device: torch.device,
    error: float,
) -> None:
    """Values and gradients of call(*inputs) on the GPU against float64 on the CPU."""
    there = [t.to(device).requires_grad_() for t in inputs]
    here = [t.double().requires_grad_() for t in inputs]
    results, expected = call(*there), call(*here)
    for r, e in zip(results, expected, strict=True):
        close(r.detach(), e.detach(), error)
    seeds = [torch.randn(e.shape, dtype=torch.float64) for e in expected]
    for outputs in (results, expected):
        total = sum(
            (torch.where(o.isinf(), 0.0, o).double() * s.to(o.device)).sum()
            for o, s in zip(outputs, seeds, strict=True)
        )
        total.backward()
    for a, b in zip(there, here, strict=True):
        assert a.grad is not None
        assert a.grad.dtype == a.dtype
        # a scale's gradient is a sum of terms of both signs
        close(a.grad, b.grad, error * (20 if a.ndim < 2 else 1))


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("tau", [0.5, 0.01])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_and_columns(
    shape: tuple[int, int, int], tau: float, dtype: torch.dtype, cuda: torch.device
) -> None:
    n, m, d = shape
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    scale = torch.tensor(1 / tau, dtype=kind)
    inputs = [unit(n, d, dtype), unit(m, d, dtype), scale]
    compare(lambda a, b, s: pairwise.lse(a, b, s, cols=True), inputs, cuda, ERROR[dtype])


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("tau", [0.5, 0.01])
@pytest.mark.parametrize(("n", "d"), [(2, 8), (7, 5), (252, 128), (600, 256), (400, 520)])
def test_symmetric_with_ids(
    n: int, d: int, tau: float, dtype: torch.dtype, cuda: torch.device
) -> None:
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    ids = torch.arange(n, dtype=torch.int32) % max(1, n // 2)
    inputs = [unit(n, d, dtype), torch.tensor(1 / tau, dtype=kind)]

    def call(u: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        return (pairwise.lse_self(u, s, ids.to(u.device)),)

    compare(call, inputs, cuda, ERROR[dtype])


@pytest.mark.parametrize("hopper", ["portable", "all"])
@pytest.mark.parametrize("tau", [0.1, 0.01])
@pytest.mark.parametrize(
    ("n", "m", "d"),
    [
        (5300, 5200, 72),
        (5300, 0, 200),
        (5300, 5200, 392),
        (5300, 0, 512),
        (41100, 200, 16),  # more than 8 tiles of rows in a super block
    ],
)
def test_statistics_of_many_bfloat16_rows(
    n: int,
    m: int,
    d: int,
    tau: float,
    hopper: str,
    cuda: torch.device,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSLSPEC_HOPPER", hopper)
    a, b, scale = unit(n, d, torch.bfloat16), unit(m, d, torch.bfloat16), torch.tensor(1 / tau)
    ids = torch.arange(n, dtype=torch.int32) % (n // 2)
    found = []
    for device, kind in ((cuda, torch.bfloat16), (torch.device("cpu"), torch.float64)):
        rows, columns = a.to(device, kind), b.to(device, kind)
        c = scale.to(device) if device == cuda else scale.double()
        if m:
            left_out = pairwise.LeftOut(self_pairs=True)
            found.append(pairwise.lse(rows, columns, c, left_out, cols=True))
        else:
            found.append((pairwise.lse_self(rows, c, ids.to(device)),))
    for got, want in zip(*found, strict=True):
        close(got, want, 1e-5)


@pytest.mark.parametrize("d", [40, 300])
def test_skip_patterns_and_a_scale_per_row(d: int, cuda: torch.device) -> None:
    n, m = 200, 131
    pattern = torch.rand(n, m) < 0.2
    pattern[2] = True  # a row without any pair
    indptr = F.pad(pattern.sum(1).cumsum(0), (1, 0))
    indices = pattern.nonzero()[:, 1].contiguous()
    inputs = [unit(n, d, torch.float32), unit(m, d, torch.float32), 5 + 5 * torch.rand(n)]

    def call(a: Tensor, b: Tensor, s: Tensor) -> tuple[Tensor, ...]:
        pattern = indptr.to(a.device), indices.to(a.device)
        return pairwise.lse(a, b, s, pairwise.LeftOut(None, None, *pattern, True))[:1]

    compare(call, inputs, cuda, 2e-5)


@pytest.mark.parametrize("dtype", ERROR)
@pytest.mark.parametrize("d", [60, 300])
def test_sigmoid_part(d: int, dtype: torch.dtype, cuda: torch.device) -> None:
    kind = torch.float64 if dtype == torch.float64 else torch.float32
    inputs = [unit(150, d, dtype), unit(131, d, dtype), torch.tensor(10.0, dtype=kind)]
    inputs.append(torch.tensor(-10.0, dtype=kind))

    def call(a: Tensor, b: Tensor, s: Tensor, t: Tensor) -> tuple[Tensor, ...]:
        return (pairwise.softplus(a, b, s, t, pairwise.LeftOut(self_pairs=True)),)

    compare(call, inputs, cuda, ERROR[dtype])


def test_tf32_is_asked_for_by_torchs_own_setting(cuda: torch.device, precision: str) -> None:
    u = unit(500, 128, torch.float32)
    got = pairwise.lse_self(u.to(cuda), torch.tensor(2.0, device=cuda)).double().cpu()
    want = pairwise.lse_self(u.double(), torch.tensor(2.0, dtype=torch.float64))
    worst = float((got - want).abs().max())
    assert worst < (1e-6 if precision == "highest" else 1e-3)


def test_split_products_are_as_accurate_as_torch(cuda: torch.device) -> None:
    # d > 256: the products with the weights are library GEMMs, of bfloat16 pieces on some GPUs
    rows = [unit(n, 320, torch.float64).to(cuda) for n in (3000, 8192)]

    def gradients(dtype: torch.dtype, fused: bool) -> tuple[Tensor, ...]:
        a, b = (x.to(dtype).requires_grad_() for x in rows)
        scale = torch.tensor(10.0, dtype=dtype, device=cuda)
        if fused:
            row, col = pairwise.lse(a, b, scale, cols=True)
        else:
            logits = scale * (a @ b.T)
            row, col = logits.logsumexp(1), logits.logsumexp(0)
        return torch.autograd.grad(row.sum() + col.sum(), (a, b))

    rows = [x.float().double() for x in rows]
    exact = gradients(torch.float64, fused=False)
    ours, torchs = (gradients(torch.float32, fused=fused) for fused in (True, False))
    for got, other, want in zip(ours, torchs, exact, strict=True):
        assert (got.double() - want).norm() <= 2 * (other.double() - want).norm()


def run(u: Tensor) -> tuple[Tensor, Tensor]:
    u = u.detach().requires_grad_()
    row = pairwise.lse_self(u, torch.full((), 10.0, device=u.device))  # no copy: for a capture
    row.sum().backward()
    assert u.grad is not None
    return row.detach(), u.grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("d", [128, 320])
def test_two_runs_are_bitwise_equal(d: int, dtype: torch.dtype, cuda: torch.device) -> None:
    u = unit(3000, d, dtype).to(cuda)
    first, second = run(u), run(u)
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])


@pytest.mark.parametrize("d", [128, 320])
def test_the_current_stream_is_used(d: int, cuda: torch.device) -> None:
    u = unit(1000, d, torch.bfloat16).to(cuda)
    expected = run(u)
    side = torch.cuda.Stream(cuda)
    with torch.cuda.stream(side):
        torch.cuda._sleep(
            50_000_000
        )  # work on the default stream would not wait for the copy below
        late = u.clone()
        got = run(late)
    side.synchronize()
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("d", [128, 320])
def test_forward_and_backward_can_be_captured(d: int, cuda: torch.device) -> None:
    u = unit(1000, d, torch.bfloat16).to(cuda)
    other = unit(1000, d, torch.bfloat16).to(cuda)
    static = u.clone()
    side = torch.cuda.Stream(cuda)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        run(static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        row, grad = run(static)
    static.copy_(other)
    graph.replay()
    expected = run(other)
    assert torch.equal(row, expected[0])
    assert torch.equal(grad, expected[1])


def test_more_pairs_than_int32_counts(cuda: torch.device) -> None:
    if torch.cuda.get_device_properties(cuda).total_memory < 30 << 30:
        pytest.skip("needs 30 GB")
    n, d = 100_000, 32  # n * n > 2**33
    u = F.normalize(torch.randn(n, d, device=cuda), dim=1).bfloat16()
    row, grad = run(u)
    rows = torch.tensor([0, 1, n // 2, n - 1], device=cuda)
    logits = 10 * (u[rows].float() @ u.float().T)
    logits[torch.arange(4, device=cuda), rows] = -torch.inf
    torch.testing.assert_close(row[rows], logits.logsumexp(1), rtol=1e-5, atol=1e-5)
    assert torch.isfinite(grad).all()


def test_peak_memory_is_linear(cuda: torch.device) -> None:
    n, d = 32768, 128
    u = F.normalize(torch.randn(n, d, device=cuda), dim=1).bfloat16()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(u)
    assert torch.cuda.max_memory_allocated() - before < 96 << 20  # the logits alone are 2 GiB
