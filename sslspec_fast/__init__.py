"""Fused self-supervised losses and their closed-form spectral optima, on any pairwise graph."""

import torch  # noqa: F401  imported first: the compiled core shares torch's OpenMP runtime

__version__ = "0.1.0"
