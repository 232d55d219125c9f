"""Argument checks shared by every loss: the one home of the messages a user can meet.

A message names the loss, the argument, the rule and both values, for example
``nt_xent: z2 must match z1 (4096, 256), got (4096, 128)``. Shapes, dtypes, devices and Python
numbers are checked on every call. Checks that must look at tensor *data* (a negative temperature
tensor, a NaN weight) run on CPU tensors in eager mode only: on a GPU they would wait for the
device, under ``torch.compile`` they would break the graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ._dtypes import computed_dtype

REDUCTIONS = ("mean", "sum", "none")
PENALTIES = ("hinge_std", "ls_var", "ls_std", "hinge_var")  # of VICReg's variances
MEASURES = ("uniform", "degree")  # of the rows of a graph
# of InfoNCE on a graph; the last without a closed form
NEGATIVES = ("others", "non_positive", "per_positive")
# pairs of a batch that are logits of InfoNCE
DIRECTIONS = ("query_to_key", "query_to_query", "key_to_key", "key_to_query")
IMPLEMENTATIONS = ("fused", "torch")
FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def readable(x: Tensor) -> bool:
    """Whether looking at the data of x is free: on the CPU and outside torch.compile."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def choice(op: str, name: str, value: object, options: Sequence[str]) -> None:
    if value not in options:
        allowed = ", ".join(repr(o) for o in options)
        raise ValueError(f"{op}: {name} must be one of {allowed}, got {value!r}")


def number(
    op: str, name: str, value: float, *, low: float = -math.inf, strict: bool = False
) -> float:
    """A finite number, at least low (above low if strict), as a Python one."""
    if type(value) is not float:  # checks of every call: a float, most often
        if isinstance(value, (np.floating, np.integer)):
            value = value.item()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    # comparisons only: NaN fails them all, and a symbolic float of torch.compile allows them
    if not -math.inf < value < math.inf or value < low or (strict and value == low):
        rule = "finite" if low == -math.inf else f"finite and {'>' if strict else '>='} {low:g}"
        raise ValueError(f"{op}: {name} must be {rule}, got {value}")
    return value


def count(op: str, name: str, value: Any, low: float = -math.inf) -> int:
    """An integer, at least low."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{op}: {name} must be an integer, got {type(value).__name__}")
    if value < low:
        raise ValueError(f"{op}: {name} must be at least {low}, got {value}")
    return int(value)


def fraction(op: str, name: str, value: float) -> float:
    value = number(op, name, value, low=0.0)
    if value >= 1:
        raise ValueError(f"{op}: {name} must be in [0, 1), got {value}")
    return value


def not_a_tensor(op: str, name: str, x: object) -> TypeError:
    """A loss takes tensors only: an array of another library has no gradient to hand back."""
    remedy = "; torch.from_dlpack makes one of it" if hasattr(x, "__dlpack__") else ""
    return TypeError(f"{op}: {name} must be a torch.Tensor, got {type(x).__name__}{remedy}")


def dense(op: str, name: str, x: Tensor) -> None:
    """x: a dense tensor of one of FLOATS."""
    if not isinstance(x, Tensor):
        raise not_a_tensor(op, name, x)
    if x.dtype not in FLOATS:
        allowed = "float64, float32, bfloat16 or float16"
        rule = allowed if x.is_floating_point() else "a floating-point tensor"
        raise TypeError(f"{op}: {name} must be {rule}, got {x.dtype}")
    strided(op, name, x)


def strided(op: str, name: str, x: Tensor) -> None:
    if x.layout != torch.strided:
        raise TypeError(f"{op}: {name} must be a dense tensor, got layout {x.layout}")


def matrix(op: str, name: str, x: Tensor, *, min_rows: int = 1) -> None:
    """x: (n, d) floating-point tensor with at least min_rows rows and one column."""
    dense(op, name, x)
    shape = x.shape
    if len(shape) != 2:
        raise ValueError(
            f"{op}: {name} must have 2 dimensions (rows, features), got shape {tuple(shape)}"
        )
    if shape[0] < min_rows or shape[1] < 1:
        rows = "row" if min_rows == 1 else "rows"
        raise ValueError(
            f"{op}: {name} needs at least {min_rows} {rows} and 1 column, got {tuple(shape)}"
        )


def views(op: str, name: str, x: Tensor, *, min_rows: int = 1, min_views: int = 1) -> None:
    """x: (n, d), or (views, n, d), with at least min_views, min_rows rows and one column."""
    dense(op, name, x)
    *views, rows, features = x.shape if x.dim() in (2, 3) else (0, 0)
    if rows < min_rows or features < 1 or any(count < min_views for count in views):
        raise ValueError(
            f"{op}: {name} must be (rows, features) or (views, rows, features), at least one of "
            f"each, got shape {tuple(x.shape)}"
        )


def same_kind(op: str, name: str, x: Tensor, other_name: str, other: Tensor) -> None:
    """x has the dtype and the device of another argument."""
    if x.dtype != other.dtype:
        raise TypeError(
            f"{op}: {name} must have the dtype of {other_name}, {other.dtype}, got {x.dtype}"
        )
    if x.device != other.device:
        raise ValueError(
            f"{op}: {name} must be on the device of {other_name}, {other.device}, got {x.device}"
        )


def pair(op: str, names: tuple[str, str], a: Tensor, b: Tensor, *, min_rows: int = 1) -> None:
    """Two paired (n, d) tensors."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        # what most calls pass, in one place: a small batch pays for each function that is called
        shape, dtype = a.shape, a.dtype
        alike = shape == b.shape and dtype == b.dtype and a.device == b.device
        dense_rows = len(shape) == 2 and dtype in FLOATS and a.layout == b.layout == torch.strided
        if alike and dense_rows and shape[0] >= min_rows and shape[1] >= 1:
            return
    matrix(op, names[0], a, min_rows=min_rows)
    if not isinstance(b, Tensor):
        raise not_a_tensor(op, names[1], b)
    if a.shape != b.shape:
        raise ValueError(
            f"{op}: {names[1]} must match {names[0]} {tuple(a.shape)}, got {tuple(b.shape)}"
        )
    same_kind(op, names[1], b, names[0], a)
    strided(op, names[1], b)


