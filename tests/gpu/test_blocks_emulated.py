"""Blocks of logits, as losses over ranks see them, on the emulated GPU path (conftest.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from sslspec_fast.primitives.pairwise import LeftOut, Logits
from sslspec_fast.primitives.pairwise.blocks import lse_block, lse_block_gradients, softplus_block

from ..support.emulation import BF16, ERROR, F32, F64, GpuPaths, close, emulated

pytestmark = emulated


def rows(n: int, d: int, seed: int, dtype: torch.dtype) -> Tensor:
    torch.manual_seed(seed)
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=F64), dim=1).to(dtype)


@pytest.mark.parametrize("cols", [True, False])
@pytest.mark.parametrize(("m", "pattern"), [(29, False), (29, True), (0, False)])
@pytest.mark.parametrize("dtype", [F64, F32, BF16])
def test_log_sum_exps(gpu_paths: GpuPaths, dtype: Any, m: int, pattern: bool, cols: bool) -> None:
    a, b = rows(37, 20, 0, dtype), rows(m, 20, 1, dtype)
    ids_a, ids_b = torch.arange(37, dtype=torch.int32), torch.arange(m, dtype=torch.int32) + 30
    kind = F64 if dtype == F64 else F32
    scale = torch.tensor(3.0, dtype=kind) if cols else torch.rand(37).to(kind) + 2
    grad_row, grad_col = torch.randn(37).to(kind), torch.randn(m).to(kind)

    left_out = torch.rand(37, m) < 0.3
    indptr = torch.nn.functional.pad(left_out.sum(1).cumsum(0), (1, 0))
    skip = (indptr, left_out.nonzero()[:, 1].contiguous()) if pattern else ()

    def run(x: Tensor, y: Tensor, c: Tensor, wide: torch.dtype) -> list[Tensor]:
        logits = Logits(x, y, c, LeftOut(ids_a, ids_b, *skip))
        row, col = lse_block(logits, cols=cols, half=False)
        whole = (row.logaddexp(torch.ones_like(row)), grad_row.to(wide))  # of more columns
        of_columns = (col, grad_col.to(wide)) if cols else None
        grads = lse_block_gradients(logits, whole, of_columns, want_b=True, half=False)
        assert grads.a.dtype == wide
        return [row, col, *grads]

    got = run(a, b, scale, kind)
    with gpu_paths.off():
        want = run(a.double(), b.double(), scale.double(), F64)
    for x, y in zip(got, want, strict=True):
        close(x, y, ERROR[dtype])


@pytest.mark.parametrize("dtype", [F64, F32, BF16])
def test_softplus(gpu_paths: GpuPaths, dtype: Any) -> None:
    a, b = rows(37, 20, 0, dtype), rows(37, 20, 1, dtype)
    kind = F64 if dtype == F64 else F32
    weight, scale, bias = torch.rand(37).to(kind), *torch.tensor([3.0, -1.0]).to(kind)

    def run(x: Tensor, y: Tensor, to: torch.dtype) -> list[Tensor]:
        numbers = (scale.to(to), bias.to(to), weight.to(to))
        found, grads, of_bias = softplus_block(
            x, y, *numbers, LeftOut(self_pairs=True), want_b=True
        )
        return [found, *grads, of_bias]

    got = run(a, b, kind)
    with gpu_paths.off():
        want = run(a.double(), b.double(), F64)
    for x, y in zip(got, want, strict=True):
        close(x, y, ERROR[dtype])
