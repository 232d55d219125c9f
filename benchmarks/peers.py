"""Other libraries' forms of our losses, by name; those that are not installed are left out.

Importing lightly or open_clip needs torchvision, their losses do not. So lightly is imported with
stand-ins where torchvision is missing, and of open_clip only ``loss.py`` is loaded, by its path.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from unittest import mock

import torch
from torch import Tensor

from sslspec_fast.bench import cases
from sslspec_fast.bench.case import Case
from sslspec_fast.bench.measure import Variant

Add = Callable[[Case], dict[str, Variant]]


@functools.cache
def _lightly_losses() -> ModuleType:
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("lightly.loss")
    parts = ("", ".ops", ".models", ".models.vision_transformer", ".transforms")
    with mock.patch.dict(sys.modules, {f"torchvision{part}": mock.MagicMock() for part in parts}):
        return importlib.import_module("lightly.loss")


def _lightly(case: Case) -> dict[str, Variant]:
    loss = _lightly_losses()
    losses = {
        "nt_xent": lambda: loss.NTXentLoss(temperature=0.5),
        "vicreg": loss.VICRegLoss,
        "barlow": lambda: loss.BarlowTwinsLoss(lambda_param=5e-3),
    }
    if case.family == "sigreg" and hasattr(loss, "lejepa_loss"):
        return {"lightly": loss.lejepa_loss.SIGReg()}  # draws its 1024 directions
    return {"lightly": losses[case.family]()} if case.family in losses else {}


def _metric_learning(case: Case) -> dict[str, Variant]:
    from pytorch_metric_learning import losses

    # Its NTXentLoss compares every positive with every negative, O(N^3): small batches only.
    if case.family == "nt_xent" and case.rows <= 256:
        loss = losses.SelfSupervisedLoss(losses.NTXentLoss(temperature=0.5))
        return {"PML": loss}
    if case.family == "vicreg":
        loss = losses.VICRegLoss()
        return {"PML": lambda a, b: loss(a, ref_emb=b)}
    return {}


def _open_clip(case: Case) -> dict[str, Variant]:
    module = _open_clip_losses()
    if case.family == "clip":
        clip = module.ClipLoss()
        return {"open_clip": lambda a, b: clip(a, b, torch.tensor(100.0))}
    if case.family == "siglip":
        siglip = module.SigLipLoss()
        scale, bias = torch.tensor(10.0), torch.tensor(-10.0)
        return {"open_clip": lambda a, b: siglip(a, b, scale, bias)}
    return {}


def _open_clip_losses() -> ModuleType:
    name = "_benchmarks_open_clip_loss"
    if name not in sys.modules:
        package = importlib.util.find_spec("open_clip")
        if package is None or package.origin is None:
            raise ImportError("open_clip is not installed")
        spec = importlib.util.spec_from_file_location(name, Path(package.origin).parent / "loss.py")
        if spec is None or spec.loader is None:
            raise ImportError("this open_clip has no loss.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def over_ranks(rank: int, size: int) -> dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]]:
    """Losses of lightly and open_clip over all processes, by the names of `benchmarks.distributed`:
    the peer's name, and what its class computes of the rows of a rank.
    """
    found: dict[str, tuple[str, Callable[[Tensor, Tensor], Tensor]]] = {}
    if _installed("lightly"):
        loss = _lightly_losses()
        found["nt_xent"] = "lightly", loss.NTXentLoss(0.2, gather_distributed=True)
        found["dcl"] = "lightly", loss.DCLLoss(gather_distributed=True)
        found["vicreg"] = "lightly", loss.VICRegLoss(gather_distributed=True)
        found["barlow_twins"] = "lightly", loss.BarlowTwinsLoss(gather_distributed=True)
        if hasattr(loss, "lejepa_loss"):
            sigreg = loss.lejepa_loss.SIGReg(num_vectors=256, gather_distributed=True)
            found["sigreg"] = "lightly", lambda a, b: sigreg(torch.stack([a, b]))
    if _installed("open_clip_torch"):
        module = _open_clip_losses()
        place = {"rank": rank, "world_size": size}
        clip = module.ClipLoss(local_loss=True, gather_with_grad=True, **place)
        siglip = module.SigLipLoss(dist_impl="bidir", **place)
        found["clip"] = "open_clip", lambda a, b: clip(_unit(a), _unit(b), 20.0)
        found["siglip"] = "open_clip", lambda a, b: siglip(_unit(a), _unit(b), 10.0, -10.0)
    return found


def _unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)


def _own_reference(case: Case) -> dict[str, Variant]:
    """The package's own ``impl="torch"``: the plain reference that users can ask for."""
    import sslspec_fast.functional as F

    def reference(loss: Callable[..., Tensor], *extra: float) -> Variant:
        return lambda a, b: loss(a, b, *extra, impl="torch")

    losses = {
        "nt_xent": reference(F.nt_xent),
        "clip": reference(F.clip, 100.0),
        "siglip": reference(F.siglip, 10.0, -10.0),
        "info_nce": reference(F.info_nce),
        "vicreg": reference(F.vicreg),
        "barlow": reference(F.barlow_twins),
        "spectral": reference(F.spectral_contrastive),
    }
    return {"impl=torch": losses[case.family]} if case.family in losses else {}


PEERS: dict[str, Add] = {
    "lightly": _lightly,
    "pytorch-metric-learning": _metric_learning,
    "open_clip_torch": _open_clip,
    "sslspec-fast": _own_reference,
}


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def describe() -> str:
    """One line that names the peers with their versions, and those that are missing."""
    versions = {name: _installed(name) for name in PEERS if name != "sslspec-fast"}
    have = [f"{name} {version}" for name, version in versions.items() if version]
    lack = [name for name, version in versions.items() if not version]
    line = "peers: " + (", ".join(have) or "none installed")
    return line + (f"; not installed: {', '.join(lack)}" if lack else "")


def _extend(case: Case) -> Case:
    variants = dict(case.variants)
    for name, add in PEERS.items():
        if name == "sslspec-fast" or _installed(name):
            variants.update(add(case))
    return replace(case, variants=variants)


def all_cases() -> list[Case]:
    """The package's cases with the peers added."""
    return [_extend(case) for case in cases.all_cases()]


def smoke_cases() -> list[Case]:
    return [_extend(case) for case in cases.smoke_cases()]
