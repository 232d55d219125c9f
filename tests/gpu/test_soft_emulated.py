"""Soft cross-entropy's GPU path in the emulator: panels, pairs, biases, kernels, refusals."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.primitives.pairwise import soft
from sslspec_fast.primitives.pairwise.soft import cuda as soft_cuda

from ..support.emulation import BF16, ERROR, F32, F64, GpuPaths, close, emulated, view
from ..support.inputs import pair_rows

SHAPES = ((1, 1, 1, 1), (6, 6, 7, 3), (70, 70, 300, 33), (9, 4, 130, 5), (40, 70, 257, 20))


def both(paths: GpuPaths, leaves: list[Tensor], call: Any) -> None:
    """Values and gradients on the GPU path, and on the CPU's in float64."""
    results = []
    for on in (True, False):
        own = [x.detach().clone().requires_grad_() for x in leaves]
        if on:
            value = call(*own)
            grads = torch.autograd.grad(value.sum(), own)
        else:
            with paths.off():
                own = [x.detach().double().requires_grad_() for x in own]
                value = call(*own)
                grads = torch.autograd.grad(value.sum(), own)
        results.append((value.detach(), grads))
    (value, grads), (expected, wanted) = results
    error = ERROR[leaves[0].dtype]
    close(value, expected, error)
    for got, want in zip(grads, wanted, strict=True):
        assert got.dtype == leaves[0].dtype
        close(got, want, error)


@emulated
@pytest.mark.parametrize("dtype", [F64, F32, BF16])
@pytest.mark.parametrize(("n", "m", "k", "d"), SHAPES)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_pairs_of_students_and_teachers(
    gpu_paths: GpuPaths,
    n: int,
    m: int,
    k: int,
    d: int,
    reduction: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(soft_cuda, "_PANEL", 16 * k)
    student, w = (x.to(dtype) for x in (pair_rows(n, d)[0], pair_rows(k, d, 1)[0]))
    teacher, v, bias = pair_rows(m, d, 2)[0], pair_rows(k, d, 3)[0], pair_rows(1, k, 4)[0][0]
    g = torch.Generator().manual_seed(n)
    rows, columns = (torch.randint(0, size, (3 * n,), generator=g) for size in (n, m))
    pairs = None if n == m else (rows, columns, torch.rand(3 * n, generator=g))

    def loss(a: Tensor, w: Tensor) -> Tensor:
        kind = a.dtype if a.dtype == F64 else F32
        own = (x.to(kind) for x in (teacher, v))
        how = {"pairs": pairs, "bias": bias.to(kind), "reduction": reduction}
        how |= {
            "student_temperature": 0.5,
            "teacher_temperature": 0.5,
        }  # what rounding is divided by
        return F.prototype_cross_entropy(a, next(own), w, next(own), **how)

    both(gpu_paths, [student, w], loss)


@emulated
@pytest.mark.parametrize("dtype", [F64, F32])
def test_mean_probabilities(
    gpu_paths: GpuPaths, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soft_cuda, "_PANEL", 16 * 90)
    a, w = (x.to(dtype) for x in (pair_rows(50, 9)[0], pair_rows(90, 9, 1)[0]))
    upstream = torch.linspace(-1, 1, 90, dtype=F64)
    weight = torch.linspace(0, 1, 50, dtype=F64)
    both(
        gpu_paths,
        [a, w],
        lambda a, w: soft.mean_softmax(a, w, weight.to(a.dtype)) * upstream.to(a.dtype),
    )


@emulated
@pytest.mark.parametrize("n", [1, 2, 70])
def test_rows_leave_out_their_own_column(gpu_paths: GpuPaths, n: int) -> None:
    a, w = pair_rows(n, 5)
    b, weight = pair_rows(n, 3, 1)[0], torch.linspace(0, 1, n, dtype=F64)

    def rows(a: Tensor, w: Tensor) -> Tensor:
        return soft.soft_rows(soft.Sides(a, w, b, b, None), weight, skip_self=True)[0]

    both(gpu_paths, [a, w], rows)


@emulated
@pytest.mark.parametrize("dtype", [F64, F32, BF16])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("n", [2, 70])
def test_rows_of_a_batch(
    gpu_paths: GpuPaths,
    n: int,
    reduction: str,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """X-CLR with one temperature, whose gradient is wanted too."""
    monkeypatch.setattr(soft_cuda, "_PANEL", 16 * n)
    z, targets = pair_rows(n, 9)[0].to(dtype), pair_rows(n, 5, 1)[0]
    temperature = torch.tensor(0.5, dtype=F64 if dtype == F64 else F32)

    def loss(z: Tensor, *temperature: Tensor) -> Tensor:
        how = {"target_temperature": 0.5, "reduction": reduction}
        given = targets.to(z.dtype)
        return F.x_clr(z, given, temperature=temperature[0] if temperature else 0.5, **how)

    both(gpu_paths, [z], loss)
    if dtype != BF16:
        both(gpu_paths, [z, temperature], loss)


@emulated
def test_sinkhorn_and_terms(gpu_paths: GpuPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sslspec_fast.losses._sinkhorn._KEPT", 0)
    rows, w = pair_rows(30, 6)[0], pair_rows(70, 6, 1)[0]
    bias = F.sinkhorn_bias(rows, w, temperature=0.1)
    _, terms = F.prototype_cross_entropy(rows, rows, w, bias=bias, return_terms=True)
    with gpu_paths.off():
        expected = F.sinkhorn_bias(rows, w, temperature=0.1)
        _, wanted = F.prototype_cross_entropy(rows, rows, w, bias=bias, return_terms=True)
    close(bias, expected, 1e-11)
    close(terms["entropy"], wanted["entropy"], 1e-11)


@emulated
def test_memory_is_checked(core: ModuleType) -> None:
    logits, rows = torch.zeros(4, 7), torch.zeros(4)
    none = (None, None, None)

    def statistics(bias: Tensor | None, lse: Tensor) -> None:
        core.cuda_pairwise_soft_statistics(
            view(logits), view(bias), 0, False, view(lse), view(rows), 0
        )

    def weights(teacher: Any, weight: Tensor, tilt: Tensor | None) -> None:
        student = (view(logits), view(rows))
        own = (view(weight), view(tilt))
        core.cuda_pairwise_soft_weights(student, teacher, own, 0, False, view(rows), 0)

    statistics(torch.zeros(7), rows)
    weights(none, rows, torch.zeros(7))
    with pytest.raises(ValueError, match="bias must have size 7"):
        statistics(torch.zeros(4), rows)
    with pytest.raises(ValueError, match="lse must have size 4"):
        statistics(None, rows[:3])
    with pytest.raises(ValueError, match="weight must have size 4"):
        weights(none, rows[:2], None)
    with pytest.raises(ValueError, match="teacher logits must have size 4"):
        weights((view(logits[:3]), view(rows), None), rows, None)
    with pytest.raises(ValueError, match="a tilt is for rows without teachers"):
        weights((view(logits), view(rows), None), rows, torch.zeros(7))