def columns(
    op: str, name: str, x: Tensor, other_name: str, other: Tensor, *, min_rows: int = 1
) -> None:
    """x: (m, d) extra columns beside an (n, d) tensor."""
    matrix(op, name, x, min_rows=min_rows)
    if x.shape[1] != other.shape[1]:
        raise ValueError(
            f"{op}: {name} must have the {other.shape[1]} features of {other_name} "
            f"{tuple(other.shape)}, got {tuple(x.shape)}"
        )
    same_kind(op, name, x, other_name, other)


def positive(
    op: str, name: str, value: float | Tensor, like: Tensor, *, rows: Sequence[int]
) -> Tensor:
    """A temperature or scale as a tensor, 0-dim or one value per anchor row, in the dtype that the
    loss of the rows `like` is computed in.

    value: a Python number > 0; a tensor, 0-dim or (1,), or (n,) with n in rows. A tensor keeps its
    gradient.
    """
    if not isinstance(value, Tensor):
        value = number(op, name, value, low=0.0, strict=True)
        return torch.full((), float(value), dtype=computed_dtype(like), device=like.device)
    if not value.is_floating_point():
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {value.dtype}")
    if value.device != like.device and value.dim() > 0:
        raise ValueError(
            f"{op}: {name} must be on the device of the rows, {like.device}, got {value.device}"
        )
    if value.dim() > 1 or (value.dim() == 1 and value.shape[0] not in (1, *rows)):
        allowed = " or ".join(f"({n},)" for n in rows)
        kinds = f", a 0-dim tensor or one value per anchor row {allowed}"
        raise ValueError(
            f"{op}: {name} must be a number{kinds if rows else ' or a 0-dim tensor'}, "
            f"got shape {tuple(value.shape)}"
        )
    if readable(value):
        bad = value.detach()[~((value > 0) & value.isfinite())]
        if bad.numel():
            raise ValueError(f"{op}: {name} must be finite and > 0, got {bad[0].item()}")
    if value.numel() == 1:
        value = value.reshape(())
    return value.to(device=like.device, dtype=computed_dtype(like)).contiguous()


