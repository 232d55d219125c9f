"""Error of the fused losses against fp64, beside the error of plain PyTorch in the same dtype."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import sslspec_fast.functional as F

TEMPERATURES = (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01)


@dataclass(frozen=True)
class Errors:
    """Relative errors against fp64: of the loss, and of the gradient in the l2 norm."""

    case: str
    fused_loss: float
    torch_loss: float
    fused_gradient: float
    torch_gradient: float


def table(
    rows: int = 1024, width: int = 128, dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> list[Errors]:
    """NT-Xent over temperatures, then VICReg and Barlow Twins on each Gram side."""
    from .torch_peers import barlow_eager, nt_xent_eager, vicreg_eager

    results = []
    for temperature in TEMPERATURES:

        def fused(a: Tensor, b: Tensor, t: float = temperature) -> Tensor:
            return F.nt_xent(a, b, temperature=t)

        def plain(a: Tensor, b: Tensor, t: float = temperature) -> Tensor:
            return nt_xent_eager(a, b, t)

        name = f"nt_xent {rows}x{width} tau={temperature:g}"
        results.append(_compare(name, fused, plain, (rows // 2, width), dtype, device))
    for shape in ((rows // 4, 4 * width), (2 * rows, width)):
        for label, ours, peer in (
            ("vicreg", F.vicreg, vicreg_eager),
            ("barlow", F.barlow_twins, barlow_eager),
        ):
            name = f"{label} {shape[0]}x{shape[1]}"
            results.append(_compare(name, ours, peer, shape, dtype, device))
    return results


def _compare(
    name: str,
    fused: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    shape: tuple[int, int],
    dtype: torch.dtype,
    device: str,
) -> Errors:
    generator = torch.Generator().manual_seed(0)
    signal, noise1, noise2 = torch.randn(3, *shape, generator=generator)
    # Views that agree only a little: a loss of nearly 0 (small temperatures) has no relative error.
    views = [(signal + 2 * noise).to(device, dtype) for noise in (noise1, noise2)]

    def evaluate(loss: Callable[..., Tensor], precision: torch.dtype) -> tuple[Tensor, Tensor]:
        leaves = [view.to(precision).requires_grad_() for view in views]
        value = loss(*leaves)
        gradients = torch.autograd.grad(value, leaves)
        return value.detach().double(), torch.cat(gradients).double()

    true_loss, true_gradient = evaluate(plain, torch.float64)
    errors = []
    for loss in (fused, plain):
        value, gradient = evaluate(loss, dtype)
        errors.append(float((value - true_loss).abs() / true_loss.abs()))
        errors.append(float((gradient - true_gradient).norm() / true_gradient.norm()))
    return Errors(name, errors[0], errors[2], errors[1], errors[3])
