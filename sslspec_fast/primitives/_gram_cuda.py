"""The computation of csrc/gram.h on a GPU: library GEMMs on the cheaper side of the duality.

Neither the (d, d) nor the (n, n) matrix is kept: a strip of at most 64 MiB is made, reduced, and
multiplied at once for the gradient. A strip of a few hundred columns keeps a tuned GEMM busy, so a
kernel of our own would only repeat it. What stands around the products is one pass before, which
standardises the operands, and one after, which writes the whole gradient (csrc/cuda/gram.h). Values
are added up in float64, products follow ``torch.get_float32_matmul_precision()``, or are bfloat16
with float32 sums when `half`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .._seam import _C, stream, view
from ._gram_form import Form
from ._matmul import mm_float32

__all__ = ["run"]

_STRIP_BYTES = 64 << 20


def run(x: Tensor, y: Tensor | None, grads: tuple[Tensor, Tensor], form: Form) -> Tensor:
    """Value(s), (1 or 2,) float64; the gradients that are wanted (not empty) are filled in."""
    n, d = x.shape
    cross, off_diagonal, half = form.cross, form.off_diagonal, form.half
    shift, scale, diagonal = form.shift, form.scale, form.diagonal
    dual = _C.gram_uses_dual(n, d, off_diagonal)
    subtracted = dual and off_diagonal
    # what is subtracted must match what was multiplied: sums of the rounded factors
    factors, sums = _pack(x, y, shift, scale, cross, half, half and subtracted)
    if not subtracted:
        diagonal = None
    elif sums is not None:
        diagonal = sums
    with torch.autocast(x.device.type, enabled=False):
        made: list[Tensor | None]
        if cross:
            wants = (grads[0].numel() > 0, grads[1].numel() > 0)
            value, made = _cross(factors[0], factors[1], dual, off_diagonal, diagonal, wants)
            values = [value]
        else:
            values, made = [], []
            for o, factor in enumerate(factors):
                diag = None if diagonal is None else diagonal[o]
                value, product = _self(factor, dual, off_diagonal, diag, grads[o].numel() > 0)
                values.append(value)
                made.append(product)
    for o, (out, product) in enumerate(zip(grads, made, strict=False)):
        if product is None:
            continue
        diag = None if diagonal is None else diagonal[0 if cross else o].to(x.dtype)

        def finish(
            means: Tensor | None,
            parts: Tensor | None,
            out: Tensor | None,
            o: int = o,
            product: Tensor = product,
            diag: Tensor | None = diag,
        ) -> None:
            _C.cuda_gram_finish(
                view(x), view(y), o, view(shift), view(scale), view(product), view(diag),
                view(form.own), view(form.other), form.alpha, form.near, cross, half, view(means),
                view(parts), view(out), stream(x),
            )  # fmt: skip

        means = None
        if form.project:
            parts = x.new_empty(_C.cuda_gram_slabs(n), 2, d)
            finish(None, parts.view(-1), None)
            means = parts.sum(0) / n
        finish(means, None, out)
    return torch.stack(values)


def _pack(
    x: Tensor,
    y: Tensor | None,
    shift: Tensor | None,
    scale: Tensor | None,
    cross: bool,
    half: bool,
    summed: bool,
) -> tuple[list[Tensor], Tensor | None]:
    """The factors of the products, (n, d) each; sums over rows of their squares (or product)."""
    operands = [x] if y is None else [x, y]
    if shift is None and scale is None and not half:
        return operands, None
    kind = torch.bfloat16 if half else x.dtype
    factors = [torch.empty_like(x, dtype=kind, memory_format=torch.contiguous_format)]
    if y is not None:
        factors.append(torch.empty_like(factors[0]))
    slabs, lines = _C.cuda_gram_slabs(x.shape[0]), 1 if cross else len(operands)
    parts = x.new_empty(slabs, lines, x.shape[1]) if summed else None
    _C.cuda_gram_pack(
        view(x), view(y), view(shift), view(scale), cross, view(factors[0]),
        view(None if y is None else factors[1]), view(None if parts is None else parts.view(-1)),
        stream(x),
    )  # fmt: skip
    return factors, None if parts is None else parts.sum(0, dtype=torch.float64)


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
    """||F^T F||^2 and F C', C = F^T F; without its diagonal, which the dual side leaves in F C'."""
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
    if diagonal is not None:
        value -= diagonal.square().sum()
    return value, None if grad is None else grad.whole


def _cross(
    f: Tensor,
    g: Tensor,
    dual: bool,
    off_diagonal: bool,
    diagonal: Tensor | None,
    wants: tuple[bool, bool],
) -> tuple[Tensor, list[Tensor | None]]:
    """||F^T G||^2, G C'^T and F C', C = F^T G; its diagonal as in `_self`."""
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
    if diagonal is not None:
        value -= diagonal.square().sum()
    return value, [None if part is None else part.whole for part in (left, right)]
