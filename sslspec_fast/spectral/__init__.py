"""Closed-form optima of the joint-embedding losses, and what to do with them."""

import importlib
from typing import Any

from ._eigen import SpectrumInfo
from .barlow_twins import barlow_twins
from .closed_form import ClosedForm
from .downstream import alignment, downstream_error
from .gap import Gap, optimality_gap
from .infonce import entropy_bound, info_nce
from .lejepa import lejepa
from .simclr import simclr, spectral_contrastive
from .vicreg import vicreg

__all__ = [
    "ClosedForm",
    "Gap",
    "SpectrumInfo",
    "alignment",
    "barlow_twins",
    "downstream_error",
    "entropy_bound",
    "info_nce",
    "lejepa",
    "optimality_gap",
    "simclr",
    "spectral_contrastive",
    "vicreg",
]


def __getattr__(name: str) -> Any:
    """The estimators are imported on first use: scikit-learn is an optional extra."""
    if name.endswith("Embedding"):
        return getattr(importlib.import_module("sslspec_fast.spectral.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
