"""The benchmark cases: inputs, operation counts, and the variants that compute the same value.

Names are ``family rows x width``; rows are all rows that the loss compares (NT-Xent 8192 x 128 is
4,096 pairs). ``flops`` counts what the fused algorithm does in forward + backward (docs/numerics.md
names the algorithms), so GFLOP/s compares kernels with a bare GEMM and favours no form.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F

from . import torch_peers as peers
from .case import Case, pair_inputs
from .graph_cases import graph_covariance, graph_siglip, per_positive
from .measure import Variant


def nt_xent(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Case:
    return Case(
        "nt_xent",
        rows,
        width,
        4.0 * rows**2 * width,
        pair_inputs(rows // 2, width),
        {"fused": F.nt_xent, "eager": peers.nt_xent_eager},
        dtype=dtype,
    )


def matryoshka(rows: int, width: int) -> Case:
    """NT-Xent on the prefixes width / 8, / 4, / 2 and width: one pass over the columns for all."""
    dims = (width // 8, width // 4, width // 2, width)
    return Case(
        "matryoshka",
        rows,
        width,
        4.0 * rows**2 * width,
        pair_inputs(rows // 2, width),
        {
            "fused": lambda a, b: F.matryoshka("nt_xent", a, b, dims=dims),
            "eager": lambda a, b: peers.matryoshka_eager(a, b, dims),
        },
    )


def clip(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Case:
    variants: dict[str, Variant] = {
        "fused": lambda a, b: F.clip(a, b, 100.0),
        "eager": peers.clip_eager,
    }
    if hasattr(nnf, "linear_cross_entropy") and dtype == torch.float32:
        variants["chunked CE"] = peers.clip_chunked
    inputs = pair_inputs(rows, width, unit=True)
    return Case("clip", rows, width, 8.0 * rows**2 * width, inputs, variants, dtype=dtype)


def info_nce(rows: int, width: int) -> Case:
    variants: dict[str, Variant] = {
        "fused": lambda a, b: F.info_nce(a, b, temperature=0.05),
        "eager": peers.info_nce_eager,
    }
    if hasattr(nnf, "linear_cross_entropy"):
        variants["chunked CE"] = peers.info_nce_chunked
    return Case("info_nce", rows, width, 6.0 * rows**2 * width, pair_inputs(rows, width), variants)


def gist(rows: int, width: int) -> Case:
    """InfoNCE over all pairs of a batch without those that a guide of half the width leaves out."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        by = tuple(x.detach() for x in pair_inputs(rows, width // 2)(device, dtype))
        return (*pair_inputs(rows, width)(device, dtype), *by)

    def fused(query: Tensor, key: Tensor, by_query: Tensor, by_key: Tensor) -> Tensor:
        loss: Tensor = F.info_nce(
            query,
            key,
            temperature=0.05,
            directions=("query_to_key", "query_to_query", "key_to_key"),
            guide=(by_query, by_key),
        )
        return loss

    return Case(
        "gist",
        rows,
        width,
        3 * 10.0 * rows**2 * width,
        inputs,
        {"fused": fused, "eager": peers.gist_eager, "smart": peers.gist_smart},
        compiled=("smart",),
    )


def moco(rows: int, width: int, size: int) -> Case:
    """MoCo against a queue of `size` rows; only the queries require a gradient."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows)
        query, key, queue = (
            nnf.normalize(torch.randn(n, width, generator=generator), dim=1).to(device, dtype)
            for n in (rows, rows, size)
        )
        return query.requires_grad_(), key, queue

    return Case(
        "moco",
        rows,
        width,
        4.0 * rows * size * width,
        inputs,
        {"fused": F.moco, "eager": peers.moco_eager},
    )


def prototypes(rows: int, width: int, size: int) -> Case:
    """Soft cross-entropy of `rows` patches with their teachers over `size` prototypes."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows)
        student, own, teacher, other = (
            torch.randn(n, width, generator=generator).to(device, dtype)
            for n in (rows, size, rows, size)
        )
        center = 0.01 * torch.randn(size, generator=generator).to(device, dtype)
        return student.requires_grad_(), own.requires_grad_(), teacher, other, center

    def fused(student: Tensor, own: Tensor, teacher: Tensor, other: Tensor, c: Tensor) -> Tensor:
        bias = F.center_bias(c, 0.04)
        loss: Tensor = F.prototype_cross_entropy(student, teacher, own, other, bias=bias)
        return loss

    return Case(
        "prototypes",
        rows,
        width,
        8.0 * rows * size * width,
        inputs,
        {"fused": fused, "eager": peers.prototypes_eager},
    )


