"""Symmetric eigensolvers that say how far their answer can be trusted."""

from .eigsh import eigsh
from .result import ConvergenceWarning, EigInfo, EigResult

__all__ = ["ConvergenceWarning", "EigInfo", "EigResult", "eigsh"]
