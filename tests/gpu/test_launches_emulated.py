"""How many kernels a step of a loss launches on a GPU: what a small batch waits for."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

import sslspec_fast.functional as F

from ..support.emulation import BF16, F32, emulated

pytestmark = [emulated, pytest.mark.usefixtures("gpu_paths")]

LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "nt_xent": F.nt_xent,
    "info_nce": F.info_nce,
    "clip": lambda a, b: F.clip(a, b, 10.0),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -10.0),
    "vicreg": F.vicreg,
    "barlow_twins": F.barlow_twins,
    "spectral_contrastive": F.spectral_contrastive,
}
# kernels of our own, forward and backward, where one kernel chains the products of the gradient
# (up to 256 columns), and where library products follow. Barlow Twins has one pass more over the
# rows, for two column sums of the gradient.
MOST = {
    "nt_xent": (5, 5),
    "info_nce": (5 + 1, 5),  # one chained kernel for each side
    "clip": (5 + 1, 5),
    "siglip": (3, 3),
    "vicreg": (4, 4),
    "barlow_twins": (5, 5),
    "spectral_contrastive": (3, 3),
}
# library products; a GPU writes their float32 results at once, where the emulator copies them
PRODUCTS = {"mm", "bmm", "addmm", "copy_"}
NO_KERNEL = {
    *("empty", "empty_strided", "empty_like", "new_empty", "view", "as_strided", "detach", "slice"),
    *(
        "select",
        "unsqueeze",
        "expand",
        "t",
        "transpose",
        "reshape",
        "alias",
        "unflatten",
        "squeeze",
    ),
    *("flatten", "permute", "_unsafe_view", "_reshape_alias", "result_type", "to", "unbind"),
    *("matrix_H", "numpy_T", "mT", "narrow", "lift_fresh", "resize_", "resolve_conj"),
}


def operations(events: Any) -> list[str]:
    """Names of the innermost operators of torch that launch kernels."""

    def counts(event: Any) -> bool:
        return event.name.startswith("aten::") and event.name[6:] not in NO_KERNEL

    def has_inner(event: Any) -> bool:
        return any(counts(child) or has_inner(child) for child in event.cpu_children)

    return [e.name[6:] for e in events if counts(e) and not has_inner(e)]


def test_operations_are_found() -> None:
    x = torch.ones(3, 3)
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        (x.T @ x).add_(x).sum()
    assert operations(seen.events())[:2] == ["mm", "add_"]


@pytest.mark.parametrize("dtype", [BF16, F32])
@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_kernels_of_a_step(name: str, wide: bool, dtype: torch.dtype, core: ModuleType) -> None:
    torch.manual_seed(0)
    d = 264 if wide else 64
    rows = torch.nn.functional.normalize(torch.randn(2, 150, d), dim=2).to(dtype)
    z, one = [x.requires_grad_() for x in rows.unbind()], torch.ones(())

    def step() -> None:
        torch.autograd.grad(LOSSES[name](*z), z, one)

    step()
    core.launches()
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        step()
    launched = core.launches()
    assert len(launched) <= MOST[name][wide], launched
    assert set(operations(seen.events())) <= PRODUCTS


@pytest.mark.parametrize(("n", "d"), [(100, 264), (2100, 72)])
@pytest.mark.parametrize("name", ["vicreg", "barlow_twins", "spectral_contrastive"])
def test_products_of_rows_and_cut_sums_take_no_kernel_more(
    name: str, n: int, d: int, core: ModuleType
) -> None:
    # fewer rows than half the columns: the diagonal is subtracted; many rows: sums in parts
    rows = torch.nn.functional.normalize(torch.randn(2, n, d), dim=2)
    z = [x.requires_grad_() for x in rows.unbind()]
    core.launches()
    torch.autograd.grad(LOSSES[name](*z), z)
    launched = core.launches()
    assert len(launched) <= MOST[name][0], launched


@pytest.mark.parametrize("name", ["nt_xent", "info_nce", "clip"])
def test_parts_of_a_gradient_are_added_in_its_last_pass(name: str, core: ModuleType) -> None:
    # 1100 rows: each block of rows is cut into two parts
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 1100, 24), dim=2).to(BF16)
    z = [x.requires_grad_() for x in rows.unbind()]
    core.launches()
    torch.autograd.grad(LOSSES[name](*z), z)
    assert "pairwise_reduce" not in core.launches()


def test_a_learnable_scale_costs_one_more(core: ModuleType) -> None:
    z = [x.requires_grad_() for x in torch.nn.functional.normalize(torch.randn(2, 40, 24), dim=2)]
    c = torch.tensor(10.0, requires_grad=True)
    bias = torch.tensor(-10.0, requires_grad=True)
    for loss, extra, most in ((F.clip, (), 7), (F.siglip, (bias,), 3)):
        core.launches()
        torch.autograd.grad(loss(*z, c, *extra), (*z, c, *extra))
        assert len(core.launches()) <= most
