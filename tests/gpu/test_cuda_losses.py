"""Every loss on a GPU: values, gradients, repeatability, capture, streams, memory, compilation."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F

from ..support.agreement import (
    BF16,
    F16,
    F32,
    F64,
    check,
    inputs_of,
    leaves_of,
    value_and_gradients,
)
from ..support.cases import CASES
from ..support.inputs import pair_rows
from ..support.tolerance import relative_error

pytestmark = pytest.mark.cuda

PAIRS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": F.nt_xent,
    "info_nce": F.info_nce,
    "dcl": F.dcl,
    "clip": lambda a, b: F.clip(a, b, 20.0),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -10.0),
    "vicreg": F.vicreg,
    "barlow_twins": F.barlow_twins,
    # unit rows lie on the length at which mu = 1 clips them
    "spectral_contrastive": lambda a, b: F.spectral_contrastive(a, b, mu=4.0),
}


def pair(n: int, d: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    return [nnf.normalize(x, dim=1).to(device, dtype) for x in pair_rows(n, d)]


def run(name: str, rows: list[Tensor]) -> list[Tensor]:
    value, grads = value_and_gradients(PAIRS[name], [x.detach().requires_grad_() for x in rows])
    return [value, *grads]


def assert_equal(got: list[Tensor], expected: list[Tensor]) -> None:
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("dtype", [F64, F32, BF16, F16])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str, dtype: torch.dtype, cuda: torch.device) -> None:
    check(name, 37, 20, dtype, cuda)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize(
    ("n", "d"), [(2, 5), (7, 33), (130, 128), (252, 200), (257, 300), (1500, 300)]
)
@pytest.mark.parametrize("name", PAIRS)
def test_ragged_sizes(name: str, n: int, d: int, dtype: torch.dtype, cuda: torch.device) -> None:
    if n == 2 and (dtype == F16 or name not in ("nt_xent", "info_nce", "clip", "siglip")):
        pytest.skip("two rows leave nothing but rounding")
    check(name, n, d, dtype, cuda)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", PAIRS)
def test_rows_need_not_be_contiguous(name: str, dtype: torch.dtype, cuda: torch.device) -> None:
    rows = pair(66, 40, dtype, cuda)
    wide = [nnf.pad(x, (3, 2)) for x in rows]
    for views in ([w[:, 3:-2] for w in wide], [x.T.contiguous().T for x in rows]):
        assert views[0].stride() != rows[0].stride()
        for got, want in zip(run(name, views), run(name, rows), strict=True):
            assert relative_error(got, want) <= (1e-5 if dtype == F32 else 2e-2)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("name", PAIRS)
def test_two_runs_are_bitwise_equal(name: str, dtype: torch.dtype, cuda: torch.device) -> None:
    for n, d in ((700, 96), (300, 520)):
        rows = pair(n, d, dtype, cuda)
        assert_equal(run(name, rows), run(name, rows))


@pytest.mark.parametrize("name", PAIRS)
def test_capture_in_a_cuda_graph(name: str, cuda: torch.device) -> None:
    rows, others = pair(300, 64, BF16, cuda), pair(300, 64, BF16, cuda)[::-1]
    static = [x.clone().requires_grad_() for x in rows]
    side = torch.cuda.Stream(cuda)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm up away from the default stream, as torch asks for
        for _ in range(2):
            value_and_gradients(PAIRS[name], static)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value, grads = value_and_gradients(PAIRS[name], static)
    with torch.no_grad():
        for leaf, other in zip(static, others, strict=True):
            leaf.copy_(other)
    graph.replay()
    expected = run(name, others)
    for got, want in zip([value, *grads], expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PAIRS)
def test_a_side_stream(name: str, cuda: torch.device) -> None:
    rows = pair(500, 96, BF16, cuda)
    expected = run(name, rows)
    side = torch.cuda.Stream(cuda)
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)
        late = [x.clone() for x in rows]  # work on another stream would not wait for this
        got = run(name, late)
    side.synchronize()
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "n", "d"),
    [
        ("nt_xent", 8192, 128),
        ("info_nce", 8192, 512),
        ("clip", 8192, 512),
        ("siglip", 8192, 512),
        ("vicreg", 1024, 8192),
    ],
)
def test_peak_memory_is_linear(name: str, n: int, d: int, cuda: torch.device) -> None:
    rows = pair(n, d, BF16, cuda)
    run(name, rows)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run(name, rows)
    torch.cuda.synchronize()
    extra = torch.cuda.max_memory_allocated() - before
    bound = (300 << 20) + 64 * n * d  # a bounded workspace and a few copies of the rows
    assert extra < bound, f"{extra >> 20} MiB, at most {bound >> 20}"


@pytest.mark.parametrize("name", PAIRS)
def test_full_graph_compilation(name: str, cuda: torch.device) -> None:
    torch._dynamo.reset()
    leaves = [x.requires_grad_() for x in pair(64, 48, F32, cuda)]
    compiled = torch.compile(PAIRS[name], fullgraph=True, backend="aot_eager")
    got, grads = value_and_gradients(compiled, leaves)
    want, wanted = value_and_gradients(PAIRS[name], leaves)
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_autocast_changes_nothing(name: str, cuda: torch.device) -> None:
    rows, loss, _ = inputs_of(name, 37, 20, F32)
    want, wanted = value_and_gradients(loss, leaves_of(rows, device=cuda))
    leaves = leaves_of(rows, device=cuda)
    with torch.autocast("cuda", torch.bfloat16):
        got = loss(*leaves)
    # autocast is still on; torch's own products in the backward of falcon would follow it
    with torch.autocast("cuda", torch.bfloat16, enabled=name != "falcon"):
        grads = list(torch.autograd.grad(got, leaves, torch.ones_like(got)))
    assert got.dtype == F32
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(grads, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("tau", [0.5, 0.05, 0.01])
def test_gradient_of_a_temperature(tau: float, dtype: torch.dtype, cuda: torch.device) -> None:
    rows = pair(200, 64, dtype, torch.device("cpu"))

    def loss(a: Tensor, b: Tensor, t: Tensor, impl: str) -> Tensor:
        return F.nt_xent(a, b, temperature=t, impl=impl)

    there = [*leaves_of(rows, device=cuda), torch.tensor(tau, device=cuda, requires_grad=True)]
    here = [*leaves_of(rows, dtype=F64), torch.tensor(tau, dtype=F64, requires_grad=True)]
    _, grads = value_and_gradients(loss, there, impl="fused")
    _, wanted = value_and_gradients(loss, here, impl="torch")
    error = 1e-3 if dtype == F32 else 5e-2
    assert abs(float(grads[2]) - float(wanted[2])) <= error * max(1.0, abs(float(wanted[2])))


def test_not_a_number_stays_visible(cuda: torch.device) -> None:
    for name in PAIRS:
        rows = pair(150, 64, F32, cuda)
        rows[0][3, 5] = float("nan")
        assert not torch.isfinite(run(name, rows)[0]), name


def test_errors_are_clear(cuda: torch.device) -> None:
    rows = pair(8, 16, F32, cuda)
    with pytest.raises(ValueError, match="z2 must be on the device of z1"):
        F.nt_xent(rows[0], rows[1].cpu())
    with pytest.raises(ValueError, match=r"z2 must match z1 \(8, 16\), got \(8, 15\)"):
        F.nt_xent(rows[0], rows[1][:, :15])
    torch.cuda.synchronize()
    assert torch.isfinite(F.nt_xent(*rows))  # nothing was left behind
