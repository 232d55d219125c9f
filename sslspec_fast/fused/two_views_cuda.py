"""CUDA bodies of ``two_views``: outputs and workspaces of one call per pass.

Rows come as they are, bfloat16 and float16 included; everything else is float32 (float64). Small
batches wait for the host on a GPU, so that nothing here is a torch operation but the allocations.
Beyond 256 columns the gradient takes the products of ``primitives/pairwise/cuda.py`` in between.

Of a few thousand rows the statistics can keep the exponentials that they take of all pairs, in
bfloat16, and the forward pass turns them into the weights of the gradient (`keeps_weights`): the
backward pass then multiplies no row with a row again.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .._dtypes import computed_dtype
from .._register import grouping
from .._seam import _C, CODE, cuda_kept_limit, stream, unit_stride, view
from ..primitives._matmul import products_with
from ..primitives.pairwise import LeftOut, Logits, cuda

__all__ = [
    "Views",
    "backward",
    "forward",
    "gradient_shapes",
    "is_fast",
    "keeps_weights",
    "shapes",
]

_FEWEST_TRIED = 4096
_FEWEST_KEPT = 4096  # rows below which the launches that it takes cost what the product saves
_KEPT_COLUMNS = {"stacked": (257, 512), "both": (208, 512)}  # docs/kernels.md
_ONE_SHIFT = 109.0  # scale log2(e) < 160 for rows that are at most 1.004 long: pairs.cuh
_NARROW = 34.0  # |2 scale log2(e)| < 100 for rows that are at most 1.004 long: pairs.cuh
_FORMS = {"stacked": 0, "rows": 1, "both": 2}  # ViewForm of csrc/fused/cuda/two_views.h


def shapes(
    z1: Tensor,
    z2: Tensor,
    scale: Tensor | None,
    number: float,
    reduction: str,
    form: str,
    unit: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """The loss; the multiplied rows, filled up to 16 bytes, empty where they are those of z; norms,
    products, statistics and what else the backward pass reads; and the matrix of the weights, in
    whole tiles, where it is kept.
    """
    n, d = z1.shape
    kind = computed_dtype(z1)
    rows = z1.dtype if z1.dtype == torch.bfloat16 else kind
    step = {torch.bfloat16: 8, torch.float32: 4, torch.float64: 1}[rows]
    copied = unit or rows != z1.dtype or d % step != 0
    size = (2, n) if form == "stacked" else (n,)
    side = _side_of_matrix(n, form)
    return (
        z1.new_empty(size if reduction == "none" else (), dtype=kind),
        z1.new_empty((2 * n if copied else 0, (d + step - 1) // step * step), dtype=rows),
        z1.new_empty(_stats_size(n, reduction), dtype=kind),
        [z1.new_empty((side, side), dtype=torch.bfloat16)] if keep else [],
    )


def _stats_size(n: int, reduction: str) -> int:
    """two_views_stats_size of csrc/fused/cuda/two_views.h, for any integers of the compiler."""
    single = 7 * n + (n + 127) // 128 * 8
    if reduction == "none":
        return single + 1
    return (single + 2 * n + 3) // 4 * 4 + (2 * n + 3) // 4 * 8 + 5


class Views(NamedTuple):
    """What the backward pass knows of the rows: those of the views, and outputs of `forward`."""

    z1: Tensor
    z2: Tensor
    u: Tensor
    stats: Tensor

    @classmethod
    def of_rows(cls, z1: Tensor, z2: Tensor, u: Tensor, stats: Tensor) -> Views:
        """The rows as the core reads them: a copy only where they do not fit."""
        as_read = unit_stride if len(u) else cuda.aligned_rows
        return cls(as_read(z1), as_read(z2), u, stats)

    def view(self, form: str, unit: bool, matrix: Tensor | None = None) -> tuple[Any, ...]:
        """As the core takes them, ViewInputs of csrc/fused/cuda/two_views.h."""
        z1, z2, u, stats = self
        return view(z1), view(z2), view(u), view(stats), _FORMS[form], unit, view(matrix)

    def operands(self) -> tuple[Tensor, Tensor]:
        """The rows of both views as they are multiplied."""
        n = len(self.z1)
        return (self.u[:n], self.u[n:]) if len(self.u) else (self.z1, self.z2)

    def workspace(self, form: str, backward: bool, own: bool) -> Tensor:
        args = len(self.z1), self.u.shape[1], CODE[self.u.dtype], _FORMS[form], backward, own
        return self.stats.new_empty(_C.cuda_two_views_workspace_size(*args))


def _multiplied_rows(n: int, form: str) -> int:
    return 2 * n if form == "stacked" else n


def _side_of_matrix(n: int, form: str) -> int:
    """Rows and columns of a kept matrix of all pairs, in whole tiles of 128."""
    return (_multiplied_rows(n, form) + 127) // 128 * 128


def _weight(reduction: str, form: str, n: int) -> float:
    return 1 / _multiplied_rows(n, form) if reduction == "mean" else 1.0


def keeps_weights(z1: Tensor, scale: float | Tensor, form: str, unit: bool) -> bool:
    """Whether the forward pass keeps the exponentials of all pairs, and makes the weights of them,
    for a loss as one number of which a gradient is wanted.

    InfoNCE (the form "rows") does not: where it would pay, its one visit (info_nce_loss.py) costs
    less. No GPU has run it so far: it is off unless SSLSPEC_HOPPER names it (csrc/gpu/hopper.h).
    """
    n, d = z1.shape
    count = _multiplied_rows(n, form)
    if z1.dtype != torch.bfloat16 or count < _FEWEST_KEPT or form not in _KEPT_COLUMNS:
        return False
    least, most = _KEPT_COLUMNS[form]
    side = _side_of_matrix(n, form)
    fits = 2 * side * side <= cuda_kept_limit()
    if not least <= d <= most or not fits or not _keeping_is_named():
        return False
    return isinstance(scale, Tensor) or not unit or abs(scale) < _ONE_SHIFT


def _keeping_is_named() -> bool:
    """torch.compile asks when it traces, and not again."""
    return os.environ.get("SSLSPEC_HOPPER") in ("kept", "all")


def _tries_one_shift(
    x: Views, scale: Tensor | None, number: float, reduction: str, unit: bool, keep: bool
) -> bool:
    """Whether one shift is tried for all logits beyond a narrow range: two launches more, which
    many rows repay, and exponentials that are kept. Unit rows and a small number are narrow in any
    case.
    """
    if reduction == "none" or x.stats.dtype == torch.float64:
        return False
    if len(x.z1) < _FEWEST_TRIED and not keep:
        return False
    return scale is not None or not unit or abs(number) >= _NARROW


def is_fast() -> bool:
    """Whether float32 products may be TF32."""
    return torch.get_float32_matmul_precision() != "highest"


def forward(
    z1: Tensor,
    z2: Tensor,
    scale: Tensor | None,
    number: float,
    reduction: str,
    form: str,
    unit: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    loss, u, stats, kept = shapes(z1, z2, scale, number, reduction, form, unit, keep)
    x = Views.of_rows(z1, z2, u, stats)
    work = x.workspace(form, False, False)
    _C.cuda_two_views_forward(
        x.view(form, unit, kept[0] if keep else None),
        view(scale),
        number,
        view(loss),
        _weight(reduction, form, len(z1)),
        (view(work), stream(z1)),
        is_fast(),
        _tries_one_shift(x, scale, number, reduction, unit, keep),
    )
    return loss, u, stats, kept


def _outputs(x: Views, form: str, of_z2: bool, of_scale: bool) -> list[Tensor]:
    grads = [x.z1.new_empty(x.z1.shape)]
    if of_z2 or form == "stacked":
        grads.append(x.z1.new_empty(x.z1.shape))
    return [*grads, x.stats.new_empty(())] if of_scale else grads


class _OfLoss(NamedTuple):
    """The weights where the forward pass kept them, the gradient of the loss, and its reduction."""

    kept: list[Tensor]
    grad: Tensor
    reduction: str


_of_step = grouping(7, lambda args: (Views(*args[:4]), _OfLoss(*args[4:])))


@_of_step
def gradient_shapes(
    step: tuple[Views, _OfLoss], form: str, unit: bool, of_z2: bool, of_scale: bool
) -> list[Tensor]:
    return _outputs(step[0], form, of_z2, of_scale)


@_of_step
def backward(
    step: tuple[Views, _OfLoss], form: str, unit: bool, of_z2: bool, of_scale: bool
) -> list[Tensor]:
    """Gradients of z1, of z2 and the scale where they are wanted."""
    x, (kept, grad, reduction) = step
    n, u = len(x.z1), x.u
    of_z2 = of_z2 or form == "stacked"
    grads = _outputs(x, form, of_z2, of_scale)
    x = Views.of_rows(*x)
    own = not kept and _C.cuda_pairwise_is_chained(u.shape[1], CODE[u.dtype], u.get_device())
    work = x.workspace(form, True, own)
    views, run = x.view(form, unit), (view(work), stream(u))
    products: tuple[Tensor | None, Tensor | None] = (None, None)
    if not own:
        if reduction == "none":
            _C.cuda_two_views_factors(views, view(grad), run)
            products = _products(x, work[: 2 * n], form, of_z2)
        elif kept:
            products = _products_of_matrix(x, kept[0], form, of_z2)
        else:
            products = _products_of_kept_weights(x, form, unit, of_z2)
    _C.cuda_two_views_backward(
        views,
        view(grad),
        (view(products[0]), view(products[1])),
        (view(grads[0]), view(grads[1]) if of_z2 else None),
        view(grads[-1]) if of_scale else None,
        run,
        is_fast(),
        False,
    )
    return grads


def _products_of_matrix(
    x: Views, matrix: Tensor, form: str, of_z2: bool
) -> tuple[Tensor, Tensor | None]:
    """W y and W' x for the matrix of a gradient of 1 that the forward pass made."""
    a, b = (x.u, x.u) if form == "stacked" else x.operands()
    w, products, n = matrix[: len(a), : len(b)], products_with(b), len(x.z1)
    product = x.stats.new_empty(a.shape)
    products.times(w, out=product)
    if form == "stacked":
        return product[:n], product[n:]
    return product, products.transposed_times(w, a, None) if of_z2 else None


