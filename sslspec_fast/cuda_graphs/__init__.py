"""Losses whose kernels a GPU starts as one CUDA graph."""

from .loss import GraphedLoss, graphed

__all__ = ["GraphedLoss", "graphed"]
