"""Matrices and dense forms that the tests of squared Gram norms share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# both sides of the duality, one block and several, whole and ragged units of 48
SHAPES = (
    (1, 1),
    (1, 5),
    (5, 1),
    (2, 3),
    (7, 30),
    (30, 7),
    (50, 49),
    (97, 252),
    (257, 100),
    (400, 830),
    (830, 400),
)
VICREG = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "eps": 1e-4}
BARLOW = {"off_diagonal": 5e-3, "eps": 1e-5}


def matrix(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, d, generator=g, dtype=torch.float64) + 0.4).to(dtype)


def dense(
    x: Tensor, y: Tensor | None = None, *, off_diagonal: bool = False, center: bool = False
) -> Tensor:
    y = x if y is None else y
    if center:
        x, y = x - x.mean(0), y - y.mean(0)
    c = x.T @ y
    if off_diagonal:
        c = c - torch.diag(torch.diagonal(c))
    return c.square().sum()


def value_and_grads(f: Callable[..., Tensor], *inputs: Tensor, factor: float = 1.0) -> list[Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    value = f(*leaves)
    (factor * value).backward()
    return [value.detach(), *(x.grad for x in leaves)]
