"""Matrices far from norm 1: solved at norm 1, by powers of two, which round nothing.

Squares of float32 numbers below 1e-19 are not normal numbers, and the filters take another e^-60
out in advance: Gram matrices and residuals of a tiny matrix would say nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from sslspec_fast.operators.base import KnownPairs, ShiftOperator, SymmetricOperator
from sslspec_fast.operators.composite import DenseOperator
from sslspec_fast.operators.convert import to_array
from sslspec_fast.operators.csr import CsrOperator
from sslspec_fast.solvers.result import EigResult

__all__ = ["at_unit_norm", "unit_of"]

_NEAR = 2.0**40  # norms up to here, and down to its inverse, are left alone
_FACTS = ("bounds", "start_cut", "sigma", "count_shift")  # of info.extra, in units of A


def unit_of(op: SymmetricOperator) -> float:
    """A power of two next to the norm; 1 where that is near, or where nobody knows it."""
    norm = max(abs(bound) for bound in op.bounds())
    if not 0.0 < norm < math.inf or 1.0 / _NEAR <= norm <= _NEAR:
        return 1.0
    return 2.0 ** min(max(math.frexp(norm)[1], -1000), 1000)


def _divided(op: SymmetricOperator, unit: float) -> SymmetricOperator:
    factor = 1.0 / unit
    if isinstance(op, DenseOperator):
        return DenseOperator((op.matrix.double() * factor).to(op.dtype))
    if isinstance(op, CsrOperator) and op.values is not None:
        # scaled before float32 sees them
        diagonal = None if op.diagonal is None else op.diagonal * factor
        known = tuple(KnownPairs(pair.value * factor, pair.vectors) for pair in op.known())
        return CsrOperator(
            op.indptr, op.indices, (op.values.double() * factor).to(op.dtype), n=op.n,
            scale=op.scale, diagonal=diagonal, sign=op.sign, known=known,
            bounds=tuple(bound * factor for bound in op.bounds()),  # type: ignore[arg-type]
            trusted=True,
        )  # fmt: skip
    return ShiftOperator(op, factor, 0.0)


def at_unit_norm(
    solve: Callable[..., EigResult], op: SymmetricOperator, k: int, B: Any,
    settings: dict[str, Any], unit: float, kind: str,
) -> EigResult:  # fmt: skip
    """solve(op / unit, k), and everything it says in units of op."""
    limits = torch.finfo(torch.float32)
    if settings["precision"] == "float32" and not 8 * limits.tiny < unit < limits.max / 8:
        raise ValueError(
            f"eigsh: precision='float32' must hold the eigenvalues, got a norm near {unit:.3g}; "
            "use 'mixed' or 'float64'"
        )
    callback = settings["callback"]

    def report(entry: dict[str, Any]) -> Any:
        return callback({**entry, "values": entry["values"] * unit})

    settings = {**settings, "callback": None if callback is None else report}
    result = solve(_divided(op, unit), k, B=B, **settings)
    info, extra = result.info, dict(result.info.extra)
    for name in _FACTS:
        if name in extra:
            fact = extra[name]
            extra[name] = tuple(x * unit for x in fact) if name == "bounds" else fact * unit
    info = replace(
        info, residuals=info.residuals * unit, norm=info.norm * unit, gap=info.gap * unit,
        tol=info.tol * unit, extra=extra,
    )  # fmt: skip
    values = (result.values.double() * unit).to(result.values.dtype)
    return EigResult(to_array(values, kind), to_array(result.vectors, kind), info)
