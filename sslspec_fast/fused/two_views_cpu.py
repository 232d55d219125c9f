"""CPU body of ``two_views``: the mean or weighted sum of the losses and its gradients, by one call
of the core.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .._dtypes import computed_dtype, widen
from .._seam import _C, CODE, rounds, threads, unit_stride, view

__all__ = ["gradients", "outputs", "total"]

FORMS = {"stacked": 0, "rows": 1, "both": 2, "sigmoid": 3}  # ViewForm of csrc/fused


class Arguments(NamedTuple):
    """Those of the operator; `two_views.py` says what they mean."""

    z1: Tensor
    z2: Tensor
    scale: Tensor | None
    bias: Tensor | None
    weight: Tensor | None
    number: float
    offset: float
    mean: bool
    form: str
    unit: bool
    half: bool
    gradient: bool
    of_z2: bool
    of_weight: bool

    def factor(self) -> float:
        """What the sum of the weighted losses is multiplied by. Weights of a mean add up to 1."""
        if not self.mean:
            return 0.5 if self.form == "both" else 1.0
        count = 1 if self.weight is not None else self.z1.shape[0]
        return (0.5 if self.form in ("stacked", "both") else 1.0) / count

    def threads(self) -> int:
        n, d = self.z1.shape
        return threads((16.0 if self.form == "stacked" else 4.0) * n * n * d)

    def differentiated(self) -> tuple[bool, ...]:
        """Whether the gradient of z1, z2, scale, bias and weight is made."""
        whole = self.gradient
        scale, bias = whole and self.scale is not None, whole and self.bias is not None
        return whole, self.of_z2, scale, bias, self.of_weight


def outputs(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """The loss, and those of its gradients of z1, z2, scale, bias and weight that are made."""
    return _outputs(Arguments(*args))


def _outputs(x: Arguments) -> tuple[Tensor, list[Tensor]]:
    z, kind = x.z1, computed_dtype(x.z1)
    n, d = z.shape  # integers: torch takes three times as long to read a torch.Size
    sizes = (n, d), (n, d), (), (), (n,)
    pairs = zip(sizes, x.differentiated(), strict=True)
    grads = [z.new_empty(size, dtype=kind) for size, one in pairs if one]
    return z.new_empty((), dtype=kind), grads


def gradients(grads: Sequence[Tensor], args: Sequence[Any]) -> list[Tensor | None]:
    """Those of z1, z2, scale, bias and weight, of which `outputs` has those that are made."""
    return _gradients(grads, Arguments(*args))


def _gradients(grads: Sequence[Tensor], x: Arguments) -> list[Tensor | None]:
    each = iter(grads)
    return [next(each) if one else None for one in x.differentiated()]


def total(*args: Any) -> tuple[Tensor, list[Tensor]]:
    """All of `outputs`."""
    x = Arguments(*args)
    loss, grads = _outputs(x)
    g1, g2, of_scale, of_bias, of_weight = [view(g) for g in _gradients(grads, x)]
    n, d = x.z1.shape
    half = rounds(x.half, loss.dtype)
    z1, z2 = (x.z1, x.z2) if half else (widen(x.z1), widen(x.z2))
    options = FORMS[x.form], x.unit, half, x.gradient, x.factor()
    work = loss.new_empty(_C.two_views_workspace_size(n, d, CODE[z1.dtype], options))
    weight = None if x.weight is None else x.weight.contiguous()
    rows = view(unit_stride(z1)), view(unit_stride(z2))
    _C.two_views(
        (rows, view(x.scale), view(x.bias), x.number, x.offset, view(weight)),
        options,
        (view(loss), of_weight, (g1, g2), of_scale, of_bias),
        (view(work), x.threads()),
    )
    return loss, grads
