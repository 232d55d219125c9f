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
for a panel of rows. b, v, the bias and G have no gradient.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from ..._seam import _C, CODE, threads, unit_stride, view
from .. import _value_and_grad
from ..sparse.csr import Csr
from ..sparse.spmm import spmm_into
from . import soft_cuda

__all__ = ["Pairs", "mean_softmax", "soft_rows", "soft_total"]


class Pairs(NamedTuple):
    """G (n, m) by rows, and where the pairs of G^T are among them; entries may repeat."""

    indptr: Tensor  # (n + 1,) int64
    indices: Tensor  # (nnz,) int64
    t_indptr: Tensor  # (m + 1,)
    t_indices: Tensor  # (nnz,)
    t_order: Tensor  # (nnz,): entry e of the transpose is entry t_order[e]


Sides = tuple[Tensor, Tensor, Tensor, Tensor, "Tensor | None"]  # a, w, b, v, bias
Outputs = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]  # total, rows, entropy, two gradients


class Visit(NamedTuple):
    """What a visit of rows is asked for; see csrc/pairwise/soft.h."""

    rows: Tensor
    entropy: Tensor | None = None
    column_sum: Tensor | None = None
    sums: Tensor | None = None
    grad: Tensor | None = None


def visit(
    student: tuple[Tensor, Tensor, Tensor | None],
    teacher: tuple[Tensor, Tensor, Tensor | None] | None,
    weight: Tensor,
    tilt: Tensor | None,
    product: tuple[Tensor | None, Tensor | None],
    skip_self: bool,
    out: Visit,
) -> None:
    """One visit of all rows: csrc/pairwise/soft.h. Sums and gradients are in the computed dtype."""
    x, c, _ = student
    if x.is_cuda:
        soft_cuda.visit(student, teacher, weight, tilt, product, skip_self, *out)
        return
    left, right = (None if t is None else unit_stride(t) for t in product)
    wide = [t.shape[1] for t in (out.sums, out.grad) if t is not None]
    depth = 0 if teacher is None else teacher[0].shape[1]
    sizes = (x.shape[0], c.shape[0], x.shape[1], depth, max(wide, default=0))
    work = x.new_empty(_C.pairwise_soft_workspace_size(sizes, CODE[x.dtype]))
    sides = [
        (None, None, None)
        if side is None
        else (view(unit_stride(side[0])), view(unit_stride(side[1])), view(side[2]))
        for side in (student, teacher)
    ]
    _C.pairwise_soft(
        *sides,
        (view(weight), view(tilt)),
        (view(left), view(right)),
        skip_self,
        tuple(view(t) for t in out),
        view(work),
        threads(),
    )


def _shapes(
    a: Tensor,
    w: Tensor,
    b: Tensor,
    v: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    indptr: Tensor | None,
    indices: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_order: Tensor | None,
    skip_self: bool,
    grad_a: bool,
    grad_w: bool,
) -> Outputs:
    kind = computed_dtype(a)
    return (
        a.new_empty((), dtype=kind),
        a.new_empty(a.shape[0], dtype=kind),
        a.new_empty(b.shape[0], dtype=kind),
        a.new_empty(a.shape if grad_a else (0,)),
        w.new_empty(w.shape if grad_w else (0,)),
    )


def _body(
    a: Tensor,
    w: Tensor,
    b: Tensor,
    v: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    indptr: Tensor | None,
    indices: Tensor | None,
    t_indptr: Tensor | None,
    t_indices: Tensor | None,
    t_order: Tensor | None,
    skip_self: bool,
    grad_a: bool,
    grad_w: bool,
) -> Outputs:
    kind = computed_dtype(a)
    total, rows, entropy, _, _ = _shapes(
        a, w, b, v, bias, weight, indptr, indices, t_indptr, t_indices, t_order, skip_self, 0, 0
    )
    weight = weight.to(kind).contiguous()
    bias = None if bias is None else bias.to(kind).contiguous()
    g_a = a.new_empty(a.shape if grad_a else (0,), dtype=kind)
    g_w = w.new_zeros(w.shape if grad_w else (0,), dtype=kind)
    sums, grad = g_a if grad_a else None, g_w if grad_w else None
    if indptr is None or indices is None or t_indptr is None or t_indices is None:
        blocks = [(0, a.shape[0], bias)] if bias is None or bias.dim() == 1 else _blocks(b, bias)
        for first, last, beta in blocks:
            some = slice(first, last)
            out = Visit(
                rows[some], entropy[some], None, None if sums is None else sums[some], grad
            )
            visit(
                (a[some], w, None),
                (b[some], v, beta),
                weight[some],
                None,
                (a[some], w),
                skip_self,
                out,
            )
    else:
        pairs = Csr(indptr, indices, weight, b.shape[0])
        assert t_order is not None
        back = Csr(t_indptr, t_indices, weight[t_order], a.shape[0])
        degree = pairs.row_sums().to(kind)
        means = b.new_empty(b.shape[0], w.shape[1], dtype=kind)
        held = None
        if grad_w:
            held = torch.empty_like(means)
            spmm_into(back, a.to(kind), held, alpha=-1.0)
        blocks = [(0, b.shape[0], bias)] if bias is None or bias.dim() == 1 else _blocks(b, bias)
        ones = torch.ones_like(entropy)
        lse = torch.empty_like(entropy)
        for first, last, beta in blocks:
            some = slice(first, last)
            left = None if held is None else held[some].to(w.dtype)
            out = Visit(lse[some], entropy[some], None, means[some], grad)
            visit((b[some], v, beta), None, ones[some], None, (left, w), False, out)
        target = a.new_empty(a.shape, dtype=kind)
        spmm_into(pairs, means, target)
        visit((a, w, None), None, degree, None, (a, w), False, Visit(rows, None, None, sums, grad))
        # a row without any pair has no loss; its statistic may be anything
        rows.mul_(degree).sub_((a * target).sum(1, dtype=kind))
        rows.masked_fill_(degree == 0, 0)
        if sums is not None:
            sums.sub_(target)
    total.copy_(rows.sum(dtype=torch.float64))
    return total, rows, entropy, g_a.to(a.dtype), g_w.to(w.dtype)


