r"""Primitive ``pairwise_prefixes``: statistics of `pairwise` for nested prefixes.

For :math:`s^h_{ij} = \alpha^h_i \beta^h_j \sum_{k < d_h} a_{ik} b_{jk}` over the pairs i != j that
have different ids,

.. math::
    r^h_i = \log \sum_j e^{s^h_{ij}}, \qquad q^h_j = \log \sum_i e^{s^h_{ij}},

and with :math:`W^h` the gradient of the logits of prefix h,
:math:`\bar a_{ik} = \sum_j \bigl(\sum_{h: d_h > k} \alpha^h_i W^h_{ij} \beta^h_j\bigr) b_{jk}`,
:math:`\bar\alpha^h_i = \sum_j W^h_{ij} s^h_{ij} / \alpha^h_i`. Products of a prefix are those of
the one before plus its own columns: one pass over the columns for all prefixes, forward and
backward, where separate calls of `pairwise` cost the sum of the prefix lengths. CPU only: a GPU
computes prefix by prefix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._register import grouping, register_op
from ..._seam import _C, CODE, rounds, threads, view, workspace
from .. import pairwise
from .._double_backward import through_composition
from .common import LeftOut, multiplied

__all__ = ["has_prefixes", "lse_prefixes"]

_ARGS = (
    "Tensor a, Tensor? b, Tensor alpha, Tensor? beta, int[] dims, Tensor? ids, bool cols, bool half"
)


class _Prefixes(NamedTuple):
    a: Tensor
    b: Tensor | None
    alpha: Tensor
    beta: Tensor | None
    dims: list[int]
    ids: Tensor | None
    cols: bool
    half: bool

    def multiplied(self) -> _Prefixes:
        """With rows and factors as the kernels take them."""
        a, b, alpha, beta = self[:4]
        return self._replace(
            a=multiplied(a, self.half),
            b=None if b is None else multiplied(b, self.half),
            alpha=alpha.contiguous(),
            beta=None if beta is None else beta.contiguous(),
        )

    def view(self) -> tuple[Any, ...]:
        """As the core takes it, csrc/pairwise/prefixes.h."""
        a, b, alpha, beta, dims, ids, *_ = self
        return view(a), view(b), view(torch.tensor(dims)), view(alpha), view(beta), view(ids)

    def workspace(self, backward: bool) -> Tensor:
        a, b = self.a, self.b
        n, d = a.shape
        m, symmetric = (n, True) if b is None else (b.shape[0], False)
        sizes = n, m, d, len(self.dims)
        size = _C.pairwise_prefixes_workspace_size(*sizes, CODE[a.dtype], symmetric, backward)
        return workspace(self.alpha, size)


_of_prefixes = grouping(8, _Prefixes._make)


def _outputs(x: _Prefixes) -> tuple[Tensor, Tensor]:
    row = x.alpha.new_empty(x.alpha.shape)
    return row, row.new_empty((0,) if x.beta is None or not x.cols else x.beta.shape)


@_of_prefixes
def _shapes(x: _Prefixes) -> tuple[Tensor, Tensor]:
    return _outputs(x)


@_of_prefixes
def _body(x: _Prefixes) -> tuple[Tensor, Tensor]:
    (row, col), x = _outputs(x), x.multiplied()
    lse = view(row), view(col) if x.cols else None
    work = x.workspace(backward=False)
    _C.pairwise_prefixes_forward(x.view(), lse, (view(work), threads()))
    return row, col


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    a, b, alpha, beta, ctx.dims, ids, ctx.cols, ctx.half = inputs
    ctx.save_for_backward(a, b, alpha, beta, ids, *output)


def _backward(ctx: Any, grad_row: Tensor, grad_col: Tensor) -> tuple[Any, ...]:
    a, b, alpha, beta, ids, row, col = ctx.saved_tensors
    if torch.is_grad_enabled():  # a second derivative is asked for: differentiate the composition
        inputs = (a, b, alpha, beta)
        used = 2 if ctx.cols else 1

        def compose(
            a: Tensor, b: Tensor | None, alpha: Tensor, beta: Tensor | None
        ) -> tuple[Tensor, ...]:
            return _compose(a, b, alpha, beta, ctx.dims, ids, ctx.cols, ctx.half)[:used]

        grads = list(through_composition(compose, inputs, (grad_row, grad_col)))
    else:
        grads = _lse_prefixes_bwd(
            a, b, alpha, beta, ctx.dims, ids, ctx.cols, ctx.half, row, col, grad_row, grad_col
        )
        grads = [
            t if x is not None else None for t, x in zip(grads, (a, b, alpha, beta), strict=True)
        ]
    return *grads, None, None, None, None


def _gradients(x: _Prefixes) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    def like(t: Tensor | None) -> Tensor:
        return x.a.new_empty((0,) if t is None else t.shape)

    return like(x.a), like(x.b), like(x.alpha), like(x.beta)


@_of_prefixes
def _bwd_shapes(x: _Prefixes, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return _gradients(x)


@_of_prefixes
def _bwd_body(
    x: _Prefixes, row: Tensor, col: Tensor, grad_row: Tensor, grad_col: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    out, x = _gradients(x), x.multiplied()
    grad_a, grad_b, grad_alpha, grad_beta = map(view, out)
    grad_row, grad_col = grad_row.contiguous(), grad_col.contiguous()
    symmetric, cols = x.b is None, x.cols
    _C.pairwise_prefixes_backward(
        x.view(),
        (view(row), view(col) if cols else None),
        (view(grad_row), view(grad_col) if cols else None),
        (grad_a, None if symmetric else grad_b),
        (grad_alpha, None if symmetric else grad_beta),
        (view(x.workspace(backward=True)), threads()),
    )
    return out


def _rounded(x: Tensor) -> Tensor:
    """x as it is multiplied in bfloat16, with the gradient of x itself."""
    return x + (x.bfloat16().to(x.dtype) - x).detach()


def _compose(
    a: Tensor,
    b: Tensor | None,
    alpha: Tensor,
    beta: Tensor | None,
    dims: list[int],
    ids: Tensor | None,
    cols: bool,
    half: bool,
) -> tuple[Tensor, Tensor]:
    """The same, prefix by prefix: the same products, added up in the dtype of a, and weights that
    are not rounded.
    """
    one = a.new_ones(())
    if rounds(half, a.dtype):
        a, b = _rounded(a), None if b is None else _rounded(b)
    rows, columns = [], []
    for h, m in enumerate(dims):
        x = a[:, :m] * alpha[h, :, None]
        if b is None or beta is None:
            rows.append(pairwise.lse_self(x, one, ids))
            continue
        y = b[:, :m] * beta[h, :, None]
        row, col = pairwise.lse(x, y, one, LeftOut(self_pairs=True), cols=cols)
        rows.append(row)
        columns.append(col)
    return torch.stack(rows), torch.stack(columns) if cols else a.new_empty(0)


_lse_prefixes_bwd = register_op(
    f"pairwise_prefixes_bwd({_ARGS}, Tensor row, Tensor col, Tensor grad_row, Tensor grad_col)"
    " -> (Tensor, Tensor, Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=None,
    fake=_bwd_shapes,
)
_lse_prefixes = register_op(
    f"pairwise_prefixes({_ARGS}) -> (Tensor, Tensor)",
    cpu=_body,
    cuda=None,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def has_prefixes(x: Tensor) -> bool:
    """Whether `lse_prefixes` runs on the device of x: on the CPU alone."""
    return not x.is_cuda


def lse_prefixes(
    a: Tensor,
    b: Tensor | None,
    alpha: Tensor,
    beta: Tensor | None,
    dims: list[int],
    *,
    ids: Tensor | None = None,
    cols: bool = False,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    r"""Row and column log-sum-exp of ``s^h_ij = alpha^h_i beta^h_j a_i[:d_h] . b_j[:d_h]``, i != j.

    Args:
        a: (n, d) float32 or float64, any row stride, on the CPU.
        b: (m, d), same dtype; None: a itself (then beta is alpha).
        alpha: (prefixes, n), beta: (prefixes, m): factors of the rows, none of them 0.
        dims: ascending prefix lengths, the last one d.
        ids: (n,) int32, with b=None only; pairs with equal ids are left out.
        cols: also return the column statistics, with b only.
        half: the rows came as bfloat16: a CPU that multiplies bfloat16 does, and rounds a, b and
            the weights of their gradient to it, the weights with their factors.

    Returns:
        (prefixes, n) and (prefixes, m), the latter empty without ``cols``; differentiable in a, b,
        alpha and beta. A row without any pair gives ``-inf`` and no gradient.
    """
    row, col = _lse_prefixes(a, b, alpha, beta, dims, ids, cols, half)
    return row, col
