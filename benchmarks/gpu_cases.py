"""Cases for a GPU: fp32 leaves, bf16 arithmetic, against compiled torch under autocast and peers.

``fused`` casts its inputs to bf16 and accumulates in fp32; ``fused fp32`` takes them as they are;
``fused graphed`` is ``fused`` in CUDA graphs.
``amp`` is the eager form under bf16 autocast and gets torch.compile too (the strongest plain form).
Cases come in the order of what matters most, since the check stops when its time is over.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.bench import cases as cpu
from sslspec_fast.bench import graph_cases
from sslspec_fast.bench import torch_peers as plain
from sslspec_fast.bench.case import Case
from sslspec_fast.bench.measure import Variant
from sslspec_fast.fused import info_nce_loss, two_views_cuda

from . import peers

SMALL_ROWS = 8192


def _half(loss: Callable[..., Tensor]) -> Variant:
    def run(*leaves: Tensor) -> Tensor:
        return loss(*(x.bfloat16() if x.dtype == torch.float32 else x for x in leaves))

    return run


def _amp(loss: Variant) -> Variant:
    def run(*leaves: Tensor) -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            return loss(*leaves)

    return run


def _memeff(case: Case) -> dict[str, Variant]:
    from memeff import MemoryEfficientCLIPLoss

    loss = MemoryEfficientCLIPLoss(temperature=0.01, normalized_inputs=True, stable=False)
    return {"memeff": _half(loss)} if case.family == "clip" else {}


def _siglip_kernel(case: Case) -> dict[str, Variant]:
    from siglip_kernel import fused_siglip_loss

    log_temperature, bias = torch.tensor(math.log(10.0)).cuda(), torch.tensor(-10.0).cuda()

    def run(a: Tensor, b: Tensor) -> Tensor:
        return fused_siglip_loss(a.bfloat16(), b.bfloat16(), log_temperature, bias)

    return {"siglip-kernel": run} if case.family == "siglip" else {}


def _inf_cl(case: Case) -> dict[str, Variant]:
    from inf_cl import cal_inf_loss

    scale = torch.tensor(100.0).cuda()

    def run(a: Tensor, b: Tensor) -> Tensor:
        a, b = a.bfloat16(), b.bfloat16()
        return (cal_inf_loss(a, b, scale=scale) + cal_inf_loss(b, a, scale=scale)) / 2

    return {"inf_cl": run} if case.family == "clip" else {}


def _library(name: str) -> peers.Add:
    """A peer of the CPU table, under bf16 autocast as the plain forms."""

    def add(case: Case) -> dict[str, Variant]:
        found = peers.PEERS[name](case)
        for loss in found.values():
            if isinstance(loss, torch.nn.Module):
                loss.cuda()  # its buffers
        return {label: _amp(loss) for label, loss in found.items()}

    return add


PEERS: dict[str, peers.Add] = {
    "memeff": _memeff,
    "siglip-kernel": _siglip_kernel,
    "inf_cl": _inf_cl,
    "lightly": _library("lightly"),
    "open_clip_torch": _library("open_clip_torch"),
}


def with_peers(case: Case) -> tuple[Case, list[str]]:
    """The case with every peer that imports, and a line for each that does not."""
    variants, missing = dict(case.variants), []
    for name, add in PEERS.items():
        try:
            variants.update(add(case))
        except Exception as error:  # an absent or broken peer must not end the check
            missing.append(f"{name}: {type(error).__name__}: {error}")
    return replace(case, variants=variants), missing


def _gpu(case: Case, ours: Callable[..., Tensor] | None = None) -> Case:
    ours = case.variants["fused"] if ours is None else ours
    variants: dict[str, Variant] = {"fused": _half(ours), "fused fp32": ours}
    if case.rows <= SMALL_ROWS:  # the host is what a small batch waits for
        variants["fused graphed"] = sf.graphed(_half(ours))
    plain_forms = [name for name in ("eager", "smart") if name in case.variants]
    for name in plain_forms:
        variants["amp" if name == "eager" else f"{name} amp"] = _amp(case.variants[name])
    compiled = tuple(name for name in variants if name.endswith("amp"))
    return replace(case, variants=variants, compiled=compiled)


def _ours(case: Case, loss: Callable[..., Tensor]) -> Case:
    """For sizes at which no form that stores the logits fits on a GPU."""
    return replace(case, variants={"fused": _half(loss)}, compiled=())


def _beside(
    case: Case, loss: Callable[..., Tensor], label: str, module: Any, threshold: str
) -> Case:
    """The way of fewer rows beside the one that many rows take from `threshold` of `module` on."""

    def run(a: Tensor, b: Tensor) -> Tensor:
        fewest = getattr(module, threshold)
        setattr(module, threshold, 1 << 62)
        try:
            return loss(a.bfloat16(), b.bfloat16())
        finally:
            setattr(module, threshold, fewest)

    return replace(case, variants={**case.variants, f"fused, {label}": run})


def all_cases() -> list[Case]:
    """The cases of the CPU table at GPU sizes."""

    def clip(a: Tensor, b: Tensor) -> Tensor:
        return F.clip(a, b, 100.0)

    def siglip(a: Tensor, b: Tensor) -> Tensor:
        return F.siglip(a, b, 10.0, -10.0)

    def info_nce(a: Tensor, b: Tensor) -> Tensor:
        return F.info_nce(a, b, temperature=0.05)

    return [
        _gpu(cpu.nt_xent(32768, 128), F.nt_xent),
        _beside(
            _gpu(cpu.clip(32768, 512), clip),
            clip,
            "own shifts",
            two_views_cuda,
            "_FEWEST_TRIED",
        ),
        _gpu(cpu.vicreg(2048, 8192), F.vicreg),
        _gpu(cpu.nt_xent(1024, 128), F.nt_xent),
        _gpu(cpu.siglip(32768, 512), siglip),
        _beside(
            _gpu(cpu.info_nce(32768, 512), info_nce),
            info_nce,
            "two visits",
            info_nce_loss,
            "_FEWEST",
        ),
        _gpu(cpu.barlow(2048, 8192), F.barlow_twins),
        _gpu(cpu.nt_xent(32768, 512), F.nt_xent),
        cpu.graph_covariance(1_000_000, 128),
        _gpu(cpu.spectral(32768, 512), F.spectral_contrastive),
        cpu.sigreg(8, 512, 512),
        _gpu(cpu.moco(1024, 256, 65_536)),
        _gpu(cpu.prototypes(4900, 256, 65_536)),
        _gpu(cpu.dino(64, 256, 65_536)),
        _gpu(cpu.swav(1024, 128, 3000)),
        _gpu(cpu.x_clr(8192, 512)),
        cpu.gist(256, 768),
        _gpu(graph_cases.graph_siglip(8192, 512)),
        _gpu(cpu.gram_anchor(8, 1024, 1024)),
        _gpu(cpu.nt_xent(8192, 128), F.nt_xent),
        _gpu(cpu.clip(4096, 512), clip),
        _gpu(cpu.vicreg(256, 8192), F.vicreg),
        _gpu(cpu.nt_xent(65536, 256), F.nt_xent),
        _gpu(cpu.vicreg(2048, 16384), F.vicreg),
        _ours(cpu.nt_xent(262144, 256), F.nt_xent),
        _ours(cpu.clip(131072, 512), clip),
    ]


# plain forms of the small shapes that the sanitizers run, besides the library's own
SMALL: dict[str, Variant] = {
    "nt_xent": F.nt_xent,
    "vicreg": F.vicreg,
    "barlow": F.barlow_twins,
    "spectral": F.spectral_contrastive,
    "clip": lambda a, b: F.clip(a, b, 100.0),
    "siglip": lambda a, b: F.siglip(a, b, 10.0, -10.0),
}
PLAIN: dict[str, Variant] = {
    "nt_xent": plain.nt_xent_eager,
    "vicreg": plain.vicreg_eager,
    "barlow": plain.barlow_eager,
    "spectral": plain.spectral_eager,
    "clip": plain.clip_eager,
    "siglip": plain.siglip_eager,
}
