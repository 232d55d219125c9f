"""From what people have (edge lists, scipy, torch and cupy matrices) to one checked Csr.

Duplicates are summed, zeros are dropped, columns are sorted; everything is copied, so a graph
cannot change later.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy  # its submodules load on first use
import torch
from torch import Tensor

from .. import _checks as check
from .._arrays import host_array
from ..primitives.sparse.csr import Csr
from .labels import class_codes
from .relation import index_dtype


def csr_from_scipy(matrix: Any, *, symmetric: bool | None = None) -> Csr:
    """matrix: any scipy sparse (n, n); it is left as it was."""
    check.compressed_scipy("PairGraph", "A", matrix)
    if matrix.dtype.kind not in "biuf":
        raise TypeError(f"PairGraph: weights must be real numbers, got dtype {matrix.dtype}")
    a = summed(matrix, check_weights)
    check_weights(a.data)
    a.eliminate_zeros()
    a.sort_indices()
    indices = torch.from_numpy(a.indices).to(index_dtype(a.shape[1]))
    indptr = torch.from_numpy(a.indptr.astype(np.int64))
    unit = bool((a.data == 1).all())
    return Csr(
        indptr,
        indices,
        None if unit else torch.from_numpy(a.data),
        a.shape[1],
        symmetric,
    )


def summed(matrix: Any, check: Callable[[np.ndarray], Any] | None = None) -> Any:
    """A copy of a scipy sparse matrix of real numbers as CSR in float32 or float64, duplicates
    added in float64: sums of int8 wrap, those of float32 stop at 2^24. check: looks at
    the entries before.
    """
    dtype = _float(matrix.dtype)
    if matrix.format == "coo" or not getattr(matrix, "has_canonical_format", True):
        wide = matrix.astype(np.float64)
        if check is not None:
            check(wide.data)
        a = scipy.sparse.csr_array(wide)
        a.sum_duplicates()
        return a.astype(dtype, copy=False)
    return scipy.sparse.csr_array(matrix.astype(dtype), copy=True)


def native(array: np.ndarray) -> np.ndarray:
    """Real numbers in a dtype that torch knows: the machine's byte order, float64 at most."""
    with np.errstate(over="ignore"):  # of long doubles: whoever reads them refuses infinity
        return array.astype(_float(array.dtype), copy=False)


def _float(dtype: np.dtype) -> Any:
    """float32 for float16 and float32, float64 for all other real numbers."""
    return np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64


def csr_from_edges(rows: Any, cols: Any, weights: Any, n: int, symmetrize: bool) -> Csr:
    i, j, w = checked_edges(rows, cols, weights, n)
    check_columns(j, n)
    a = scipy.sparse.coo_array((w, (i, j)), shape=(n, n))
    if symmetrize:
        a = summed(a, check_weights)
        a = (a + a.T) * 0.5
    return csr_from_scipy(a, symmetric=True if symmetrize else None)