def dino(images: int, width: int, size: int, crops: int = 10) -> Case:
    """DINO of `crops` views by the student, two of them by the teacher, over `size` prototypes."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(images)
        student, teacher, own, other = (
            torch.randn(*shape, width, generator=generator).to(device, dtype)
            for shape in ((crops, images), (2, images), (size,), (size,))
        )
        center = 0.01 * torch.randn(size, generator=generator).to(device, dtype)
        return student.requires_grad_(), own.requires_grad_(), teacher, other, center

    def fused(student: Tensor, own: Tensor, teacher: Tensor, other: Tensor, c: Tensor) -> Tensor:
        loss: Tensor = F.dino(student, teacher, own, other, center=c)
        return loss

    return Case(
        "dino",
        crops * images,
        width,
        2.0 * (3 * crops + 2) * images * size * width,
        inputs,
        {"fused": fused, "eager": peers.dino_eager},
    )


def swav(samples: int, width: int, size: int, small: int = 6) -> Case:
    """SwAV of two large and `small` small crops over `size` prototypes."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(samples)
        high, low, own = (
            torch.randn(*shape, width, generator=generator).to(device, dtype)
            for shape in ((2, samples), (small, samples), (size,))
        )
        return high.requires_grad_(), own.requires_grad_(), low.requires_grad_()

    def fused(high: Tensor, own: Tensor, low: Tensor) -> Tensor:
        loss: Tensor = F.swav(high, low, own)
        return loss

    return Case(
        "swav",
        (2 + small) * samples,
        width,
        6.0 * (2 + small) * samples * size * width,
        inputs,
        {"fused": fused, "eager": peers.swav_eager},
    )


