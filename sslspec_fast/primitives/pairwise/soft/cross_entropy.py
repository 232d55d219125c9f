r"""Soft cross-entropy of `pairwise`: rows of a softmax beside targets that are another softmax.

.. math::
    r_i = \sum_t G_{it} \sum_j q_{tj} (\ell_i - s_{ij}), \qquad
    s_{ij} = a_i \cdot w_j, \quad \ell_i = \log \sum_j e^{s_{ij}}, \quad
    q_t = \mathrm{softmax}_j(b_t \cdot v_j + \beta_j),

G a sparse matrix of weights >= 0. With p the softmax of s, :math:`D_i = \sum_t G_{it}`,
:math:`m_t = \sum_j q_{tj} w_j` and :math:`h_t = \sum_i G_{it} a_i`, the gradient of the sum of rows
is

.. math::
    \bar a_i = D_i \sum_j p_{ij} w_j - \sum_t G_{it} m_t, \qquad
    \bar w_j = \sum_i D_i p_{ij} a_i - \sum_t q_{tj} h_t,

so that a row of a or b is visited once, however many pairs it is in: 3 products of (n, k) for the
rows of a and 3 for those of b. Where row i of b is the only target of row i of a, both are visited
together and the second has one product: p - q is taken entry by entry. No (n, k) matrix exists but
for a panel of rows. Without w and v, a and b are the logits themselves, and so is the gradient.
b, v, the bias and G have no gradient.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...._dtypes import as_multiplied, computed_dtype
from ...._register import register_op
from ...._seam import empty
from ... import _value_and_grad
from ..._double_backward import through_composition
from ...rows.unit_rows import unit_rows
from ...sparse.csr import Csr
from ...sparse.spmm import Combination, spmm_into
from .cross_entropy_self import OwnSides, soft_self_rows, soft_self_total
from .plain import given_logits, plain_rows
from .visit import Visit, visit

__all__ = ["Pairs", "Sides", "as_columns", "soft_rows", "soft_total"]


class Pairs(NamedTuple):
    """The pattern of G (n, m) by rows, and where the pairs of its transpose are among them; a pair
    may be there more than once.
    """

    indptr: Tensor  # (n + 1,) int64
    indices: Tensor  # (nnz,) int64
    t_indptr: Tensor  # (m + 1,)
    t_indices: Tensor  # (nnz,)
    t_order: Tensor  # (nnz,): entry e of the transpose is entry t_order[e]

    def row_of(self) -> Tensor:
        """(nnz,) int64."""
        return torch.repeat_interleave(self.indptr.diff(), output_size=self.indices.shape[0])


class Sides(NamedTuple):
    """The logits a w^T and b v^T + bias; without w and v those that are given.

    unit: rows of w and v count as scaled to unit length; the gradient is that of the given rows.
    See `as_columns`.
    """

    a: Tensor  # (n, d)
    w: Tensor | None  # (k, d)
    b: Tensor  # (m, e)
    v: Tensor | None  # (k, e)
    bias: Tensor | None  # (k,), or (g, k): g equal blocks of the rows of b with a bias each
    unit: bool = False


def as_columns(w: Tensor, half: bool, unit: bool) -> tuple[Tensor, bool]:
    """Wide rows w as columns of the logits, and whether the kernels scale them to unit length.

    Those of a CPU do, where they read them; the library that multiplies on a GPU takes scaled rows.

    Args:
        half: whether a GPU multiplies them in bfloat16.
        unit: whether they are to be of unit length.
    """
    if unit and w.is_cuda:
        return as_multiplied(unit_rows(w), half), False
    return as_multiplied(w, half), unit


Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # total, rows, entropy, two gradients


class _Call(NamedTuple):
    """The arguments of the operators."""

    a: Tensor
    w: Tensor | None
    b: Tensor
    v: Tensor | None
    bias: Tensor | None
    weight: Tensor
    indptr: Tensor | None
    indices: Tensor | None
    t_indptr: Tensor | None
    t_indices: Tensor | None
    t_order: Tensor | None
    skip_self: bool
    unit: bool

    def plain(self, a: Tensor, w: Tensor | None) -> Tensor:
        """The rows, as what their derivatives are taken of."""
        teachers, pattern = (self.b, self.v, self.bias), (self.indptr, self.indices)
        return plain_rows((a, w), teachers, self.weight, pattern, self.skip_self, self.unit)

    def graph(self, weight: Tensor) -> Csr | None:
        if self.indptr is None or self.indices is None:
            return None
        return Csr(self.indptr, self.indices, weight, self.b.shape[0])

    def transposed(self, weight: Tensor) -> Csr:
        assert self.t_indptr is not None
        assert self.t_indices is not None
        return Csr(self.t_indptr, self.t_indices, weight[self.t_order], self.a.shape[0])


def _shapes(*args: Any) -> Outputs:
    call, (grad_a, grad_w) = _Call(*args[:-2]), args[-2:]
    a, kind = call.a, computed_dtype(call.a)
    w = a if call.w is None else call.w
    return (
        a.new_empty((), dtype=kind),
        a.new_empty(a.shape[0], dtype=kind),
        a.new_empty(call.b.shape[0], dtype=kind),
        a.new_empty(a.shape if grad_a else (0,)),
        w.new_empty(w.shape if grad_w else (0,)),
    )


def _body(*args: Any) -> Outputs:
    call, (grad_a, grad_w) = _Call(*args[:-2]), args[-2:]
    a, w, b = call.a, call.w, call.b
    kind = computed_dtype(a)
    weight = call.weight.to(kind).contiguous()
    pairs = call.graph(weight)
    sums = a.new_empty(a.shape if grad_a else (0,), dtype=kind)
    if w is None or call.v is None:
        grad = a.new_empty(0)
        rows, entropy = given_logits(a, b, call.bias, weight, pairs, sums)
    else:
        grad = empty(w, w.shape if grad_w else (0,), kind)
        rows, entropy = a.new_empty(a.shape[0], dtype=kind), a.new_empty(b.shape[0], dtype=kind)
        out = Visit(rows, entropy, None, sums if grad_a else None, grad if grad_w else None)
        if pairs is None:
            _together(call, weight, out)
        else:
            _apart(call, pairs, call.transposed(weight), out)
        grad = grad.to(w.dtype)
    total = rows.sum(dtype=torch.float64).to(kind)
    return total, rows, entropy, sums.to(a.dtype), grad


def _blocks(b: Tensor, bias: Tensor | None) -> Iterator[tuple[slice, Tensor | None]]:
    """The rows of b that have one bias."""
    if bias is None or bias.dim() == 1:
        yield slice(None), None if bias is None else bias.to(computed_dtype(b)).contiguous()
        return
    size = b.shape[0] // bias.shape[0]
    for i, row in enumerate(bias.to(computed_dtype(b)).contiguous()):
        yield slice(i * size, (i + 1) * size), row


def _together(call: _Call, weight: Tensor, out: Visit) -> None:
    """Row i of b is the target of row i of a."""
    a, w, b, v, bias = call[:5]
    assert w is not None
    assert v is not None
    rows, entropy, _, sums, grad, *_ = out
    assert entropy is not None
    blocks = list(_blocks(b, bias))
    for i, (some, beta) in enumerate(blocks):
        part = Visit(
            rows[some],
            entropy[some],
            None,
            None if sums is None else sums[some],
            grad,
            first=i == 0,
            last=i == len(blocks) - 1,
        )
        student, teacher = (a[some], w, None), (b[some], v, beta)
        visit(student, teacher, weight[some], None, (a[some], w), call.skip_self, part, call.unit)


def _apart(call: _Call, pairs: Csr, back: Csr, out: Visit) -> None:
    """The rows of b, then those of a."""
    a, w, b, v, bias = call[:5]
    assert w is not None
    assert v is not None
    rows, entropy, _, sums, grad, *_ = out
    assert entropy is not None
    kind = rows.dtype
    means, lse = b.new_empty(b.shape[0], w.shape[1], dtype=kind), torch.empty_like(entropy)
    minus_held = None  # -h
    if grad is not None:
        minus_held = spmm_into(back, a.to(kind), torch.empty_like(means), Combination(-1.0)).to(
            w.dtype
        )
    one = torch.ones_like(entropy)
    for i, (some, beta) in enumerate(_blocks(b, bias)):
        left = None if minus_held is None else minus_held[some]
        part = Visit(lse[some], entropy[some], None, means[some], grad, first=i == 0, last=False)
        visit((b[some], v, beta), None, one[some], None, (left, w), False, part, call.unit)
    target = spmm_into(pairs, means, a.new_empty(a.shape, dtype=kind))
    degree = pairs.row_sums().to(kind)
    student = Visit(rows, None, None, sums, grad, first=False)
    visit((a, w, None), None, degree, None, (a, w), False, student, call.unit)
    rows.mul_(degree).sub_((a * target).sum(1, dtype=kind))
    if sums is not None:
        sums.sub_(target)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, skip_self, unit, _, _ = inputs
    none = output[3].new_empty(0)
    grads = (*output[3:], *(none,) * (len(tensors) - 2))
    _value_and_grad.save(ctx, tensors, output, grads, skip_self=skip_self, unit=unit)


def _expression(*tensors: Any, skip_self: bool, unit: bool) -> Tensor:
    call = _Call._make((*tensors, skip_self, unit))
    return call.plain(call.a, call.w).sum()


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), None, None, None, None


_ARGS = (
    "Tensor a, Tensor? w, Tensor b, Tensor? v, Tensor? bias, Tensor weight, Tensor? indptr,"
    " Tensor? indices, Tensor? t_indptr, Tensor? t_indices, Tensor? t_order, bool skip_self,"
    " bool unit"
)
_soft = register_op(
    f"pairwise_soft({_ARGS}, bool grad_a, bool grad_w) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def _rows_shapes(*args: Any) -> tuple[Tensor, Tensor]:
    return _shapes(*args, False, False)[1:3]


def _rows_body(*args: Any) -> tuple[Tensor, Tensor]:
    return _body(*args, False, False)[1:3]


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.skip_self, ctx.unit = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Tensor | None, ...]:
    call = _Call._make((*ctx.saved_tensors, ctx.skip_self, ctx.unit))
    none = (None,) * (len(call) - 2)
    if torch.is_grad_enabled():
        return *through_composition(call.plain, call[:2], [grad]), *none
    if call.indptr is not None:
        count = call.indptr.diff()
        grad = grad.repeat_interleave(count, output_size=call.weight.shape[0])
    scaled = call._replace(weight=call.weight.to(grad.dtype) * grad)
    need_a, need_w = ctx.needs_input_grad[:2]
    *_, g_a, g_w = _soft(*scaled, need_a, need_w)
    return g_a if need_a else None, g_w if need_w else None, *none


_rows = register_op(
    f"pairwise_soft_rows({_ARGS}) -> (Tensor, Tensor)",
    cpu=_rows_body,
    cuda=_rows_body,
    fake=_rows_shapes,
    backward=_rows_backward,
    setup=_rows_setup,
)


def _arguments(
    sides: Sides, weight: Tensor, pairs: Pairs | None, skip_self: bool
) -> tuple[Any, ...]:
    a, w, *teacher, unit = sides
    constants = (None if x is None else x.detach() for x in teacher)
    held = (None,) * 5 if pairs is None else tuple(pairs)
    return a, w, *constants, weight.detach(), *held, skip_self, unit


def soft_total(
    sides: Sides | OwnSides, weight: Tensor, pairs: Pairs | None = None, *, skip_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The sum of the rows, and the entropies of the targets (m,).

    Args:
        sides: a and w have gradients and one dtype; half precision on a GPU only, but for logits.
            `OwnSides` are those of a batch with itself, which have no pairs and always skip self.
        weight: the weight of each pair, (nnz,), or (n,) without pairs.
        pairs: None: row i of b is the target of row i of a, n = m.
        skip_self: without pairs and with one bias: row i leaves out column i.
    """
    if isinstance(sides, OwnSides):
        return soft_self_total(sides, weight)
    arguments = _arguments(sides, weight, pairs, skip_self)
    wanted = _value_and_grad.wanted
    total, _, entropy, _, _ = _soft(*arguments, wanted(sides.a), wanted(sides.w))
    return total, entropy


def soft_rows(
    sides: Sides | OwnSides, weight: Tensor, pairs: Pairs | None = None, *, skip_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The rows (n,) and the entropies of the targets (m,); arguments as above. The backward pass
    visits all rows again.
    """
    if isinstance(sides, OwnSides):
        return soft_self_rows(sides, weight)
    rows, entropy = _rows(*_arguments(sides, weight, pairs, skip_self))
    return rows, entropy
