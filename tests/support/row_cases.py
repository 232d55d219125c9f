"""Rows, weights and comparisons that the tests of the pairwise primitives share."""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

from sslspec_fast.primitives.pairwise import LeftOut

# 1: a narrow range, no shift at all; 200 in float32: a running maximum
SCALES = (1.0, 200.0)
TOLERANCE = {torch.float64: 1e-11, torch.float32: 3e-5}


def rows(n: int, d: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return nnf.normalize(torch.randn(n, d, generator=g, dtype=torch.float64), dim=1).to(dtype)


def weights(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype) + 0.1


def assert_same(ours: tuple[Tensor, ...], exact: tuple[Tensor, ...], dtype: torch.dtype) -> None:
    for a, e in zip(ours, exact, strict=True):
        size = e.double().norm().clamp_min(1e-30)
        assert (a.double() - e.double()).norm() / size < TOLERANCE[dtype]


def some_left_out(kind: str, n: int, m: int) -> LeftOut:
    """Pairs of an n x m problem that are left out by one rule, or by all of them."""
    if kind == "all":
        return LeftOut()
    ids = [torch.arange(k, dtype=torch.int32) % 3 for k in (n, m)]
    columns = torch.arange(n) * 5 % m
    pattern = LeftOut(indptr=torch.arange(n + 1), indices=columns)
    by = {
        "self": LeftOut(self_pairs=True),
        "ids": LeftOut(*ids),
        "pattern": pattern,
        "everything": pattern._replace(ids_a=ids[0], ids_b=ids[1], self_pairs=True),
    }
    return by[kind]


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def doubles(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().double().requires_grad_() for t in tensors]