def _products_of_kept_weights(
    x: Views, form: str, unit: bool, of_z2: bool
) -> tuple[Tensor, Tensor | None]:
    """W y and W' x for the weights that the forward pass left, for a gradient of 1."""
    stats, n = x.stats, len(x.z1)
    a, b = (x.u, x.u) if form == "stacked" else x.operands()
    chunks, views = cuda.WeightChunks(a, b), x.view(form, unit)
    product = stats.new_empty(a.shape)
    of_columns: Tensor | None = None
    run = view(stats.new_empty(_C.cuda_two_views_vectors_size(len(a)))), stream(a)
    for chunk in chunks.rows:
        w = chunks.weights(chunk)
        _C.cuda_two_views_weight_rows(views, chunk.start, view(w), run, is_fast())
        chunks.products.times(w, out=product[chunk])
        if of_z2 and form != "stacked":
            of_columns = chunks.products.transposed_times(w, a[chunk], of_columns)
    return (product[:n], product[n:]) if form == "stacked" else (product, of_columns)


def _products(x: Views, factors: Tensor, form: str, of_z2: bool) -> tuple[Tensor, Tensor | None]:
    """c W y and c W' x for the weights of the gradients `factors` of the statistics."""
    u, stats, n = x.u, x.stats, len(x.z1)
    scale, lse, kind = stats[-1], stats[3 * n : 5 * n], stats.dtype
    if form == "stacked":
        ids = stats[5 * n : 7 * n].view(torch.int32)
        logits = Logits(u, None, scale, LeftOut(ids, ids, self_pairs=True))
        product, *_ = cuda.backward(
            logits, (lse, None), (factors, None), grad_dtype=kind, want_scale=False
        )
        return product[:n], product[n:]
    a, b = x.operands()
    columns = (lse[n:], factors[n:]) if form == "both" else (None, None)
    return cuda.backward(
        Logits(a, b, scale, LeftOut(self_pairs=True)),
        (lse[:n], columns[0]),
        (factors[:n], columns[1]),
        grad_dtype=kind,
        want_b=of_z2,
        want_scale=False,
    )[:2]
