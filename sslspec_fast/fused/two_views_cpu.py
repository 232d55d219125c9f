"""CPU body of ``two_views``: the mean or weighted sum of the losses and its gradients, by one call
of the core.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import Tensor

from .._dtypes import computed_dtype, is_half, widen
from .._seam import _C, CODE, rounds, threads, unit_stride, view

__all__ = ["outputs", "total"]

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


def outputs(*args: Any) -> tuple[Tensor, ...]:
    """The loss, and its gradients of z1, z2, scale, bias and weight; (0,) for what is not made."""
    return _outputs(Arguments(*args))


def _outputs(x: Arguments) -> tuple[Tensor, ...]:
    kind, one = computed_dtype(x.z1), () if x.gradient else (0,)
    shapes = (
        (),
        x.z1.shape if x.gradient else (0,),
        x.z2.shape if x.of_z2 else (0,),
        one,
        one if x.form == "sigmoid" else (0,),
        (x.z1.shape[0] if x.of_weight else 0,),
    )
    return tuple(x.z1.new_empty(shape, dtype=kind) for shape in shapes)


def total(*args: Any) -> tuple[Tensor, ...]:
    """All of `outputs`."""
    x = Arguments(*args)
    results = _outputs(x)
    loss, g1, g2, g_scale, g_bias, g_weight = results
    n, d = x.z1.shape
    half = rounds(is_half(x.z1), loss.dtype)
    options = FORMS[x.form], x.unit, half, x.gradient, x.factor()
    work = loss.new_empty(_C.two_views_workspace_size(n, d, CODE[loss.dtype], options))
    weight = None if x.weight is None else x.weight.contiguous()
    rows = view(unit_stride(widen(x.z1))), view(unit_stride(widen(x.z2)))
    of_scale, of_bias = (view(g) if g.numel() else None for g in (g_scale, g_bias))
    grads = view(g1) if x.gradient else None, view(g2) if x.of_z2 else None
    _C.two_views(
        (rows, view(x.scale), view(x.bias), x.number, x.offset, view(weight)),
        options,
        (view(loss), view(g_weight) if x.of_weight else None, grads, of_scale, of_bias),
        (view(work), x.threads()),
    )
    return results
