"""Gradients of eigenvalues and of gauge-invariant functions of eigenvectors, without unrolling.

With dA symmetric, V the k returned vectors (columns v_i) and G, g the gradients of V, lambda:

    d lambda_i = v_i^T dA v_i
    d v_i      = sum_{j <= k, j != i} v_j (v_j^T dA v_i) / (lambda_i - lambda_j)
                 + (lambda_i - A)^+ (I - V V^T) dA v_i

so grad_A = sym( V diag(g) V^T + V (F * skew(V^T G)) V^T + Y V^T ) with F_ji = 1 / (lambda_i -
lambda_j), Y solving (lambda_i - A) y_i = (I - V V^T) G_i in the complement of V: one block
conjugate gradient, definite because every other eigenvalue lies on one side of lambda_i. Terms
between equal eigenvalues are dropped; they vanish for every function of the span alone (Kasim
2020). On a sparse pattern only the stored entries of grad_A are formed (SDDMM).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..operators.base import SymmetricOperator
from ..operators.convert import to_csr
from .problem.eigenproblem import Eigenproblem
from .result import EigResult

__all__ = ["differentiable", "solve_complement"]

_DEGENERATE = 1e-9  # relative to the largest |lambda|
_CHUNK = 1 << 22  # entries of the pattern per SDDMM piece


def differentiable(
    solve: Callable[[Eigenproblem], EigResult], problem: Eigenproblem, A: Tensor
) -> EigResult:
    """solve(problem) as a function of the torch matrix A, of which the problem is made."""
    if A.layout == torch.strided:
        entries, pattern = A, None
    else:
        csr = to_csr(A, "eigsh")
        entries = csr.values()
        pattern = csr.crow_indices().detach(), csr.col_indices().detach()
    holder: list[EigResult] = []
    values, vectors = _Eigsh.apply(entries, pattern, solve, problem, holder)
    return EigResult(values, vectors, holder[0].info)


class _Eigsh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, entries, pattern, solve, problem, holder):  # type: ignore[no-untyped-def]
        result = solve(problem)
        holder.append(result)
        ctx.op, ctx.pattern = problem.given, pattern
        ctx.which, ctx.cut = problem.settings.which, result.info.cluster_cut
        # the operator shares the memory of A: its entries are saved so that a change is noticed
        ctx.save_for_backward(entries.detach(), result.values, result.vectors)
        return result.values, result.vectors

    @staticmethod
    def backward(ctx, grad_values, grad_vectors):  # type: ignore[no-untyped-def]
        entries, values, v = ctx.saved_tensors
        v, lam = v.double(), values.double()
        left, right = v * grad_values.double(), v
        if grad_vectors is not None and bool((grad_vectors != 0).any()):
            g = grad_vectors.double()
            inner = v.T @ g
            distance = lam[None, :] - lam[:, None]
            small = distance.abs() <= _DEGENERATE * lam.abs().max().clamp_min(1e-300)
            f = torch.where(small, torch.zeros_like(distance), 1.0 / distance.masked_fill(small, 1))
            left = left + v @ (f * (inner - inner.T) / 2)
            sign = 1.0 if ctx.which == "LA" else -1.0
            outside = g - v @ inner
            depends = float(outside.norm()) > 1e-12 * float(g.norm())
            if ctx.cut and depends:
                raise RuntimeError(
                    "eigsh: the span of k vectors has no gradient at a degenerate eigenvalue, got "
                    f"k = {v.shape[1]} inside a cluster at {float(lam[-1]):.6g}"
                )
            if depends and v.shape[1] < v.shape[0]:
                left = left + solve_complement(ctx.op, v, lam, outside, sign)
        if ctx.pattern is None:
            grad = left @ right.T
            grad = (grad + grad.T) / 2
        else:
            crow, col = ctx.pattern
            grad = _on_pattern(crow, col, left, right)
        return grad.to(entries.dtype), None, None, None, None


def _on_pattern(crow: Tensor, col: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """(nnz,) entries of sym(left right^T) where a CSR matrix stores something."""
    nnz = col.shape[0]
    row = torch.arange(len(crow) - 1, device=col.device).repeat_interleave(
        crow.diff(), output_size=nnz
    )
    out = torch.empty(nnz, dtype=left.dtype, device=left.device)
    step = max(_CHUNK // max(left.shape[1], 1), 1)
    for a in range(0, nnz, step):
        i, j = row[a : a + step], col[a : a + step]
        out[a : a + step] = ((left[i] * right[j]).sum(1) + (left[j] * right[i]).sum(1)) / 2
    return out


def solve_complement(
    op: SymmetricOperator,
    v: Tensor,
    values: Tensor,
    rhs: Tensor,
    sign: float,
    tol: float = 1e-12,
    max_iter: int = 5000,
) -> Tensor:
    """Y in the complement of v with (values_i - A) y_i = rhs_i, by block conjugate gradients.

    v: (n, k) orthonormal invariant subspace; sign +1 when every other eigenvalue lies below
    values_i, -1 when above. RuntimeError when the iteration stalls (values_k equals values_{k+1}).
    """

    def apply(x: Tensor) -> Tensor:
        y = (x * values - op.matmat(x)) * sign
        return y - v @ (v.T @ y)

    b = (rhs - v @ (v.T @ rhs)) * sign
    x = torch.zeros_like(b)
    r, p = b.clone(), b.clone()
    rho = (r * r).sum(0)
    target = (tol * b.norm(dim=0)) ** 2
    for _ in range(max_iter):
        active = rho > target
        if not bool(active.any()):
            return x
        ap = apply(p)
        curvature = (p * ap).sum(0)
        alpha = torch.where(active & (curvature > 0), rho / curvature, torch.zeros_like(rho))
        if not bool((alpha != 0).any()):
            break
        x += alpha * p
        r -= alpha * ap
        new = (r * r).sum(0)
        beta = torch.where(active, new / rho.clamp_min(1e-300), torch.zeros_like(rho))
        p = r + beta * p
        rho = new
    worst = float((rho.sqrt() / b.norm(dim=0).clamp_min(1e-300)).max())
    if worst > 1e-6:
        raise RuntimeError(
            f"eigsh backward: the deflated solve stalled at relative residual {worst:.1e}; the cut "
            "between eigenvalues k and k + 1 is (nearly) degenerate, so gradients do not exist"
        )
    return x