def real(op: str, name: str, value: float | Tensor, like: Tensor) -> Tensor:
    """A bias, a number or a tensor of one value, as a 0-dim tensor in the dtype of the loss."""
    if not isinstance(value, Tensor):
        value = number(op, name, value)
        return torch.full((), float(value), dtype=computed_dtype(like), device=like.device)
    if not value.is_floating_point():
        raise TypeError(f"{op}: {name} must be a floating-point tensor, got {value.dtype}")
    if value.numel() != 1:
        raise ValueError(f"{op}: {name} must be one value, got shape {tuple(value.shape)}")
    if readable(value) and not bool(value.detach().isfinite().all()):
        raise ValueError(f"{op}: {name} must be finite, got {value.item()}")
    return value.reshape(()).to(device=like.device, dtype=computed_dtype(like))


def threshold(op: str, value: float | Tensor, like: Tensor, n: int) -> Tensor:
    """A bound of similarities, a number or one value per row, without a gradient."""
    if not isinstance(value, Tensor):
        value = number(op, "threshold", value)
        return torch.full((), float(value), dtype=computed_dtype(like), device=like.device)
    if not value.is_floating_point():
        raise TypeError(f"{op}: threshold must be a floating-point tensor, got {value.dtype}")
    if value.shape not in ((), (1,), (n,)):
        raise ValueError(
            f"{op}: threshold must be a number, a 0-dim tensor or one value per row ({n},), "
            f"got shape {tuple(value.shape)}"
        )
    if value.device != like.device:
        raise ValueError(
            f"{op}: threshold must be on the device of the rows, {like.device}, got {value.device}"
        )
    refuse_grad(op, "threshold", value.requires_grad, "detach it")
    if readable(value) and bool(value.isnan().any()):
        raise ValueError(f"{op}: threshold must be a number, got nan")
    value = value.reshape(()) if value.numel() == 1 else value
    return value.detach().to(computed_dtype(like))


def sample_weight(
    op: str,
    weight: Tensor | None,
    like: Tensor,
    n: int,
    reduction: str,
    anchor: Tensor | None = None,
) -> Tensor | None:
    """weight: None, or (n,) finite and >= 0; returned in the dtype of the loss.

    anchor: (n,) bool, the rows that a mean runs over; None for all.
    """
    if weight is None:
        return None
    if not isinstance(weight, Tensor):
        raise not_a_tensor(op, "sample_weight", weight)
    if weight.shape != (n,):
        raise ValueError(
            f"{op}: sample_weight must have one value per sample ({n},), got {tuple(weight.shape)}"
        )
    if weight.device != like.device:
        raise ValueError(
            f"{op}: sample_weight must be on the device of the rows, {like.device}, "
            f"got {weight.device}"
        )
    strided(op, "sample_weight", weight)
    if readable(weight):
        bad = weight.detach()[~((weight >= 0) & weight.isfinite())]
        if bad.numel():
            raise ValueError(f"{op}: sample_weight must be finite and >= 0, got {bad[0].item()}")
        used = weight if anchor is None else weight * anchor
        if reduction == "mean" and float(used.detach().sum()) == 0:
            rows = "" if anchor is None else " over the rows with an edge"
            raise ValueError(
                f"{op}: sample_weight must have a positive sum{rows} for reduction='mean', got 0"
            )
    return weight.to(computed_dtype(like))


def ids(op: str, values: Any, like: Tensor, n: int, name: str = "ids") -> Tensor:
    """Ids that the pairwise kernels compare: (n,) integers of 32 bits, as int64."""
    out = integers(op, name, values, like, n)
    if out.dtype == torch.int64 and readable(out):
        wide = out[out != out.to(torch.int32)]
        if wide.numel():
            raise ValueError(f"{op}: {name} must fit in 32 bits, got {wide[0].item()}")
    return out


def integers(op: str, name: str, values: Any, like: Tensor, n: int) -> Tensor:
    """Labels or ids: (n,) integers, returned as int64 on like's device."""
    if isinstance(values, Tensor):
        out = values
    else:
        array = np.asarray(values)
        if array.dtype.kind not in "iu":
            raise TypeError(
                f"{op}: {name} must be integers, got {type(values).__name__} of dtype {array.dtype}"
            )
        out = torch.as_tensor(array)
    if out.is_floating_point() or out.is_complex() or out.dtype == torch.bool:
        raise TypeError(f"{op}: {name} must be integers, got {out.dtype}")
    if out.shape != (n,):
        raise ValueError(f"{op}: {name} must have one value per row ({n},), got {tuple(out.shape)}")
    if isinstance(values, Tensor) and out.device != like.device:
        raise ValueError(
            f"{op}: {name} must be on the device of the rows, {like.device}, got {out.device}"
        )
    return out.to(device=like.device, dtype=torch.int64)