def _blocks(b: Tensor, bias: Tensor) -> list[tuple[int, int, Tensor]]:
    """Rows of b with one row of the bias each: consecutive, as many for each."""
    size = b.shape[0] // bias.shape[0]
    return [(i * size, (i + 1) * size, row) for i, row in enumerate(bias)]


def _expression(
    a: Tensor,
    w: Tensor,
    b: Tensor,
    v: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    indptr: Tensor | None,
    indices: Tensor | None,
    *pairs: Tensor | None,
    skip_self: bool,
) -> Tensor:
    """In plain torch: what second derivatives are taken of; stores the (n, k) matrices."""
    return _plain_rows(a, w, b, v, bias, weight, indptr, indices, skip_self).sum()


def _plain_rows(
    a: Tensor,
    w: Tensor,
    b: Tensor,
    v: Tensor,
    bias: Tensor | None,
    weight: Tensor,
    indptr: Tensor | None,
    indices: Tensor | None,
    skip_self: bool,
) -> Tensor:
    kind = computed_dtype(a)
    a, w, b, v = (x.to(kind) for x in (a, w, b, v))
    s, t = a @ w.T, b @ v.T
    if bias is not None:
        each = b.shape[0] // (1 if bias.dim() == 1 else bias.shape[0])
        t = t + (bias if bias.dim() == 1 else bias.repeat_interleave(each, 0)).to(kind)
    if skip_self:  # finite: 0 times it is 0
        own = torch.eye(*s.shape, dtype=torch.bool, device=s.device)
        s, t = s.masked_fill(own, -1e30), t.masked_fill(own, -torch.inf)
    q = t.softmax(1)
    if skip_self:
        q = q.nan_to_num(0.0)
    above = s.logsumexp(1, keepdim=True) - s
    weight = weight.to(kind)
    if indptr is None or indices is None:
        return weight * (q * above).sum(1)
    row = torch.repeat_interleave(indptr.diff(), output_size=indices.shape[0])
    target = torch.zeros_like(s).index_add(0, row, weight[:, None] * q[indices])
    return (target * above).sum(1)


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, skip_self, _, _ = inputs
    _, _, _, g_a, g_w = output
    none = g_a.new_empty(0)
    grads = (g_a, g_w, *(none,) * (len(tensors) - 2))
    _value_and_grad.save(ctx, tensors, output, grads, skip_self=skip_self)


