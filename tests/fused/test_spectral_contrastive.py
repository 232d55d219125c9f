"""The spectral contrastive loss of two views as one operator, against dense fp64 products."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast import _C
from sslspec_fast._seam import view
from sslspec_fast.fused import composed
from sslspec_fast.fused.spectral_contrastive import spectral_contrastive

from ..support.row_cases import assert_same, doubles, leaves

# several panels and slices, whole and ragged chunks; fewer rows than columns: the composition
SHAPES = [(1, 1), (2, 2), (7, 5), (64, 64), (97, 33), (300, 128), (700, 150), (2100, 65), (20, 40)]
FACTORS = {"longest": 1.2, "factor": 0.15, "mean": False}


def matrix(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z = nnf.normalize(torch.randn(n, d, generator=g, dtype=torch.float64) + 0.3, dim=1)
    return (z * torch.linspace(0.2, 3, n, dtype=torch.float64)[:, None]).to(dtype)


def dense(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    longest = FACTORS["longest"]
    x, y = (
        torch.where(norm < longest, z, z * (longest / norm))
        for z, norm in ((z, z.norm(dim=1, keepdim=True)) for z in (a, b))
    )
    products = x @ y.T
    on = products.diagonal()
    sums = torch.stack((on.sum(), products.square().sum() - on.square().sum()))
    factor = FACTORS["factor"]
    return -2 * factor * sums[0] + factor / max(len(a) - 1, 1) * sums[1], sums


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("n", "d"), SHAPES)
def test_value_and_gradient(n: int, d: int, dtype: torch.dtype) -> None:
    a, b = leaves(matrix(n, d, dtype), matrix(n, d, dtype, 1).roll(1, 0))
    exact = doubles(a, b)
    loss, sums = spectral_contrastive(a, b, **FACTORS)
    expected, exact_sums = dense(*exact)
    assert not sums.requires_grad
    if n > 1:
        assert_same((loss, sums), (expected, exact_sums), dtype)
    grads = torch.autograd.grad(1.5 * expected, exact)
    assert_same(torch.autograd.grad(1.5 * loss, (a, b)), grads, dtype)


def test_one_gradient_alone() -> None:
    a, b = matrix(90, 20, torch.float64), matrix(90, 20, torch.float64, 1).roll(1, 0)
    (leaf,) = leaves(b)
    (grad,) = torch.autograd.grad(spectral_contrastive(a, leaf, **FACTORS)[0], leaf)
    (exact,) = torch.autograd.grad(dense(a, leaf)[0], leaf)
    torch.testing.assert_close(grad, exact, rtol=1e-11, atol=1e-13)


def test_the_two_ways_agree() -> None:
    a, b = leaves(matrix(200, 40, torch.float64), matrix(200, 40, torch.float64, 1))
    ours, theirs = spectral_contrastive(a, b, **FACTORS), composed.composed(a, b, **FACTORS)
    assert_same(ours, theirs, torch.float64)


def test_long_rows_do_not_overflow() -> None:
    a, b = matrix(64, 16, torch.float32) * 1e25, matrix(64, 16, torch.float32, 1) * 1e25
    leaf = a.clone().requires_grad_()
    loss, _ = spectral_contrastive(leaf, b, **FACTORS)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, leaf)[0]).all()


def test_row_strides_do_not_matter() -> None:
    a, b = matrix(80, 24, torch.float32), matrix(80, 24, torch.float32, 1)
    expected = spectral_contrastive(a, b, **FACTORS)[0]
    assert torch.equal(
        spectral_contrastive(torch.cat([a, b], 1)[:, :24], b, **FACTORS)[0], expected
    )
    assert torch.equal(spectral_contrastive(a.T.contiguous().T, b, **FACTORS)[0], expected)


def test_any_number_of_threads_gives_the_same_bits() -> None:
    a, b = leaves(matrix(900, 100, torch.float32), matrix(900, 100, torch.float32, 1))
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            loss, sums = spectral_contrastive(a, b, **FACTORS)
            results.append([loss, sums, *torch.autograd.grad(loss, (a, b))])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(p, q) for p, q in zip(results[0], other, strict=True))


def test_derivatives() -> None:
    a, b = leaves(matrix(6, 4, torch.float64), matrix(6, 4, torch.float64, 1))

    def loss(x: Tensor, y: Tensor) -> Tensor:
        return spectral_contrastive(x, y, **FACTORS)[0]

    assert torch.autograd.gradcheck(loss, (a, b))
    assert torch.autograd.gradgradcheck(loss, (a, b))


def test_opcheck() -> None:
    a, b = leaves(matrix(9, 4, torch.float32), matrix(9, 4, torch.float32, 1))
    op = torch.ops.sslspec_fast.spectral_contrastive.default
    torch.library.opcheck(op, (a, b, 1.0, 0.5, True, True, True, True))


def test_the_core_names_what_is_wrong() -> None:
    z, value = torch.zeros(5, 4), torch.zeros(2, dtype=torch.float64)
    work = torch.zeros(_C.spectral_contrastive_workspace_size(5, 4, 0))

    def call(b: Tensor, longest: float, grad: Tensor, work: Tensor) -> None:
        _C.spectral_contrastive(
            view(z),
            view(b),
            (longest, 1.0, 1.0),
            False,
            view(value),
            (view(grad), None),
            (view(work), 1),
        )

    with pytest.raises(ValueError, match=r"z2 must have size 5 in dimension 0, got shape \(6, 4\)"):
        call(torch.zeros(6, 4), 1.0, z.clone(), work)
    with pytest.raises(ValueError, match="longest must be > 0, got 0"):
        call(z, 0.0, z.clone(), work)
    with pytest.raises(ValueError, match="gradients must be contiguous"):
        call(z, 1.0, torch.zeros(5, 8)[:, :4], work)
    with pytest.raises(ValueError, match="workspace must have size"):
        call(z, 1.0, z.clone(), work[1:])
