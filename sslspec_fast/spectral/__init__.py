"""Closed-form optima of the joint-embedding losses, and what to do with them."""

import importlib
from typing import Any

from ._eigen import SpectrumInfo
from .barlow_twins import barlow_twins
from .closed_form import ClosedForm
from .downstream import alignment, downstream_error
from .gap import Gap, optimality_gap
from .infonce import entropy_bound, info_nce
from .koleo import koleo
from .lejepa import lejepa, population_sigreg
from .partition import PartitionBound, partition_bound
from .simclr import simclr, spectral_contrastive
from .vicreg import vicreg
from .x_clr import x_clr

__all__ = [
    "ClosedForm",
    "Gap",
    "PartitionBound",
    "SpectrumInfo",
    "alignment",
    "barlow_twins",
    "downstream_error",
    "entropy_bound",
    "info_nce",
    "koleo",
    "lejepa",
    "optimality_gap",
    "partition_bound",
    "population_sigreg",
    "simclr",
    "spectral_contrastive",
    "vicreg",
    "x_clr",
]


def __getattr__(name: str) -> Any:
    """The estimators are imported on first use: scikit-learn is an optional extra."""
    if name.endswith("Embedding"):
        return getattr(importlib.import_module("sslspec_fast.spectral.estimators"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
