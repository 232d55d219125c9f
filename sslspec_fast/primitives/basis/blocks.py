r"""Primitive ``basis``: products of tall matrices (n rows, few columns) for the eigensolvers.

.. math::
    G = A^\top \operatorname{diag}(w)\, B, \qquad Y \leftarrow \beta Y + \sum_i V_i C_i .

``gram`` returns float64 sums; ``exact`` also multiplies float32 rows in float64, for CholeskyQR,
which squares the condition of its block. Results do not depend on the number of threads. Not
differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..._seam import _C, threads, unit_stride, view
from ..spread import current, total
from . import cuda

__all__ = [
    "column_norms",
    "gram",
    "lengths",
    "multiply",
    "multiply_into",
    "new_block",
    "new_blocks",
    "project_out",
    "random_block",
]

_TERMS = 32  # kBasisTerms of csrc/basis/cpu/basis.h
_PIECE = 1 << 16  # entries of `column_norms`
_LINE = 64  # bytes of a cache line
_HUGE = 200 << 20  # bytes, up to which a piece of memory is asked for in huge pages


def new_block(n: int, b: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(n, b) uninitialised, rows of whole cache lines on cache lines."""
    return _new((n, b), dtype, device)


def new_blocks(count: int, n: int, b: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(count, n, b), as many of them in one piece of memory."""
    return _new((count, n, b), dtype, device)


def _new(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """NumPy asks for huge pages: the first touch of a large block of memory costs a quarter of what
    it does with torch's own, as long as the system has whole ones. Where it has to make them it
    costs several times as much (445 MB: 0.05 s, or 0.4 to 1 s; small pages always 0.16), so what
    takes many of them has small ones.

    Both may align to less than 64 bytes, and a gathered row would cross two lines: the sparse
    product would take up to 1.5 times as long.
    """
    if device.type != "cpu":
        return torch.empty(shape, dtype=dtype, device=device)
    size, line = math.prod(shape), _LINE // dtype.itemsize
    if size * dtype.itemsize > _HUGE:
        store = torch.empty(size + line, dtype=dtype)
    else:
        kind = np.float32 if dtype == torch.float32 else np.float64
        store = torch.from_numpy(np.empty(size + line, kind))
    first = -store.data_ptr() % _LINE // dtype.itemsize
    return store[first : first + size].view(shape)


def random_block(
    n: int, b: int, seed: int, dtype: torch.dtype, device: torch.device, first: int = 0
) -> Tensor:
    """(n, b) uniform on 2^16 values in [-1, 1): a function of seed and position alone, so the same
    on every device and for any number of threads. first: of the rows, in a larger block.
    """
    out = new_block(n, b, dtype, device)
    if out.is_cuda:
        return cuda.random_into(out, first, seed % 2**64)
    _C.basis_random(view(out), first, seed % 2**64, threads())
    return out


def gram(
    a: Tensor | Sequence[Tensor], b: Tensor, exact: bool = False, weights: Tensor | None = None
) -> Tensor:
    """A^T diag(w) B as float64 on the host, (p, q) for a (n, p) and b (n, q) of one dtype.

    a: one matrix, or several side by side; each row of b is then read once for up to 32 of them.
    exact: no rounding of products. Otherwise float32 rows are multiplied and, 96 at a time, summed
    in float32. weights: (n,) of that dtype, or None for ones. Over ranks: of all rows (`spread`).
    """
    blocks = [a] if isinstance(a, Tensor) else list(a)
    if b.is_cuda:
        return total(cuda.gram(blocks, b, exact, weights).cpu())
    n, q = b.shape
    sizes = [block.shape[1] for block in blocks]
    out = torch.empty(sum(sizes), q, dtype=torch.float64)
    at = 0
    for first in range(0, len(blocks), _TERMS):
        some = slice(first, first + _TERMS)
        rows = sum(sizes[some])
        work = torch.empty(_C.basis_gram_workspace_size(n, rows, q), dtype=torch.float64)
        _C.basis_gram(
            [view(unit_stride(block)) for block in blocks[some]],
            view(unit_stride(b)),
            view(weights),
            view(out if len(blocks) <= _TERMS else out[at : at + rows]),
            exact,
            (view(work), threads()),
        )
        at += rows
    return total(out)


def multiply_into(out: Tensor, blocks: Sequence[Tensor], c: Tensor, beta: float = 0.0) -> Tensor:
    """out = beta out + [V_1 V_2 ..] C in place; one pass over the rows per 32 blocks.

    out (n, q) may be a V_i (n, m_i) of the first 32, or its first columns; C (sum of m_i, q)
    float64 on the host, best in the dtype of out already.
    """
    if out.is_cuda:
        return cuda.multiply_into(out, blocks, c, beta)
    factors = c.to(out.dtype).contiguous().split([v.shape[1] for v in blocks])
    for first in range(0, len(blocks), _TERMS):
        some = slice(first, first + _TERMS)
        _C.basis_combine(
            view(out),
            [view(unit_stride(v)) for v in blocks[some]],
            [view(factor) for factor in factors[some]],
            beta,
            threads(),
        )
        beta = 1.0
    return out


def multiply(blocks: Sequence[Tensor], c: Tensor) -> Tensor:
    """[V_1 V_2 ..] C as a new matrix, see `multiply_into`."""
    v = blocks[0]
    return multiply_into(new_block(v.shape[0], c.shape[1], v.dtype, v.device), blocks, c)


def project_out(v: Tensor, x: Tensor, weights: Tensor | None = None) -> Tensor:
    """X <- X - V V^T diag(w) X in place, V (n, m) of X's dtype. Without the host on a GPU."""
    if x.is_cuda and current() is None:
        return x.addmm_(v, cuda.gram([v], x, False, weights).to(x.dtype), alpha=-1)
    return multiply_into(x, [v], -gram(v, x, weights=weights), beta=1.0)


def column_norms(t: Tensor) -> Tensor:
    """(b,) float64 on the host. By pieces that fit in the cache: torch's norm down a matrix of
    short rows takes up to ten times as long.
    """
    if t.is_cuda:
        norms = torch.linalg.vector_norm(t, dim=0, dtype=torch.float64).cpu()
        return norms if current() is None else total(norms.square()).sqrt()
    squares = torch.zeros(t.shape[1], dtype=torch.float64)
    for part in t.split(max(_PIECE // max(t.shape[1], 1), 1)):
        squares += part.double().square().sum(0)  # squares of small float32 numbers are 0
    return total(squares).sqrt()


def lengths(t: Tensor) -> Tensor:
    """(b,) in the dtype and on the device of t, as torch adds up: for scales and known vectors."""
    return t.norm(dim=0) if current() is None else column_norms(t).to(t)