def checked_edges(
    rows: Any, cols: Any, weights: Any, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows in [0, n), columns that are not checked yet, and finite or infinite weights."""
    i, j = _index_array("rows", rows, n), _index_array("cols", cols, None)
    if i.shape != j.shape:
        raise ValueError(f"from_edges: cols must match rows {i.shape}, got {j.shape}")
    if weights is None:
        return i, j, np.ones(i.shape[0])
    _refuse_grad("from_edges", "weights", weights)
    w = host_array(weights)
    if w.shape != i.shape:
        raise ValueError(f"from_edges: weights must match rows {i.shape}, got {w.shape}")
    if w.dtype.kind not in "biuf":
        raise TypeError(f"from_edges: weights must be real numbers, got dtype {w.dtype}")
    return i, j, native(w)


def csr_from_sparse(matrix: Any) -> Csr:
    """scipy.sparse, torch sparse (COO, CSR, CSC) or cupyx.scipy.sparse; the result lives where
    `matrix` lives.
    """
    host, device = sparse_on_host(matrix)
    if len(host.shape) != 2 or host.shape[0] != host.shape[1]:
        raise ValueError(f"from_sparse: A must be square, got shape {tuple(host.shape)}")
    return csr_from_scipy(host).to(device)


def sparse_on_host(matrix: Any) -> tuple[Any, torch.device]:
    """As scipy's, and the device that it came from."""
    device = torch.device("cpu")
    _refuse_grad("from_sparse", "A", matrix)
    if isinstance(matrix, Tensor):
        if matrix.layout == torch.strided:
            raise TypeError("from_sparse: A must be a sparse matrix, got a dense tensor")
        device = matrix.device
        host = scipy_from_torch(matrix, "from_sparse")
    elif scipy.sparse.issparse(matrix):
        host = matrix
    elif type(matrix).__module__.startswith("cupyx.") and hasattr(matrix, "get"):
        device = torch.device("cuda", matrix.device.id)
        host = matrix.get()
    else:
        kind = type(matrix).__name__
        raise TypeError(f"from_sparse: A must be a scipy, torch or cupyx sparse matrix, got {kind}")
    return host, device


def scipy_from_torch(t: Tensor, op: str) -> Any:
    """A sparse torch matrix on the host, its duplicates kept."""
    if t.dim() != 2:
        raise ValueError(f"{op}: A must be square, got shape {tuple(t.shape)}")
    t = t.detach().cpu()
    if t.dense_dim() != 0:
        raise ValueError(
            f"{op}: A must have a number per entry, got {t.dense_dim()} dense dimensions"
        )
    if t.layout == torch.sparse_coo:
        i, j = t._indices().numpy()  # coalesce() would add duplicates in the dtype of t
        return scipy.sparse.coo_array((_host_values(t), (i, j)), shape=tuple(t.shape))
    if t.layout == torch.sparse_csr:
        arrays = (_host_values(t), t.col_indices().numpy(), t.crow_indices().numpy())
        return scipy.sparse.csr_array(arrays, shape=tuple(t.shape))
    if t.layout == torch.sparse_csc:
        arrays = (_host_values(t), t.row_indices().numpy(), t.ccol_indices().numpy())
        return scipy.sparse.csc_array(arrays, shape=tuple(t.shape))
    raise TypeError(f"{op}: A must be sparse COO, CSR or CSC, got layout {t.layout}")


def _host_values(t: Tensor) -> np.ndarray:
    values = t._values() if t.layout == torch.sparse_coo else t.values()
    if values.dtype in (torch.float16, torch.bfloat16):
        values = values.float()
    return values.numpy()


def check_weights(w: np.ndarray) -> None:
    finite = np.isfinite(w)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise ValueError(f"PairGraph: weights must be finite, got {w[bad]} at entry {bad}")


def _refuse_grad(op: str, name: str, x: Any) -> None:
    required = isinstance(x, Tensor) and x.requires_grad
    check.refuse_grad(op, name, required, f"pass {name}.detach()")


def _index_array(name: str, values: Any, n: int | None) -> np.ndarray:
    out = host_array(values)
    if out.ndim != 1:
        raise ValueError(f"from_edges: {name} must have shape (E,), got {out.shape}")
    if out.size == 0:
        return out.astype(np.int64)
    if out.dtype.kind not in "iu":
        raise TypeError(f"from_edges: {name} must be integers, got dtype {out.dtype}")
    if n is not None:
        _check_range(name, out, n)
    return out.astype(np.int64, copy=False)


def check_columns(cols: np.ndarray, n: int) -> None:
    """cols: integers in [0, n)."""
    if cols.size:
        _check_range("cols", cols, n)


def _check_range(name: str, values: np.ndarray, n: int) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= n:
        worst = low if low < 0 else high
        raise ValueError(f"from_edges: {name} must lie in [0, {n}), got {worst}")


def weighs_by_class_size(weight: str) -> bool:
    if weight not in ("uniform", "class_size"):
        raise ValueError(f"from_labels: weight must be 'uniform' or 'class_size', got {weight!r}")
    return weight == "class_size"


def label_tensor(labels: Any, *, names: bool = True) -> Tensor:
    """(n,) int64, on the device of a tensor. names: whether labels may be names, which are numbered
    here.
    """
    if isinstance(labels, Tensor):
        if labels.is_floating_point() or labels.is_complex():
            raise TypeError(f"from_labels: labels must be integers, got {labels.dtype}")
        out = labels.detach().to(torch.int64)
        if labels.dtype == torch.uint64:
            _below_2_to_63(out)
    else:
        array = host_array(labels)
        if array.size == 0 and array.ndim == 1:
            array = array.astype(np.int64)
        if array.dtype.kind in "OUS":
            if not names:
                raise TypeError(
                    "from_labels: labels over ranks must be integers, got names, whose numbers "
                    "each rank would choose for itself"
                )
            array = class_codes(array, "from_labels: labels")
        if array.dtype.kind not in "iub":
            raise TypeError(
                f"from_labels: labels must be integers or names, got dtype {array.dtype}"
            )
        out = torch.from_numpy(array.astype(np.int64))
        if array.dtype == np.uint64:
            _below_2_to_63(out)
    if out.dim() != 1:
        raise ValueError(f"from_labels: labels must have shape (n,), got {tuple(out.shape)}")
    return out


def _below_2_to_63(wrapped: Tensor) -> None:
    """Unsigned labels as int64: what is negative now would count as unlabelled."""
    if wrapped.numel() and int(wrapped.min()) < 0:
        raise ValueError(f"from_labels: labels must be < 2^63, got {int(wrapped.min()) + 2**64}")
