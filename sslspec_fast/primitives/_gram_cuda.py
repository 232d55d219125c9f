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


def _mm(a: Tensor, b: Tensor) -> Tensor:
    """a b; bfloat16 factors give float32 where torch can."""
    if a.dtype == torch.bfloat16 and a.is_cuda and hasattr(torch.ops.aten.mm, "dtype"):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b)


def _strips(side: int, length: int) -> list[slice]:
    """Cuts 0 .. side into strips of a (side, length) float32 matrix."""
    width = max(128, _STRIP_BYTES // (4 * max(length, 1)) // 128 * 128)
    return [slice(i, min(i + width, side)) for i in range(0, side, width)]


def _square(t: Tensor) -> Tensor:
    return torch.linalg.vector_norm(t, dtype=torch.float64).square()


def _self(
    f: Tensor, dual: bool, off_diagonal: bool, diagonal: Tensor | None, wanted: bool
) -> tuple[Tensor, Tensor | None]:
    """||F^T F||^2 and F C', C = F^T F without its diagonal."""
    n, d = f.shape
    value = torch.zeros((), dtype=torch.float64, device=f.device)
    wide = torch.float32 if f.dtype == torch.bfloat16 else f.dtype
    grad = f.new_empty(n, d, dtype=wide) if wanted else None
    for strip in _strips(n if dual else d, n if dual else d):
        if dual:
            k = _mm(f[strip], f.mT)
            value += _square(k)
            if grad is not None:
                grad[strip] = _mm(k.to(f.dtype), f)
        else:
            c = _mm(f.mT, f[:, strip])
            if off_diagonal:
                c[strip].diagonal().zero_()
            value += _square(c)
            if grad is not None:
                grad[:, strip] = _mm(f, c.to(f.dtype))
    if dual and off_diagonal and diagonal is not None:
        value -= diagonal.square().sum()
        if grad is not None:
            grad.addcmul_(f.to(wide), diagonal.to(wide), value=-1)
    return value, grad


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
    left = f.new_zeros(n, d, dtype=wide) if wants[0] else None
    right = f.new_empty(n, d, dtype=wide) if wants[1] else None
    for strip in _strips(n if dual else d, n if dual else d):
        if dual:
            kf, kg = _mm(f[strip], f.mT), _mm(g[strip], g.mT)
            value += (kf * kg).sum(dtype=torch.float64)
            if left is not None:
                left[strip] = _mm(kg.to(f.dtype), f)
            if right is not None:
                right[strip] = _mm(kf.to(f.dtype), g)
        else:
            c = _mm(f.mT, g[:, strip])
            if off_diagonal:
                c[strip].diagonal().zero_()
            value += _square(c)
            c = c.to(f.dtype)
            if left is not None:
                left += _mm(g[:, strip], c.mT)
            if right is not None:
                right[:, strip] = _mm(f, c)
    if dual and off_diagonal and diagonal is not None:
        value -= diagonal.square().sum()
        diag = diagonal.to(wide)
        if left is not None:
            left.addcmul_(g.to(wide), diag, value=-1)
        if right is not None:
            right.addcmul_(f.to(wide), diag, value=-1)
    return value, [left, right]
