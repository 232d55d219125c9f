"""Fused self-supervised losses and their closed-form spectral optima, on any pairwise graph.

The pairwise graph `PairGraph` says which samples are positives of each other. Losses
(`sslspec_fast.functional`, modules here) train an encoder on it; closed forms
(`sslspec_fast.spectral`) say what the best embedding is and how far the encoder is from it.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

import torch  # noqa: F401  imported first: the compiled core shares torch's OpenMP runtime

__version__ = "0.2.0"

from . import functional, metrics
from ._config import release_kept, set_float32_products, set_kept_limit, show_config
from .graph import PairGraph
from .losses import (
    BarlowTwinsLoss,
    CAPILoss,
    CLIPLoss,
    DCLLoss,
    DCLWLoss,
    DINOLoss,
    FalconLoss,
    GramAnchorLoss,
    GraphLoss,
    GraphSigLIPLoss,
    IBOTPatchLoss,
    IBOTPlusPlusPatchLoss,
    InfoNCELoss,
    KoLeoLoss,
    LeJEPALoss,
    MSNLoss,
    MatryoshkaLoss,
    MemoryBank,
    NegativeCosineSimilarity,
    NTXentLoss,
    PMSNLoss,
    SIGReg,
    SigLIPLoss,
    SpectralContrastiveLoss,
    SupConLoss,
    SwaVLoss,
    VICRegLoss,
)

if TYPE_CHECKING:
    from . import operators, spectral
    from .cuda_graphs import graphed
    from .grad_cache import GradCache
    from .solvers.eigsh import eigsh
    from .solvers.result import ConvergenceWarning, EigInfo, EigResult
    from .spectral.estimators import (  # noqa: F401  in __all__ where scikit-learn is installed
        BarlowTwinsEmbedding,
        SimCLREmbedding,
        VICRegEmbedding,
    )

__all__ = [
    "BarlowTwinsLoss",
    "CAPILoss",
    "CLIPLoss",
    "ConvergenceWarning",
    "DCLLoss",
    "DCLWLoss",
    "DINOLoss",
    "EigInfo",
    "EigResult",
    "FalconLoss",
    "GradCache",
    "GramAnchorLoss",
    "GraphLoss",
    "GraphSigLIPLoss",
    "IBOTPatchLoss",
    "IBOTPlusPlusPatchLoss",
    "InfoNCELoss",
    "KoLeoLoss",
    "LeJEPALoss",
    "MSNLoss",
    "MatryoshkaLoss",
    "MemoryBank",
    "NTXentLoss",
    "NegativeCosineSimilarity",
    "PMSNLoss",
    "PairGraph",
    "SIGReg",
    "SigLIPLoss",
    "SpectralContrastiveLoss",
    "SupConLoss",
    "SwaVLoss",
    "VICRegLoss",
    "eigsh",
    "functional",
    "graphed",
    "metrics",
    "operators",
    "release_kept",
    "set_float32_products",
    "set_kept_limit",
    "show_config",
    "spectral",
]

_ESTIMATORS = ("BarlowTwinsEmbedding", "SimCLREmbedding", "VICRegEmbedding")
if importlib.util.find_spec("sklearn") is not None:  # or `import *` would fail on them
    __all__ += _ESTIMATORS
_LATE = {  # name -> module that is imported on first use
    **dict.fromkeys(_ESTIMATORS, "spectral.estimators"),  # scikit-learn is an optional extra
    **dict.fromkeys(("ConvergenceWarning", "EigInfo", "EigResult", "eigsh"), "solvers"),
    "GradCache": "grad_cache",  # needs the compiler, to be left out of its graphs
    "graphed": "cuda_graphs",
    "operators": "operators",  # these and the solvers need SciPy's sparse matrices
    "spectral": "spectral",
}


def __getattr__(name: str) -> Any:
    if name not in _LATE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"{__name__}.{_LATE[name]}")
    found = module if name == _LATE[name] else getattr(module, name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
