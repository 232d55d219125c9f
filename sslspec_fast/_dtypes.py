"""The dtype of what is computed, and of what is multiplied, with rows of a given dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor


def computed_dtype(x: Tensor) -> torch.dtype:
    """What is computed with rows of x, statistics included: float64 for float64, else float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def widen(x: Tensor) -> Tensor:
    """bfloat16 and float16 rows in float32; the gradient comes back in the dtype of x."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def own_rows(z: Tensor) -> Tensor:
    """Rows for a primitive that reads half precision itself on a GPU, and bfloat16 on a CPU."""
    return z if z.is_cuda or z.dtype == torch.bfloat16 else widen(z)


_float32_products = torch.float32  # of a CPU; set_float32_products in _config.py says what it is


def float32_products() -> torch.dtype:
    """What a CPU rounds float32 rows to for their products."""
    return _float32_products


def change_float32_products(dtype: torch.dtype) -> None:
    """For `set_float32_products`, which checks it."""
    global _float32_products
    _float32_products = dtype


_widened: ContextVar[bool] = ContextVar("sslspec_fast.widened", default=False)


@contextlib.contextmanager
def widened_rows() -> Iterator[None]:
    """Where a loss is called with float32 rows that came as bfloat16, on a CPU: it multiplies them
    as such. In this thread alone, and not in what torch.compile traces.
    """
    token = _widened.set(True)
    try:
        yield
    finally:
        _widened.reset(token)


def is_half(z: Tensor) -> bool:
    """Whether products of rows of the input z are of bfloat16 numbers, where the device has them,
    added up in float32: z is bfloat16, or float32 on a CPU and either came as bfloat16
    (`widened_rows`) or the user asked for it. Everything around the products stays in float32.

    A loss asks once for an operator, which keeps the answer for its backward pass.
    """
    if z.dtype == torch.bfloat16:
        return True
    if z.dtype != torch.float32 or z.is_cuda:
        return False
    asked = _float32_products == torch.bfloat16
    return asked or (not torch.compiler.is_compiling() and _widened.get())


def products(x: Tensor, z: Tensor) -> Tensor:
    """The wide rows x of the input z as a dense part multiplies them."""
    return as_multiplied(x, is_half(z))


def multiplies_half(x: Tensor, half: bool) -> bool:
    """Whether the device of x multiplies rows in bfloat16 that came as bfloat16 (half)."""
    return half and x.is_cuda


def stays_wide(x: Tensor, half: bool) -> bool:
    """Whether rows that came as bfloat16 (half) go wide to the kernels of their device, which round
    them: those of a CPU.
    """
    return half and not x.is_cuda


def as_multiplied(x: Tensor, half: bool) -> Tensor:
    """x as kernels take it: bfloat16 on a GPU if half; wide on a CPU, which rounds rows itself."""
    if x.is_cuda:
        return x.bfloat16() if half else x
    return widen(x)
