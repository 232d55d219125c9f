"""SIGReg's GPU path in the emulator: chunks, ragged sizes, kernels, refusals; and on a GPU."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.normality import pairwise_kernel as kernels
from sslspec_fast.primitives.normality import sliced_ecf as sliced

from ..support.emulation import ERROR, F32, F64, GpuPaths, close, emulated, view

SHAPES = ((1, 1, 1), (2, 2, 3), (1, 7, 2), (3, 65, 33), (1, 257, 20), (2, 130, 140))
KERNELS = (("slices", 0.0), ("gaussian", 2.5), ("imq", 0.7))


def rows(views: int, n: int, d: int) -> Tensor:
    g = torch.Generator().manual_seed(n)
    return 1.2 * torch.randn(views, n, d, generator=g, dtype=F64) + 0.1


def both(paths: GpuPaths, z: Tensor, call: Any) -> None:
    """Value and gradient on the GPU path and on the CPU's."""
    results = []
    for on in (True, False):
        leaf = z.detach().clone().requires_grad_()
        if on:
            value = call(leaf)
            grad = torch.autograd.grad(value, leaf)[0]
        else:
            with paths.off():
                value = call(leaf.double())
                grad = torch.autograd.grad(value, leaf)[0]
        results.append((value.detach(), grad))
    (value, grad), (expected, wanted) = results
    error = ERROR[z.dtype]
    assert abs(value.item() - expected.item()) <= error * max(1.0, expected.item())
    close(grad, wanted, error)


@emulated
@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize(("views", "n", "d"), SHAPES)
@pytest.mark.parametrize("knots", [2, 17, 40])
def test_slices(
    gpu_paths: GpuPaths, views: int, n: int, d: int, knots: int, dtype: torch.dtype
) -> None:
    z = rows(views, n, d).to(dtype)
    a = sliced.directions(z, 139, 1)
    both(gpu_paths, z, lambda z: sliced.sliced_ecf(z, a.to(z.dtype), knots=knots, t_max=3.0))


@emulated
@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: k[0])
@pytest.mark.parametrize(("views", "n", "d"), SHAPES)
def test_pairs(
    gpu_paths: GpuPaths,
    views: int,
    n: int,
    d: int,
    kernel: tuple[str, float],
    dtype: torch.dtype,
) -> None:
    z = rows(views, n, d).to(dtype)
    both(gpu_paths, z, lambda z: kernels.pairwise_kernel(z, kernel[0], parameter=kernel[1]))


@emulated
def test_chunks(gpu_paths: GpuPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    z = rows(2, 90, 11)
    a = sliced.directions(z, 70, 1)
    for module in (sliced, kernels):
        monkeypatch.setattr(module, "_BUDGET", 2 * 90 * 32)
    both(gpu_paths, z, lambda z: sliced.sliced_ecf(z, a, knots=17, t_max=3.0))
    both(gpu_paths, z, lambda z: kernels.pairwise_kernel(z, "slices"))
    assert kernels.pairwise_kernel(z / 0, "slices").isnan()


@emulated
def test_rows_of_a_process(gpu_paths: GpuPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sums along directions, their gradient, and the pairs of some rows with all, in chunks."""
    z = rows(2, 90, 11)
    a = sliced.directions(z, 70, 1)
    above = torch.randn(2, 32, 70, generator=torch.Generator().manual_seed(1), dtype=F64)
    for module in (sliced, kernels):
        monkeypatch.setattr(module, "_BUDGET", 2 * 90 * 32)

    def made() -> list[Tensor]:
        part = kernels.kernel_of_rows(
            z, slice(20, 85), "slices", 0.0, 17, 3.0, wants_grad=True, factor=0.3
        )
        along = sliced.cosine_sums(z, a, 17, 0.2), sliced.sums_gradient(z, a, 17, 0.2, above)
        return [*part, *along]

    got = made()
    with gpu_paths.off():
        want = made()
    for x, y in zip(got, want, strict=True):
        close(x, y, ERROR[F64])


@emulated
def test_memory_is_checked(core: ModuleType) -> None:
    half = torch.zeros(1, 5, 3)
    with pytest.raises(ValueError, match="sums must have size 1 in dimension 0"):
        core.cuda_sliced_ecf_sums(view(half), view(torch.zeros(2, 1, 4, 3)), 0)
    with pytest.raises(ValueError, match="coefficients must have size 3 in dimension 2"):
        core.cuda_sliced_ecf_gradient(view(half), view(torch.zeros(1, 4, 4)), 0)
    with pytest.raises(ValueError, match=r"there must be at most .* knots on this device"):
        core.cuda_sliced_ecf_sums(view(half), view(torch.zeros(1, 1, 20_000, 3)), 0)
    double = torch.zeros(1, 5, dtype=F64)
    arrays = view(torch.zeros(1, 3, 5)), 3, view(double), view(double), (1, 1.0, None, 1.0)
    with pytest.raises(ValueError, match=r"rows must lie in 0 \.\.\. 5, got 3 \+ 3"):
        core.cuda_pairwise_kernel_weights(*arrays, view(half[:, :3, 0]), view(double[:, :3]), 0)