def x_clr(rows: int, width: int) -> Case:
    """X-CLR of rows with targets of the same width."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows)
        z, targets = torch.randn(2, rows, width, generator=generator).to(device, dtype)
        return z.requires_grad_(), targets

    return Case(
        "x_clr",
        rows,
        width,
        6.0 * rows**2 * width,
        inputs,
        {"fused": F.x_clr, "eager": peers.x_clr_eager},
    )


def siglip(rows: int, width: int) -> Case:
    return Case(
        "siglip",
        rows,
        width,
        6.0 * rows**2 * width,
        pair_inputs(rows, width, unit=True),
        {"fused": lambda a, b: F.siglip(a, b, 10.0, -10.0), "eager": peers.siglip_eager},
    )


def vicreg(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Case:
    return Case(
        "vicreg",
        rows,
        width,
        6.0 * rows * width * min(rows, width),
        pair_inputs(rows, width),
        {"fused": F.vicreg, "eager": peers.vicreg_eager, "smart": peers.vicreg_smart},
        compiled=("eager", "smart"),
        dtype=dtype,
    )


def barlow(rows: int, width: int, dtype: torch.dtype = torch.float32) -> Case:
    return Case(
        "barlow",
        rows,
        width,
        6.0 * rows * width * min(rows, width),
        pair_inputs(rows, width),
        {"fused": F.barlow_twins, "eager": peers.barlow_eager, "smart": peers.barlow_smart},
        compiled=("eager", "smart"),
        dtype=dtype,
    )


def spectral(rows: int, width: int) -> Case:
    return Case(
        "spectral",
        rows,
        width,
        6.0 * rows * width**2,
        pair_inputs(rows, width),
        {
            "fused": F.spectral_contrastive,
            "eager": peers.spectral_eager,
            "smart": peers.spectral_smart,
        },
        compiled=("eager", "smart"),
    )


def sigreg(views: int, rows: int, width: int, slices: int = 1024) -> Case:
    """SIGReg of `views` views of `rows` rows, along the same directions in all variants but
    "exact", which takes the mean over all directions instead.
    """
    stored: dict[tuple[str, torch.dtype], Tensor] = {}

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(rows)
        a = torch.randn(width, slices, generator=generator, dtype=torch.float64)
        stored[device, dtype] = (a / a.norm(dim=0)).to(device, dtype)
        z = torch.randn(views, rows, width, generator=generator)
        return (z.to(device, dtype).requires_grad_(),)

    def directions(z: Tensor) -> Tensor:
        return stored[z.device.type, z.dtype]

    return Case(
        "sigreg",
        views * rows,
        width,
        6.0 * views * rows * slices * width,
        inputs,
        {
            "fused": lambda z: F.sigreg(z, directions=directions(z)),
            "eager": lambda z: peers.sigreg_eager(z, directions(z)),
            "exact": lambda z: F.sigreg(z, slices=None),
        },
    )


def gram_anchor(images: int, patches: int, width: int) -> Case:
    """Gram anchoring of `images` images of `patches` patches to a teacher of the same width."""

    def inputs(device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
        generator = torch.Generator().manual_seed(patches)
        student, teacher = (
            torch.randn(images, patches, width, generator=generator).to(device, dtype)
            for _ in range(2)
        )
        return student.requires_grad_(), teacher

    return Case(
        "gram_anchor",
        images * patches,
        width,
        6.0 * images * patches**2 * width,
        inputs,
        {"fused": F.gram_anchor, "eager": peers.gram_anchor_eager},
    )


def all_cases() -> list[Case]:
    """The full table, in the order in which it is printed."""
    half = torch.bfloat16
    return [
        *(nt_xent(rows, 128) for rows in (256, 1024, 2048, 4096, 8192)),
        nt_xent(8192, 512),
        nt_xent(8192, 128, half),
        matryoshka(8192, 512),
        clip(4096, 512),
        clip(4096, 512, half),
        info_nce(4096, 512),
        siglip(4096, 512),
        *(vicreg(256, width) for width in (2048, 4096, 8192)),
        vicreg(1024, 4096),
        vicreg(256, 8192, half),
        barlow(256, 8192),
        barlow(1024, 4096),
        spectral(8192, 128),
        gist(256, 768),
        moco(256, 128, 65_536),
        prototypes(512, 256, 65_536),
        dino(32, 256, 65_536),
        x_clr(4096, 512),
        sigreg(8, 256, 128),
        sigreg(1, 2048, 128),
        sigreg(8, 256, 512),
        graph_siglip(4096, 512),
        per_positive(256, 128),
        gram_anchor(8, 784, 1024),
        graph_covariance(300_000, 128),
        graph_covariance(1_000_000, 128),
    ]


def smoke_cases() -> list[Case]:
    """The same families at sizes that take seconds, to see that everything runs."""
    return [
        nt_xent(128, 32),
        nt_xent(256, 32),
        matryoshka(128, 32),
        clip(128, 32),
        info_nce(64, 32),
        siglip(64, 32),
        vicreg(64, 128),
        barlow(64, 128),
        spectral(128, 16),
        gist(32, 16),
        moco(32, 16, 100),
        prototypes(32, 16, 100),
        dino(8, 16, 100),
        x_clr(64, 32),
        sigreg(2, 32, 16, 48),
        graph_siglip(64, 32),
        per_positive(32, 16),
        gram_anchor(2, 40, 16),
        graph_covariance(2_000, 16),
    ]


def find(name: str, cases: list[Case]) -> Case:
    """The case of that name; ValueError lists what there is."""
    for case in cases:
        if case.name == name:
            return case
    raise ValueError(f"bench: no case {name!r}; there are {[case.name for case in cases]}")