def labels(op: str, values: Any, like: Tensor, n: int) -> Tensor:
    """Labels that are compared only: (n,) or (n, 1) of any real dtype, returned as (n,) int64, or
    as they are if floating point.
    """
    out = values if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    if out.shape == (n, 1):
        out = out[:, 0]
    if not out.is_floating_point():
        out = out.long() if out.dtype == torch.bool else out
        return integers(op, "labels", out if isinstance(values, Tensor) else out.numpy(), like, n)
    if out.shape != (n,):
        raise ValueError(
            f"{op}: labels must have one value per sample ({n},) or ({n}, 1), "
            f"got {tuple(out.shape)}"
        )
    if isinstance(values, Tensor) and out.device != like.device:
        raise ValueError(
            f"{op}: labels must be on the device of the rows, {like.device}, got {out.device}"
        )
    if readable(out):
        finite(op, "labels", out)
    return out.to(like.device)


def compressed(op: str, name: str, indptr: Any, indices: Any, n_rows: int, n_cols: int) -> None:
    """Compressed rows, arrays or tensors, that no product would leave the matrix with."""
    size = int(indices.shape[0])
    first, last = (int(indptr[0]), int(indptr[-1])) if indptr.shape[0] else (0, 0)
    steps = indptr[1:] - indptr[:-1]
    whole = indptr.shape[0] == n_rows + 1 and first == 0 and last <= size
    if not whole or (n_rows and int(steps.min()) < 0):
        raise ValueError(
            f"{op}: {name} must have row pointers ({n_rows + 1},) that rise from 0 to at most the "
            f"{size} stored entries, got {tuple(indptr.shape)} from {first} to {last}"
        )
    low, high = (int(indices.min()), int(indices.max())) if size else (0, -1)
    if low < 0 or high >= n_cols:
        worst = low if low < 0 else high
        raise ValueError(f"{op}: {name} must have indices in [0, {n_cols}), got {worst}")


def compressed_scipy(op: str, name: str, matrix: Any) -> None:
    """`compressed` for scipy's CSR, CSC and BSR, whose constructors take any indices."""
    if matrix.format not in ("csr", "csc", "bsr"):
        return
    rows, cols = matrix.shape if matrix.format != "csc" else matrix.shape[::-1]
    if matrix.format == "bsr":
        rows, cols = (size // b for size, b in zip(matrix.shape, matrix.blocksize, strict=True))
    compressed(op, name, matrix.indptr, matrix.indices, rows, cols)


def refuse_grad(op: str, name: str, required: bool, remedy: str) -> None:
    """Say so rather than return what has lost the gradient of an input."""
    if required and torch.is_grad_enabled():
        raise NotImplementedError(
            f"{op}: {name} must not require grad, got a tensor that does; {remedy}"
        )


def finite(op: str, name: str, x: Tensor) -> None:
    """For what is no part of a training step: a look at every entry."""
    bad = int((~x.isfinite()).sum())
    if bad:
        raise ValueError(f"{op}: {name} must be finite, got {bad} bad values")


def one_rank(op: str, group: Any) -> None:
    """group: a process group of one rank."""
    if not hasattr(group, "size"):
        raise TypeError(
            f"{op}: group must be a torch.distributed.ProcessGroup, got {type(group).__name__}"
        )
    size = torch.distributed.get_world_size(group)
    if size != 1:
        raise ValueError(
            f"{op}: group must have 1 rank, the loss takes all rows in one process; "
            f"got {size} ranks"
        )


def common(op: str, impl: str, group: Any, reduction: str = "mean") -> None:
    """The keywords that every loss takes."""
    if impl != "fused":  # most calls: nothing else is asked
        choice(op, "impl", impl, IMPLEMENTATIONS)
    if reduction != "mean":
        choice(op, "reduction", reduction, REDUCTIONS)
    if group is not None:
        one_rank(op, group)
