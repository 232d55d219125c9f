"""What it means for a loss on a GPU to agree with its float64 reference; used with a GPU and with
the emulator.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as nnf
from torch import Tensor

from . import cases, inputs
from .tolerance import relative_error

F64, F32, F16, BF16 = torch.float64, torch.float32, torch.float16, torch.bfloat16
# relative errors of the value and of the gradient, in the Frobenius norm
TOLERANCE = {F64: (1e-9, 1e-9), F32: (2e-5, 1e-4), F16: (4e-3, 1e-2), BF16: (1e-2, 3e-2)}


def inputs_of(name: str, n: int, d: int, dtype: torch.dtype) -> tuple[list[Tensor], Any, bool]:
    """Rows that are exact in dtype, the loss, and whether half-precision rows are unit already."""
    case = cases.CASES[name]
    rows, loss = case.make(max(n, case.min_rows), d)
    unit = dtype in (F16, BF16) and case.unit
    if unit:
        rows = [nnf.normalize(x, dim=1) for x in rows]
    return [x.to(dtype) for x in rows], loss, unit


def value_and_gradients(
    loss: Any, leaves: Sequence[Tensor], **keywords: Any
) -> tuple[Tensor, list[Tensor]]:
    value = loss(*leaves, **keywords)
    grads = torch.autograd.grad(value, list(leaves), torch.ones_like(value))
    return value.detach(), list(grads)


def fused_and_reference(
    loss: Callable[..., Tensor],
    rows: Sequence[Tensor],
    numbers: Sequence[float | Tensor],
    **keywords: Any,
) -> list[list[Tensor]]:
    """Value and gradients, ours and those of the reference in float64; tensors among the numbers,
    such as temperatures, have gradients too.
    """
    out = []
    for impl, kind in (("fused", None), ("torch", F64)):
        leaves = [x.detach().to(kind or x.dtype).requires_grad_(x.requires_grad) for x in rows]
        given = [
            t.detach().to(kind or t.dtype).requires_grad_() if isinstance(t, Tensor) else t
            for t in numbers
        ]
        value = loss(*leaves, *given, impl=impl, **keywords)
        wanted = [x for x in (*leaves, *given) if isinstance(x, Tensor) and x.requires_grad]
        out.append([value.detach(), *torch.autograd.grad(2.5 * value, wanted)])
    return out


def agree(found: Sequence[Sequence[Tensor]], dtype: torch.dtype, times: float = 1.0) -> None:
    """The results of `fused_and_reference` do, as rows of this dtype allow."""
    value, gradient = TOLERANCE[dtype]
    for k, (got, want) in enumerate(zip(*found, strict=True)):
        # the terms of the gradient of a number nearly cancel
        error = value if k == 0 else gradient if want.dim() else 20 * gradient
        assert relative_error(got, want) <= times * error


def leaves_of(rows: Sequence[Tensor], **where: Any) -> list[Tensor]:
    return [x.detach().clone().to(**where).requires_grad_() for x in rows]


def check(name: str, n: int, d: int, dtype: torch.dtype, device: torch.device | str) -> None:
    """Value and gradients of one loss on a device against the dense reference."""
    rows, loss, unit = inputs_of(name, n, d, dtype)
    value, grads = value_and_gradients(loss, leaves_of(rows, device=device))
    with contextlib.ExitStack() as stack:
        if unit:  # the reference must not normalise the rounded rows again
            stack.enter_context(mock.patch.object(inputs, "unit", lambda x: x))
        want, wanted = value_and_gradients(loss, leaves_of(rows, dtype=F64), impl="torch")
    value_error, gradient_error = TOLERANCE[dtype]
    worst = relative_error(value.cpu(), want)
    assert worst <= value_error, f"{name} {dtype}: value {worst:.1e}"
    for k, (got, expected) in enumerate(zip(grads, wanted, strict=True)):
        assert got.dtype == dtype
        worst = relative_error(got.cpu(), expected)
        assert worst <= gradient_error, f"{name} {dtype}: gradient {k} {worst:.1e}"
