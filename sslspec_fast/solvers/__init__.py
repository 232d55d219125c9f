"""Symmetric eigensolvers that measure how far their results can be trusted."""

from .eigsh import eigsh
from .result import ConvergenceWarning, EigInfo, EigResult

__all__ = ["ConvergenceWarning", "EigInfo", "EigResult", "eigsh"]
