"""What a method is asked and what it answers, in the words of all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ...operators.base import SymmetricOperator
from ...operators.known import Deflated
from ...primitives.basis.blocks import column_norms

__all__ = ["Known", "Outcome", "Task", "rounded"]

Known = tuple[Tensor, Tensor] | None  # (values, vectors) of wanted pairs that are exact


@dataclass
class Task:
    """What is asked: the k largest eigenpairs of op in the complement of the deflated vectors."""

    op: SymmetricOperator
    k: int
    free: int  # dimension of the complement of the deflated vectors
    norm: float  # bound of ||A||
    tol: float  # absolute bound of ||r_i||; relative until `set_norm`
    angle_tol: float | None
    max_iter: int
    seed: int
    deflated: Deflated | None = None
    dtype: torch.dtype = torch.float64  # of the basis
    callback: Callable[[dict[str, Any]], Any] | None = None
    columns: int = 0  # columns multiplied so far, all precisions
    low: torch.dtype = torch.float32  # of the products of the probe and of filters
    warm: Tensor | None = None  # (n, m) start that was given
    known: Known = None  # wanted pairs that are among the deflated ones
    preconditioner: Callable[[Tensor], Tensor] | None = None  # for the upper end of op

    def set_norm(self, norm: float) -> None:
        """Once ||A|| is known: the tolerance, relative until then, is absolute."""
        self.norm = norm
        self.tol *= norm

    def apply(self, x: Tensor, out: Tensor | None = None) -> Tensor:
        self.columns += x.shape[1]
        return self.op.matmat(x, out).contiguous()

    def angle_met(self, norms: Tensor, gap: float) -> bool:
        """||R||_F <= angle_tol * gap, where it was asked for. No gap bounds no angle."""
        if self.angle_tol is None or gap == math.inf:
            return True
        return gap > 0.0 and float(norms.norm()) <= self.angle_tol * gap

    @property
    def guard(self) -> int:
        """Index just behind the wanted ones exists, so a gap can be measured."""
        return 1 if self.free > self.k else 0


@dataclass
class Outcome:
    """The pairs that a method has found, and what it tells of them."""

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    gap: float
    converged: bool
    reason: str
    n_iter: int
    history: list[dict[str, Any]] = field(default_factory=list)
    proof: Any = None  # inertia.Proof that nothing is missing, where a method has one
    facts: dict[str, Any] = field(default_factory=dict)  # of the method, for `info.extra`


def rounded(outcome: Outcome, task: Task) -> Outcome:
    """A float64 outcome in the dtype that was asked for, with the residuals of what is returned."""
    if task.dtype == outcome.vectors.dtype:
        return outcome
    vectors = outcome.vectors.to(task.dtype)
    x = vectors.double()
    r = task.apply(x) - x * outcome.values.to(x)
    if task.deflated is not None:
        task.deflated.remove_(r)
    return replace(outcome, vectors=vectors, residuals=column_norms(r))
