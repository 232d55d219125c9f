"""Unit rows of two views in places where one shift of all logits is, or is not, enough."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast.fused.two_views import matched_loss, two_view_loss

__all__ = ["CONES", "SOFTMAX_LOSSES", "check_cones", "cone_rows"]

CONES = ("random", "aligned", "collapsed", "narrow cone", "cosines about -0.1", "opposite cones")


def _unit(x: Tensor) -> Tensor:
    return nnf.normalize(x.double(), dim=-1)


def cone_rows(case: str, n: int = 300, d: int = 32) -> tuple[Tensor, Tensor]:
    """(n, d) float64 each."""
    torch.manual_seed(3)
    a, b, noise = (_unit(torch.randn(n, d)) for _ in range(3))
    axis = _unit(torch.randn(1, d))
    cone = _unit(axis + 0.1 * a)
    return {
        "random": (a, b),
        "aligned": (a, _unit(a + 0.3 * noise)),
        "collapsed": (a[:1].repeat(n, 1), a[:1].repeat(n, 1)),
        "narrow cone": (cone, _unit(cone + 0.01 * noise)),
        "cosines about -0.1": (_unit(a + 0.32 * axis), _unit(b - 0.33 * axis)),
        "opposite cones": (cone, -cone),
    }[case]


def softmax_margins(logits: Tensor, positive: Tensor) -> Tensor:
    return logits.logsumexp(1) - positive


def clip_margins(x: Tensor, y: Tensor) -> Tensor:
    logits = x @ y.T
    positive = logits.diagonal()
    others = logits.masked_fill(torch.eye(len(x), dtype=torch.bool, device=x.device), -torch.inf)
    return torch.cat((softmax_margins(others, positive), softmax_margins(others.T, positive)))


def row_margins(x: Tensor, y: Tensor) -> Tensor:
    return clip_margins(x, y)[: len(x)]


def stacked_margins(x: Tensor, y: Tensor) -> Tensor:
    u, scale = torch.cat((x, y)), x.detach().norm(dim=1).mean()
    u = nnf.normalize(u, dim=1) * scale
    logits, positive = u @ u.T, (u[: len(x)] * u[len(x) :]).sum(1).repeat(2)
    mine = torch.eye(len(x), dtype=torch.bool, device=x.device).repeat(2, 2)
    return softmax_margins(logits.masked_fill(mine, -torch.inf), positive)


SOFTMAX_LOSSES: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor, Tensor], Tensor]]] = {
    "both": (lambda *x: matched_loss(*x, "mean", both=True, unit=False), clip_margins),
    "rows": (lambda *x: matched_loss(*x, "mean", both=False, unit=False), row_margins),
    "stacked": (lambda *x: two_view_loss(*x, "mean"), stacked_margins),
}


def check_cones(
    name: str,
    case: str,
    scale: float,
    dtype: torch.dtype,
    size: tuple[int, int],
    device: torch.device | str = "cpu",
) -> None:
    """Value and gradients of a loss of SOFTMAX_LOSSES against float64."""
    n, _ = size
    loss, margins_of = SOFTMAX_LOSSES[name]
    z = [x.to(device, dtype).requires_grad_() for x in cone_rows(case, *size)]
    leaves = [x.detach().double().requires_grad_() for x in z]
    value, root = loss(*z, scale), scale**0.5
    margins = margins_of(leaves[0] * root, leaves[1] * root)
    want = nnf.softplus(margins).mean()
    exact = float(want.detach())
    grads, wanted = torch.autograd.grad(value, z), torch.autograd.grad(want, leaves)
    # bfloat16 rows that are normalised are rounded once more, by up to 2^-9 of each product
    rounded = 4e-3 * scale if dtype == torch.bfloat16 and name == "stacked" else 0.0
    assert abs(value.item() - exact) <= 2e-5 * max(1.0, exact) * max(scale / 50, 1) + rounded
    if rounded:
        return
    error = 2e-2 if dtype == torch.bfloat16 else 2e-5 * max(scale / 50, 1)
    # the terms of a gradient, which cancel where all rows are equal
    terms = scale / n * float(margins.detach().sigmoid().norm()) + 1e-30
    for got, right in zip(grads, wanted, strict=True):
        assert float((got.double() - right).norm()) <= error * terms
