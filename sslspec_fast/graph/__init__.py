"""Pairwise relations between samples."""

from .pair_graph import PairGraph

__all__ = ["PairGraph"]
