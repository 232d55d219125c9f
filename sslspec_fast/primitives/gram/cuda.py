"""``gram`` on a GPU: columns, operands, products and loss forward, the gradient backward.

What the gradient needs of the products is made beside the value; the pass over memory that
completes it (csrc/gram/cuda/gram.h) is the backward pass, where the factor from above is known: the
gradient is rounded once, in the dtype of the rows, after it was multiplied. Rows are read in their
own dtype.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._checks import computed_dtype
from ..._register import register_op
from ..._seam import _C, stream, unit_stride, view
from .. import _value_and_grad
from . import composed
from .products import BLOCK, Products, blocks

__all__ = ["BARLOW_TWINS", "SQNORM", "SQNORM_CENTERED", "VICREG", "fused"]

SQNORM, SQNORM_CENTERED, VICREG, BARLOW_TWINS = range(4)  # GramKind of csrc/gram/cuda/gram.h


class _Form(NamedTuple):
    """How csrc/gram/cuda/gram.h composes a loss and its gradient."""

    alpha: float
    shares: tuple[float, float, float]
    weights: tuple[float, float, float]
    eps: float = 0.0
    strength: float = 0.0
    near: float = 0.0


def _form(kind: int, cross: bool, n: int, d: int, options: list[float]) -> _Form:
    if kind == VICREG:
        invariance, variance, covariance, eps = options
        share = 1 / (d * (n - 1) ** 2)
        return _Form(
            4 * covariance * share, (1 / (n * d), 1 / (2 * d), share),
            (invariance, variance, covariance), eps,
            strength=-variance / (2 * d * (n - 1)), near=2 * invariance / (n * d),
        )  # fmt: skip
    if kind == BARLOW_TWINS:
        off_diagonal, eps = options
        return _Form(2 * off_diagonal / n**2, (1, 0, 1 / n**2), (1, 0, off_diagonal), eps)
    return _Form(2.0 if cross else 4.0, (0, 0, 1), (0, 0, 1))


def _is_cross(kind: int, y: Tensor | None) -> bool:
    return y is not None and kind != VICREG


def _shapes(
    x: Tensor, y: Tensor | None, kind: int, off_diagonal: bool, half: bool, options: list[float],
    grad_x: bool, grad_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, d = x.shape
    shapes: tuple[tuple[int, ...], ...] = ((), (3,), (grad_x + grad_y, n, d), (10, d))
    loss, terms, gradients, columns = (x.new_empty(s, dtype=computed_dtype(x)) for s in shapes)
    return loss, terms, gradients, columns


def _body(
    x: Tensor, y: Tensor | None, kind: int, off_diagonal: bool, half: bool, options: list[float],
    grad_x: bool, grad_y: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    n, d = x.shape
    wide = computed_dtype(x)
    if x.numel() == 0:
        loss, terms, gradients, columns = _shapes(
            x, y, kind, off_diagonal, half, options, grad_x, grad_y
        )
        return loss.zero_(), terms.zero_(), gradients, columns
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    operands, cross = 1 if y is None else 2, _is_cross(kind, y)
    form = _form(kind, cross, n, d, options)
    dual: bool = _C.gram_uses_dual(n, d, off_diagonal)
    products = Products(
        n, d, operands, columns=not dual, mixed=cross and not dual, cross=cross,
        masked=off_diagonal and not dual,
    )  # fmt: skip
    # the dual side subtracts the diagonal, as it was multiplied
    subtracted = dual and off_diagonal
    pairs, columns = blocks(d, BLOCK), x.new_empty((10, d), dtype=wide)
    diagonals = pairs * (1 if cross else operands) if subtracted else 0
    sums = x.new_empty(2 * pairs + diagonals + sum(products.slots), dtype=torch.float64)
    work = x.new_empty(_C.cuda_gram_workspace_size(n, d), dtype=wide)
    kept = torch.bfloat16 if half else wide
    factors = x.new_empty((operands, products.rows, d), dtype=kept)
    queue = stream(x)
    _C.cuda_gram_prepare(
        view(x), view(y), kind, form.eps, form.strength, cross, subtracted, view(columns),
        view(factors), view(sums), view(work), queue,
    )  # fmt: skip
    gradients = products.run(factors, sums, (grad_x, grad_y))
    loss, terms = x.new_empty((), dtype=wide), x.new_empty(3, dtype=wide)
    _C.cuda_gram_loss(
        view(sums), pairs, diagonals, form.shares, form.weights, view(loss), view(terms), queue
    )
    return loss, terms, gradients, columns


def _backward_shapes(
    x: Tensor, y: Tensor | None, gradients: Tensor, columns: Tensor, factor: Tensor, kind: int,
    half: bool, options: list[float], grad_x: bool, grad_y: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _value_and_grad.outputs(x, grad_x, y, grad_y)


def _backward_body(
    x: Tensor, y: Tensor | None, gradients: Tensor, columns: Tensor, factor: Tensor, kind: int,
    half: bool, options: list[float], grad_x: bool, grad_y: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    grads = _value_and_grad.outputs(x, grad_x, y, grad_y)
    if x.numel() == 0:
        return grads
    x, y = unit_stride(x), None if y is None else unit_stride(y)
    n, d = x.shape
    cross = _is_cross(kind, y)
    form = _form(kind, cross, n, d, options)
    gx, gy = (
        view(g) if wanted else None for g, wanted in zip(grads, (grad_x, grad_y), strict=True)
    )
    project, work = kind == BARLOW_TWINS, None
    if project:
        work = x.new_empty(_C.cuda_gram_workspace_size(n, d), dtype=columns.dtype)
    _C.cuda_gram_finish(
        view(x), view(y), view(columns), view(gradients), view(factor), form.alpha, form.near,
        cross, half, project, gx, gy, view(work), stream(x),
    )  # fmt: skip
    return grads


def _plain(x: Tensor, y: Tensor | None, **how: Any) -> Tensor:
    """The same in plain torch, at the precision of the value."""
    kind, options = how["kind"], how["options"]
    x, y = x.to(computed_dtype(x)), None if y is None else y.to(computed_dtype(y))
    if y is not None and kind == VICREG:
        names = ("invariance", "variance", "covariance", "eps")
        return composed.vicreg(x, y, **dict(zip(names, options, strict=True)))
    if y is not None and kind == BARLOW_TWINS:
        return composed.barlow_twins(x, y, off_diagonal=options[0], eps=options[1])
    center = kind == SQNORM_CENTERED
    return composed.sqnorm(x, y, off_diagonal=how["off_diagonal"], center=center)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, y, kind, off_diagonal, half, options, *ctx.wanted = inputs
    how = {"kind": kind, "off_diagonal": off_diagonal, "half": half, "options": options}
    _value_and_grad.save(ctx, (x, y), output, output[2:], **how)


def _backward(ctx: Any, factor: Tensor | None, *unused: Tensor | None) -> tuple[Tensor | None, ...]:
    def complete(x: Tensor, y: Tensor | None, gradients: Tensor, columns: Tensor) -> Any:
        how = (ctx.options[name] for name in ("kind", "half", "options"))
        return _finish(x, y, gradients, columns, factor, *how, *ctx.wanted)

    return *_value_and_grad.gradient(ctx, factor, _plain, complete), *(None,) * 6


_fused = register_op(
    "gram_cuda(Tensor x, Tensor? y, int kind, bool off_diagonal, bool half, float[] options,"
    " bool grad_x, bool grad_y) -> (Tensor, Tensor, Tensor, Tensor)",
    body=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)
_finish = register_op(
    "gram_cuda_backward(Tensor x, Tensor? y, Tensor gradients, Tensor columns, Tensor factor,"
    " int kind, bool half, float[] options, bool grad_x, bool grad_y) -> (Tensor, Tensor)",
    body=_backward_body,
    fake=_backward_shapes,
)


def fused(
    x: Tensor, y: Tensor | None, kind: int, options: list[float], *, off_diagonal: bool, half: bool
) -> tuple[Tensor, Tensor]:
    """Value () and three terms (3,) of one of the losses of `gram`.

    Args:
        x, y: (n, d) of any float type.
        kind: SQNORM, ...
        options: of that loss, in the order of its function in `_gram_plain`.
        off_diagonal: as there.
        half: products of bfloat16 factors.
    """
    wanted = _value_and_grad.wanted(x), _value_and_grad.wanted(y)
    loss, terms, *_ = _fused(x, y, kind, off_diagonal, half, options, *wanted)
    return loss, terms
