"""Fused self-supervised losses and their closed-form spectral optima, on any pairwise graph.

The pairwise graph `PairGraph` says which samples are positives of each other. Losses
(`sslspec_fast.functional`, modules here) train an encoder on it; closed forms
(`sslspec_fast.spectral`) say what the best embedding is and how far the encoder is from it.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  imported first: the compiled core shares torch's OpenMP runtime

__version__ = "0.1.0"

from . import functional, metrics, operators, spectral
from ._config import show_config
from .grad_cache import GradCache
from .graph import PairGraph
from .losses import (
    BarlowTwinsLoss,
    CLIPLoss,
    DCLLoss,
    DCLWLoss,
    FalconLoss,
    GraphLoss,
    InfoNCELoss,
    KoLeoLoss,
    LeJEPALoss,
    MatryoshkaLoss,
    MemoryBank,
    NegativeCosineSimilarity,
    NTXentLoss,
    SIGReg,
    SigLIPLoss,
    SpectralContrastiveLoss,
    SupConLoss,
    VICRegLoss,
)
from .solvers import ConvergenceWarning, EigInfo, EigResult, eigsh
from .spectral import _ESTIMATORS

if TYPE_CHECKING:
    from .spectral.estimators import BarlowTwinsEmbedding, SimCLREmbedding, VICRegEmbedding

__all__ = [
    "BarlowTwinsLoss",
    "CLIPLoss",
    "ConvergenceWarning",
    "DCLLoss",
    "DCLWLoss",
    "EigInfo",
    "EigResult",
    "FalconLoss",
    "GradCache",
    "GraphLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LeJEPALoss",
    "MatryoshkaLoss",
    "MemoryBank",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "PairGraph",
    "SIGReg",
    "SigLIPLoss",
    "SpectralContrastiveLoss",
    "SupConLoss",
    "VICRegLoss",
    "eigsh",
    "functional",
    "metrics",
    "operators",
    "show_config",
    "spectral",
]

if importlib.util.find_spec("sklearn") is not None:  # or `import *` would fail on them
    __all__ += ["BarlowTwinsEmbedding", "SimCLREmbedding", "VICRegEmbedding"]


def __getattr__(name: str) -> Any:
    """The estimators are imported on first use: scikit-learn is an optional extra."""
    if name in _ESTIMATORS:
        return getattr(importlib.import_module("sslspec_fast.spectral.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