def _backward(ctx: Any, factor: Tensor | None, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    return *_value_and_grad.gradient(ctx, factor, _expression), None, None, None


_ARGS = (
    "Tensor a, Tensor w, Tensor b, Tensor v, Tensor? bias, Tensor weight, Tensor? indptr,"
    " Tensor? indices, Tensor? t_indptr, Tensor? t_indices, Tensor? t_order, bool skip_self"
)
_soft = register_op(
    f"pairwise_soft({_ARGS}, bool grad_a, bool grad_w)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def _rows_shapes(a: Tensor, w: Tensor, b: Tensor, *rest: Any) -> Tensor:
    return a.new_empty(a.shape[0], dtype=computed_dtype(a))


def _rows_body(*args: Any) -> Tensor:
    rows: Tensor = _body(*args, False, False)[1]
    return rows


def _rows_setup(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.skip_self = inputs
    ctx.save_for_backward(*tensors)


def _rows_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, w, b, v, bias, weight, indptr, indices, *others = ctx.saved_tensors
    none = (None,) * (len(ctx.saved_tensors) - 1)
    if torch.is_grad_enabled():

        def compose(a: Tensor, w: Tensor) -> Tensor:
            return _plain_rows(a, w, b, v, bias, weight, indptr, indices, ctx.skip_self)

        return *_value_and_grad.through_composition(compose, (a, w), [grad]), *none
    if indptr is not None:
        count = indptr.diff()
        grad = grad.repeat_interleave(count, output_size=weight.shape[0])
    scaled = weight.to(grad.dtype) * grad
    need_a, need_w = ctx.needs_input_grad[:2]
    out = _soft(
        a, w, b, v, bias, scaled, indptr, indices, *others, ctx.skip_self, need_a, need_w
    )
    return out[3] if need_a else None, out[4] if need_w else None, *none


_rows = register_op(
    f"pairwise_soft_rows({_ARGS}) -> Tensor",
    cpu=_rows_body,
    cuda=_rows_body,
    fake=_rows_shapes,
    backward=_rows_backward,
    setup=_rows_setup,
)


def _arguments(
    sides: Sides, weight: Tensor, pairs: Pairs | None, skip_self: bool
) -> tuple[Any, ...]:
    a, w, b, v, bias = sides
    held = (None,) * 5 if pairs is None else tuple(pairs)
    constants = (b.detach(), v.detach(), None if bias is None else bias.detach())
    return a, w, *constants, weight.detach(), *held, skip_self


def soft_total(
    sides: Sides, weight: Tensor, pairs: Pairs | None = None, *, skip_self: bool = False
) -> tuple[Tensor, Tensor]:
    """The sum of the rows, and the entropies of the targets (m,).

    Args:
        sides: a (n, d) and w (k, d), of one dtype, with gradients; b (m, e) and v (k, e); the bias
            (k,), (g, k) for g equal blocks of the rows of b, or None. Half precision on a GPU only.
        weight: the weight of each pair, (nnz,), or (n,) without pairs.
        pairs: None: row i of b is the target of row i of a, n = m.
        skip_self: without pairs and biases by block: row i leaves out column i.
    """
    a, w = sides[:2]
    wanted = _value_and_grad.wanted
    total, _, entropy, _, _ = _soft(
        *_arguments(sides, weight, pairs, skip_self), wanted(a), wanted(w)
    )
    return total, entropy


def soft_rows(
    sides: Sides, weight: Tensor, pairs: Pairs | None = None, *, skip_self: bool = False
) -> Tensor:
    """The rows (n,); arguments as above. The backward pass visits all rows again."""
    out: Tensor = _rows(*_arguments(sides, weight, pairs, skip_self))
    return out


# ---- the mean of softmax rows ---------------------------------------------------------


def _mean_shapes(a: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    return a.new_empty(w.shape[0], dtype=computed_dtype(a))


def _mean_body(a: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    out = _mean_shapes(a, w, weight)
    visit(
        (a, w, None),
        None,
        weight.to(out.dtype).contiguous(),
        None,
        (None, None),
        False,
        Visit(out.new_empty(a.shape[0]), column_sum=out),
    )
    return out


def _mean_bwd_shapes(
    a: Tensor, w: Tensor, weight: Tensor, grad: Tensor, want_w: bool
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape), w.new_empty(w.shape if want_w else (0,))


def _mean_bwd_body(
    a: Tensor, w: Tensor, weight: Tensor, grad: Tensor, want_w: bool
) -> tuple[Tensor, Tensor]:
    kind = computed_dtype(a)
    g_a = a.new_empty(a.shape, dtype=kind)
    g_w = w.new_zeros(w.shape if want_w else (0,), dtype=kind)
    visit(
        (a, w, None),
        None,
        weight.to(kind).contiguous(),
        grad.to(kind).contiguous(),
        (a, w),
        False,
        Visit(g_a.new_empty(a.shape[0]), None, None, g_a, g_w if want_w else None),
    )
    return g_a.to(a.dtype), g_w.to(w.dtype)


def _mean_setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _mean_plain(a: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    kind = computed_dtype(a)
    return weight.to(kind) @ (a.to(kind) @ w.to(kind).T).softmax(1)


def _mean_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    a, w, weight = ctx.saved_tensors
    if torch.is_grad_enabled():
        return _value_and_grad.through_composition(_mean_plain, (a, w, weight), [grad])
    g_a, g_w = _mean_bwd(a, w, weight, grad, ctx.needs_input_grad[1])
    return g_a, g_w if ctx.needs_input_grad[1] else None, None


_mean_bwd = register_op(
    "pairwise_mean_softmax_bwd(Tensor a, Tensor w, Tensor weight, Tensor grad, bool want_w)"
    " -> (Tensor, Tensor)",
    cpu=_mean_bwd_body,
    cuda=_mean_bwd_body,
    fake=_mean_bwd_shapes,
)
_mean = register_op(
    "pairwise_mean_softmax(Tensor a, Tensor w, Tensor weight) -> Tensor",
    cpu=_mean_body,
    cuda=_mean_body,
    fake=_mean_shapes,
    backward=_mean_backward,
    setup=_mean_setup,
)


def mean_softmax(a: Tensor, w: Tensor, weight: Tensor) -> Tensor:
    r"""(k,) :math:`\sum_i c_i\, \mathrm{softmax}_j(a_i \cdot w_j)`; weights c (n,) without gradient.

    a (n, d), w (k, d): as in `soft_total`, both with gradients.
    """
    out: Tensor = _mean(a, w, weight.detach())
    return out
