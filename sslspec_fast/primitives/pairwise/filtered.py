r"""Log-sum-exp of `pairwise` over the pairs that are not too similar.

.. math::
    r_i = \log \sum_{j:\ a_i \cdot b_j \le \theta_i,\ g_i \cdot h_j \le \phi_i}
        e^{c_i\, a_i \cdot b_j},

g and h the embeddings of a guide for the same rows and columns. Which pairs are left out has no
gradient. On a CPU the kernel compares its products with theta, where c is one number. They are
those of wide rows: a product of rows that are rounded to bfloat16 may be on the other side. The
pairs above phi, and else those above theta, are found by blocks of rows and left out as a pattern,
in the forward and again in the backward pass: memory O((n + m) d), one block of products, and two
numbers a pair that is left out. On a GPU the host waits for their number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..._dtypes import computed_dtype
from ..._register import register_op
from . import softmax
from .common import ALL_PAIRS, LOGITS, LeftOut, Logits, keeping, number_of_kept, of_logits

__all__ = ["Bound", "lse_below", "pairs_above"]

_BLOCK_ELEMENTS = 1 << 22  # products in flight


class Bound(NamedTuple):
    """Leaves out the pairs with ``a_i . b_j > threshold_i``.

    a, b: (n, e) and (m, e). threshold: 0-dim or (n,), in the dtype that is computed in.
    """

    a: Tensor
    b: Tensor
    threshold: Tensor


def pairs_above(bounds: Sequence[Bound], left_out: LeftOut = ALL_PAIRS) -> tuple[Tensor, Tensor]:
    """CSR pattern (indptr, indices), int64, of the pairs above one of the bounds, and of those in
    the pattern of `left_out`.
    """
    n, m = bounds[0].a.shape[0], bounds[0].b.shape[0]
    pattern = left_out._replace(ids_a=None, ids_b=None, self_pairs=False)
    step = max(1, _BLOCK_ELEMENTS // max(1, m))
    empty = bounds[0].a.new_zeros(0, dtype=torch.int64)
    counts, indices = [empty.new_zeros(1)], [empty]
    bounds = [_widened(bound) for bound in bounds]
    for first in range(0, n, step):
        rows = slice(first, min(n, first + step))
        above = _above(bounds[0], rows)
        for bound in bounds[1:]:
            above |= _above(bound, rows)
        if pattern.indptr is not None:
            above |= pattern.mask(rows, m, above.device)
        counts.append(above.sum(1))
        indices.append(above.nonzero()[:, 1])
    return torch.cat(counts).cumsum(0), torch.cat(indices)


def _widened(bound: Bound) -> Bound:
    a, b, threshold = bound
    wide = computed_dtype(a)
    return Bound(a.detach().to(wide), b.detach().to(wide), threshold.expand(a.shape[0]))


def _above(bound: Bound, rows: slice) -> Tensor:
    a, b, threshold = bound
    return a[rows] @ b.T > threshold[rows, None]


class _Bounds(NamedTuple):
    """As the schema has them: a threshold of the products themselves, and a guide."""

    threshold: Tensor | None
    guide_a: Tensor | None
    guide_b: Tensor | None
    guide_threshold: Tensor | None

    def left_out(self, x: Logits) -> LeftOut:
        """With all pairs above a bound in the pattern."""
        assert x.b is not None
        bounds = []
        if self.threshold is not None:
            bounds.append(Bound(x.a, x.b, self.threshold))
        if self.guide_a is not None and self.guide_b is not None:
            assert self.guide_threshold is not None
            bounds.append(Bound(self.guide_a, self.guide_b, self.guide_threshold))
        if not bounds:
            return x.left_out
        indptr, indices = pairs_above(bounds, x.left_out)
        return x.left_out._replace(indptr=indptr, indices=indices)

    def on_cpu(self, x: Logits, half: bool) -> Logits:
        """The logits below the bounds, as the kernels of a CPU take them."""
        if self.threshold is None or half or x.scale.ndim:
            return x._replace(left_out=self.left_out(x))
        assert x.b is not None
        left_out = self._replace(threshold=None).left_out(x)
        limit = self.threshold.contiguous()
        return x._replace(b=x.b.to(x.a.dtype), left_out=left_out, limit=limit)


_BOUNDS = "Tensor? threshold, Tensor? guide_a, Tensor? guide_b, Tensor? guide_threshold"


@of_logits
def _shapes(x: Logits, *rest: Any) -> tuple[Tensor, Tensor]:
    return x.a.new_empty(x.a.shape[0], dtype=computed_dtype(x.a)), number_of_kept(x.a, rest[-1])


@of_logits
def _body(x: Logits, *rest: Any) -> tuple[Tensor, Tensor]:
    *bounds, half, keep = rest
    kept = number_of_kept(x.a, keep)
    if not x.a.is_cuda:
        logits = _Bounds(*bounds).on_cpu(x, half)
        return softmax.statistics(logits, half, kept if keep else None)[0], kept
    assert x.b is not None
    return softmax.lse(x.a, x.b, x.scale, _Bounds(*bounds).left_out(x), half=half)[0], kept


@of_logits
def _bwd_shapes(x: Logits, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    assert x.b is not None
    grad_b = x.b.new_empty(x.b.shape if rest[-2] else (0,))
    return x.a.new_empty(x.a.shape), grad_b, x.scale.new_empty(x.scale.shape)


@of_logits
def _bwd_body(x: Logits, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    *bounds, half, row, grad, want_b, kept = rest
    if x.a.is_cuda:
        return _by_pattern(x, *rest)
    logits = _Bounds(*bounds).on_cpu(x, half)
    return softmax.gradients(logits, half, (row, None), (grad, None), want_b=want_b, kept=kept)


def _by_pattern(x: Logits, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    """The same by an operator that is differentiable itself."""
    *bounds, half, row, grad, want_b, _ = rest
    assert x.b is not None
    b = x.b if half else x.b.to(x.a.dtype)
    flat = x.a, b, x.scale, *_Bounds(*bounds).left_out(x)
    none = row.new_empty(0)
    out: tuple[Tensor, Tensor, Tensor] = softmax.lse_bwd(
        *flat, False, half, row, none, grad, none, want_b, None
    )
    return out


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.half, ctx.keep = inputs
    ctx.skip_self = tensors.pop(7)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors, *output)


def _backward(ctx: Any, grad: Tensor | None, _: Tensor | None) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 14
    *tensors, row, kept = ctx.saved_tensors
    want_b = ctx.needs_input_grad[1]
    # under create_graph=True the parts, whose own backward is differentiable
    backward: Any = of_logits(_by_pattern) if torch.is_grad_enabled() else _lse_below_bwd
    logits = *tensors[:7], ctx.skip_self
    last = ctx.half, row, grad, want_b, kept if ctx.keep else None
    g_a, g_b, g_scale = backward(*logits, *tensors[7:], *last)
    return g_a, g_b if want_b else None, g_scale, *(None,) * 11


_lse_below_bwd = register_op(
    f"pairwise_lse_below_bwd({LOGITS}, {_BOUNDS}, bool half, Tensor row, Tensor grad, bool want_b,"
    " Tensor? kept) -> (Tensor, Tensor, Tensor)",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_lse_below = register_op(
    f"pairwise_lse_below({LOGITS}, {_BOUNDS}, bool half, bool keep) -> (Tensor, Tensor)",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)


def lse_below(
    a: Tensor,
    b: Tensor,
    scale: Tensor,
    threshold: Tensor | None,
    left_out: LeftOut = ALL_PAIRS,
    guide: Bound | None = None,
    *,
    half: bool = False,
) -> Tensor:
    """``log sum_j exp(scale_i a_i . b_j)`` over the pairs with ``a_i . b_j <= threshold_i``, and
    with ``g_i . h_j <= phi_i`` for a guide (g, h, phi).

    threshold: 0-dim or (n,), in the dtype that is computed in, a constant, as the guide; at least
    one of them. The other arguments as in `softmax.lse`; what is left out is found with wide rows
    under `half` too, and on a CPU a threshold has those multiplied where there is one scale.
    Returns (n,); a row without any pair gives ``-inf`` and no gradient.
    """
    if threshold is None and guide is None:
        raise ValueError("pairwise.lse_below: needs a threshold or a guide, got None and None")
    by = guide or (None, None, None)
    if threshold is not None and scale.ndim == 0 and not a.is_cuda:
        half = False  # the kernel compares its products
    keep = keeping(a, b, scale)
    out: Tensor = _lse_below(a, b, scale, *left_out, threshold, *by, half, keep)[0]
    return out
