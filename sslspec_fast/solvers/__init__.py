"""Symmetric eigensolvers that say how far their answer can be trusted."""

from sslspec_fast.solvers.eigsh import eigsh
from sslspec_fast.solvers.result import ConvergenceWarning, EigInfo, EigResult

__all__ = ["ConvergenceWarning", "EigInfo", "EigResult", "eigsh"]
