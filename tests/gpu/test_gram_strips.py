"""The GPU form of `gram` is made of torch calls alone, so its arithmetic is tested on the CPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives import _gram_cuda, gram

F32, F64 = torch.float32, torch.float64
ERROR = {F64: 1e-11, F32: 1e-5}
FORMS: dict[str, Callable[..., Tensor]] = {
    "norm": lambda x, y, half: gram.sqnorm(x, half=half),
    "centred": lambda x, y, half: gram.sqnorm(x, off_diagonal=True, center=True, half=half),
    "cross": lambda x, y, half: gram.sqnorm(x, y, half=half),
    "cross off": lambda x, y, half: gram.sqnorm(x, y, off_diagonal=True, center=True, half=half),
    "vicreg": lambda x, y, half: gram.vicreg(
        x, y, invariance=25.0, variance=25.0, covariance=1.0, eps=1e-4, half=half
    )[0],
    "barlow": lambda x, y, half: gram.barlow_twins(x, y, off_diagonal=5e-3, eps=1e-5, half=half)[0],
}


def results(form: str, x: Tensor, y: Tensor, half: bool = False) -> list[Tensor]:
    leaves = [x.clone().requires_grad_(), y.clone().requires_grad_()]
    value = FORMS[form](*leaves, half)
    value.backward()
    grads = [leaf.grad for leaf in leaves if leaf.grad is not None]
    return [value.detach(), *grads]


@pytest.fixture
def gpu_form(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Switches to the GPU form, with strips of 128 rows."""

    def switch() -> None:
        monkeypatch.setattr(gram, "_run", _gram_cuda.run)
        monkeypatch.setattr(_gram_cuda, "_STRIP_BYTES", 0)

    return switch


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize(("n", "d"), [(5, 9), (50, 130), (300, 700), (700, 300)])
@pytest.mark.parametrize("form", FORMS)
def test_the_gpu_form_computes_what_the_cpu_kernel_does(
    form: str, n: int, d: int, dtype: torch.dtype, gpu_form: Callable[[], None]
) -> None:
    x, y = torch.randn(2, n, d, dtype=F64) + 0.3
    want = results(form, x, y)
    gpu_form()
    for got, exact in zip(results(form, x.to(dtype), y.to(dtype)), want, strict=True):
        assert got.dtype == dtype
        assert (got.double() - exact).norm() <= ERROR[dtype] * exact.norm()


@pytest.mark.parametrize(("n", "d"), [(200, 500), (500, 200)])
@pytest.mark.parametrize("form", FORMS)
def test_bfloat16_products_keep_wide_sums(
    form: str, n: int, d: int, gpu_form: Callable[[], None]
) -> None:
    x, y = (torch.randn(2, n, d) + 0.3).bfloat16().float()
    want = results(form, x.double(), y.double())
    gpu_form()
    for got, exact in zip(results(form, x, y, half=True), want, strict=True):
        assert got.dtype == F32
        assert (got.double() - exact).norm() <= 2e-2 * exact.norm()
