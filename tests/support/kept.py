"""NT-Xent and CLIP on a GPU with and without the weights that the forward pass keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.fused import two_views_cuda

from .cones import SOFTMAX_LOSSES, cone_rows

__all__ = ["FORMS", "KEPT_LOSSES", "compare", "every_size", "paired_rows", "step"]

# by the scale that sits on the logits
KEPT_LOSSES: dict[str, Callable[..., Tensor]] = {
    "nt_xent": lambda a, b, c, **options: F.nt_xent(a, b, temperature=1 / c, **options),
    "clip": F.clip,
}
FORMS = {"nt_xent": "stacked", "clip": "both"}


def every_size() -> Any:
    """Few rows and any number of columns are kept, as they are asked to be."""
    columns = {"stacked": (1, 512), "both": (1, 512)}
    return mock.patch.multiple(two_views_cuda, _FEWEST_KEPT=0, _KEPT_COLUMNS=columns)


def paired_rows(n: int, d: int, device: torch.device | str = "cpu") -> list[Tensor]:
    """Two views that are near each other: their pairs are masked or not, and it shows."""
    generator = torch.Generator().manual_seed(n + d)
    a, b = torch.randn(2, n, d, generator=generator)
    views = nnf.normalize(a, dim=1), nnf.normalize(a + 0.5 * b, dim=1)
    return [x.to(device, torch.bfloat16).requires_grad_() for x in views]


def step(loss: Callable[..., Tensor], leaves: list[Tensor], **options: Any) -> list[Tensor]:
    """Value and gradients of 2.5 times a loss."""
    value = loss(*leaves, **options)
    return [value.detach(), *torch.autograd.grad(2.5 * value, leaves)]


def compare(
    name: str, case: str, scale: float, size: tuple[int, int], device: torch.device | str = "cpu"
) -> bool:
    """A loss of SOFTMAX_LOSSES with kept weights and with weights made in the backward pass agree
    to the rounding of the exponentials. Whether one shift was tried and a sum too small for it.
    """
    loss, margins_of = SOFTMAX_LOSSES[name]
    z = [x.to(device, torch.bfloat16).requires_grad_() for x in cone_rows(case, *size)]
    found = []
    for limit in (0, 256 << 20):
        with mock.patch.object(two_views_cuda, "cuda_kept_limit", lambda limit=limit: limit):
            value = loss(*z, scale)
            found.append([value.detach(), *torch.autograd.grad(value, z)])
    assert torch.allclose(found[0][0], found[1][0], rtol=1e-5, atol=1e-6)
    # the terms of a gradient, which cancel where all rows are equal
    root = scale**0.5
    margins = margins_of(*(x.detach().double() * root for x in z))
    terms = scale / size[0] * float(margins.sigmoid().norm()) + 1e-30
    for without, kept in zip(found[0][1:], found[1][1:], strict=True):
        assert float((without.double() - kept.double()).norm()) <= 7e-3 * terms
    form, unit = ("stacked", True) if name == "stacked" else ("both", False)
    *_, stats, _ = two_views_cuda.forward(*z, torch.tensor(scale), 1.0, "mean", form, unit, True)
    return bool(stats[-5:-1].view(torch.int32)[0])
