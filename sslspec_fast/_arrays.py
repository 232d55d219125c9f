"""Arrays of other libraries as tensors or as NumPy, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "check_real",
    "from_array",
    "host_array",
    "is_cupy",
    "known_array",
    "real_array",
    "to_array",
]

_FLOATS = (torch.float32, torch.float64)


def is_cupy(x: Any) -> bool:
    return type(x).__module__.split(".")[0] == "cupy"


def known_array(x: Any) -> Any:
    """x itself; an array of a library that is not known here, such as JAX or MLX, by DLPack: as
    NumPy where it lies in host memory, as a tensor on a GPU.
    """
    if isinstance(x, (np.ndarray, Tensor)) or is_cupy(x) or not hasattr(x, "__dlpack__"):
        return x
    t = torch.from_dlpack(x)
    return t.numpy() if t.device.type == "cpu" and t.dtype != torch.bfloat16 else t


def host_array(x: Any) -> np.ndarray:
    """List, array of any library, or tensor on any device, in host memory; bfloat16 as float32."""
    x = known_array(x)
    if isinstance(x, Tensor):
        x = x.detach().cpu()
        return x.float().numpy() if x.dtype == torch.bfloat16 else x.numpy()
    return x.get() if is_cupy(x) else np.asarray(x)


def from_array(x: Any) -> Tensor:
    """An array of any library as a tensor, without a copy where memory allows it."""
    x = known_array(x)
    if isinstance(x, Tensor):
        return x.detach()
    if is_cupy(x):
        return torch.from_dlpack(x)
    return torch.from_numpy(np.ascontiguousarray(x))


def to_array(x: Tensor, kind: str) -> Any:
    """x as an array of the library `kind`: "torch", "numpy" or "cupy"."""
    if kind == "torch":
        return x
    if kind == "numpy":
        return x.cpu().numpy()
    import cupy  # type: ignore[import-not-found, unused-ignore]

    return cupy.from_dlpack(x)


def real_array(op: str, name: str, x: Any) -> Tensor:
    """An array of finite real numbers as a float32 or float64 tensor, detached."""
    x = known_array(x)
    x = x if hasattr(x, "dtype") else np.asarray(x)
    check_real(op, name, x)
    if isinstance(x, np.ndarray) and x.dtype not in (np.float32, np.float64):
        x = x.astype(np.float64)
    t = from_array(x)
    t = t if t.dtype in _FLOATS else t.double()
    finite: Any = np.isfinite(t.numpy()) if t.device.type == "cpu" else torch.isfinite(t)
    if not finite.all():
        raise ValueError(f"{op}: {name} must be finite, got {int((~finite).sum())} bad values")
    return t


def check_real(op: str, name: str, x: Any) -> None:
    dtype = getattr(x, "dtype", None)
    kind = dtype.kind if isinstance(dtype, np.dtype) else "f"
    if kind not in "fiub" or "complex" in str(dtype):
        raise TypeError(f"{op}: {name} must be real, got dtype {dtype}")
