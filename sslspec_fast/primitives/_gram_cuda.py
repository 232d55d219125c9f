"""The computation of csrc/gram.h on a GPU: library GEMMs on the cheaper side of the duality.

Neither the (d, d) nor the (n, n) matrix is kept: a strip of at most 64 MiB is made, reduced, and
multiplied at once for the gradient. A strip of a few hundred columns keeps a tuned GEMM busy, so a
kernel of our own would only repeat it. Values are added up in float64, products follow
``torch.get_float32_matmul_precision()``, or are bfloat16 with float32 sums when `half`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._seam import _C
from ._matmul import mm_float32

__all__ = ["run"]

_STRIP_BYTES = 64 << 20


def run(
    x: Tensor,
    y: Tensor | None,
    grads: tuple[Tensor, Tensor],
    *,
    alpha: float,
    cross: bool,
    off_diagonal: bool,
    shift: Tensor | None = None,
    scale: Tensor | None = None,
    diagonal: Tensor | None = None,
    own: Tensor | None = None,
    other: Tensor | None = None,
    near: float = 0.0,
    project: bool = False,
    half: bool = False,
) -> Tensor:
    """Value(s), (1 or 2,) float64; the gradients that are wanted (not empty) are filled in."""
    n, d = x.shape
    dual = _C.gram_uses_dual(n, d, off_diagonal)
    operands = [x] if y is None else [x, y]
    plain = [_standardised(t, o, shift, scale) for o, t in enumerate(operands)]
    with torch.autocast(x.device.type, enabled=False):
        factors = [t.bfloat16() for t in plain] if half else plain
        if half and dual and off_diagonal:  # what is subtracted must match what was multiplied
            pairs = [(0, 1)] if cross else [(o, o) for o in range(len(operands))]
            products = [(factors[a].float() * factors[b].float()).sum(0) for a, b in pairs]
            diagonal = torch.stack(products).double()
        if cross:
            wants = (grads[0].numel() > 0, grads[1].numel() > 0)
            value, made = _cross(factors[0], factors[1], dual, off_diagonal, diagonal, wants)
            values = [value]
        else:
            values, made = [], []
            for o, factor in enumerate(factors):
                diag = None if diagonal is None else diagonal[o]
                value, grad = _self(factor, dual, off_diagonal, diag, grads[o].numel() > 0)
                values.append(value)
                made.append(grad)
    for o, (out, grad) in enumerate(zip(grads, made, strict=False)):
        if grad is None:
            continue
        grad = grad.to(x.dtype).mul_(alpha)
        if own is not None:
            grad.addcmul_(plain[o], own[o])
        if other is not None:
            grad.addcmul_(plain[1 - o], other[o])
        if near != 0.0:
            grad.add_(operands[o] - operands[1 - o], alpha=near)
        if project and scale is not None:
            along = (grad * plain[o]).mean(0)
            grad.sub_(grad.mean(0)).addcmul_(plain[o], along, value=-1).mul_(scale[o])
        out.copy_(grad)
    return torch.stack(values)


def _standardised(t: Tensor, o: int, shift: Tensor | None, scale: Tensor | None) -> Tensor:
    t = t if shift is None else t - shift[o]
    return t if scale is None else t * scale[o]


def _strips(side: int, length: int) -> list[slice]:
    """Cuts 0 .. side into strips of a (side, length) float32 matrix."""
    width = max(128, _STRIP_BYTES // (4 * max(length, 1)) // 128 * 128)
    return [slice(i, min(i + width, side)) for i in range(0, side, width)]


def _square(t: Tensor) -> Tensor:
    """Sum of squares: over a row in t's precision (one pass over memory), over rows in float64."""
    kind = torch.float64 if t.dtype == torch.float64 else torch.float32
    return torch.linalg.vector_norm(t, dim=1, dtype=kind).double().square().sum()


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(1).sum(dtype=torch.float64)


class _Strips:
    """A matrix that arrives in strips of rows or columns; a single strip is not copied."""

    def __init__(self, shape: torch.Size, dim: int, kind: torch.dtype, device: torch.device):
        self.shape, self.dim, self.kind, self.device = shape, dim, kind, device
        self.whole: Tensor | None = None

    def put(self, strip: slice, part: Tensor) -> None:
        if part.shape == self.shape and part.dtype == self.kind:
            self.whole = part
            return
        if self.whole is None:
            self.whole = torch.empty(self.shape, dtype=self.kind, device=self.device)
        self.whole[strip if self.dim == 0 else (slice(None), strip)] = part

    def add(self, part: Tensor) -> None:
        self.whole = part.to(self.kind) if self.whole is None else self.whole.add_(part)


def _self(
    f: Tensor, dual: bool, off_diagonal: bool, diagonal: Tensor | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """||F^T F||^2 and F C', C = F^T F without its diagonal."""
    n, d = f.shape
    value = torch.zeros((), dtype=torch.float64, device=f.device)
    wide = torch.float32 if f.dtype == torch.bfloat16 else f.dtype
    grad = _Strips(f.shape, 0 if dual else 1, wide, f.device) if wanted else None
    for strip in _strips(n if dual else d, n if dual else d):
        if dual:
            k = mm_float32(f[strip], f.mT)
            value += _square(k)
            if grad is not None:
                grad.put(strip, mm_float32(k.to(f.dtype), f))
        else:
            c = mm_float32(f.mT, f[:, strip])
            if off_diagonal:
                c[strip].diagonal().zero_()
            value += _square(c)
            if grad is not None:
                grad.put(strip, mm_float32(f, c.to(f.dtype)))
    made = None if grad is None else grad.whole
    if dual and off_diagonal and diagonal is not None:
        value -= diagonal.square().sum()
        if made is not None:
            made.addcmul_(f.to(wide), diagonal.to(wide), value=-1)
    return value, made


def _cross(
    f: Tensor,
    g: Tensor,
    dual: bool,
    off_diagonal: bool,
    diagonal: Tensor | None,
    wants: tuple[bool, bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """||F^T G||^2, G C'^T and F C', C = F^T G without its diagonal."""
    n, d = f.shape
    value = torch.zeros((), dtype=torch.float64, device=f.device)
    wide = torch.float32 if f.dtype == torch.bfloat16 else f.dtype
    left = _Strips(f.shape, 0, wide, f.device) if wants[0] else None
    right = _Strips(f.shape, 0 if dual else 1, wide, f.device) if wants[1] else None
    for strip in _strips(n if dual else d, n if dual else d):
        if dual:
            kf, kg = mm_float32(f[strip], f.mT), mm_float32(g[strip], g.mT)
            value += _dot(kf, kg)
            if left is not None:
                left.put(strip, mm_float32(kg.to(f.dtype), f))
            if right is not None:
                right.put(strip, mm_float32(kf.to(f.dtype), g))
        else:
            c = mm_float32(f.mT, g[:, strip])
            if off_diagonal:
                c[strip].diagonal().zero_()
            value += _square(c)
            c = c.to(f.dtype)
            if left is not None:
                left.add(mm_float32(g[:, strip], c.mT))
            if right is not None:
                right.put(strip, mm_float32(f, c))
    made = [None if part is None else part.whole for part in (left, right)]
    if dual and off_diagonal and diagonal is not None:
        value -= diagonal.square().sum()
        diag = diagonal.to(wide)
        for out, partner in zip(made, (g, f), strict=True):
            if out is not None:
                out.addcmul_(partner.to(wide), diag, value=-1)
    return value, made
