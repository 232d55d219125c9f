"""The types of the functions in functional.py: what `return_terms` returns, and every choice.

Kept by hand; a test compares the parameters with those of the functions. Overloads stand here, so
that a signature is written once beside its loss.
"""

from collections.abc import Sequence
from typing import Any, Literal, overload

from torch import Tensor
from typing_extensions import Unpack

from .graph.pair_graph import PairGraph
from .losses import _options as kw
from .losses._views import Views

__all__: list[str]
WithTerms = tuple[Tensor, dict[str, Tensor]]

@overload
def barlow_twins(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.BarlowTwins]
) -> WithTerms: ...
@overload
def barlow_twins(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.BarlowTwins]
) -> Tensor: ...
@overload
def barlow_twins(
    z1: Tensor, z2: Tensor, *, return_terms: bool, **options: Unpack[kw.BarlowTwins]
) -> Tensor | WithTerms: ...
@overload
def clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Clip],
) -> WithTerms: ...
@overload
def clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Clip],
) -> Tensor: ...
@overload
def clip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    *,
    return_terms: bool,
    **options: Unpack[kw.Clip],
) -> Tensor | WithTerms: ...
@overload
def dcl(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.Dcl]
) -> WithTerms: ...
@overload
def dcl(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.Dcl]
) -> Tensor: ...
@overload
def dcl(
    z1: Tensor, z2: Tensor, *, return_terms: bool, **options: Unpack[kw.Dcl]
) -> Tensor | WithTerms: ...
def dirichlet_energy(z: Tensor, graph: PairGraph, **options: Unpack[kw.Options]) -> Tensor: ...
@overload
def falcon(
    h1: Tensor, h2: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.Falcon]
) -> WithTerms: ...
@overload
def falcon(
    h1: Tensor, h2: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.Falcon]
) -> Tensor: ...
@overload
def falcon(
    h1: Tensor, h2: Tensor, *, return_terms: bool, **options: Unpack[kw.Falcon]
) -> Tensor | WithTerms: ...
def gram_anchor(student: Tensor, teacher: Tensor, **options: Unpack[kw.GramAnchor]) -> Tensor: ...
@overload
def graph_barlow_twins(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.GraphBarlowTwins],
) -> WithTerms: ...
@overload
def graph_barlow_twins(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.GraphBarlowTwins],
) -> Tensor: ...
@overload
def graph_barlow_twins(
    z: Tensor, graph: PairGraph, *, return_terms: bool, **options: Unpack[kw.GraphBarlowTwins]
) -> Tensor | WithTerms: ...
def graph_covariance(
    z: Tensor, graph: PairGraph, **options: Unpack[kw.GraphCovariance]
) -> Tensor: ...
@overload
def graph_info_nce(
    z: Tensor, graph: PairGraph, *, return_terms: Literal[True], **options: Unpack[kw.GraphInfoNce]
) -> WithTerms: ...
@overload
def graph_info_nce(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.GraphInfoNce],
) -> Tensor: ...
@overload
def graph_info_nce(
    z: Tensor, graph: PairGraph, *, return_terms: bool, **options: Unpack[kw.GraphInfoNce]
) -> Tensor | WithTerms: ...
@overload
def graph_siglip(
    image: Tensor,
    text: Tensor,
    graph: PairGraph,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Rows],
) -> WithTerms: ...
@overload
def graph_siglip(
    image: Tensor,
    text: Tensor,
    graph: PairGraph,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Rows],
) -> Tensor: ...
@overload
def graph_siglip(
    image: Tensor,
    text: Tensor,
    graph: PairGraph,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: bool,
    **options: Unpack[kw.Rows],
) -> Tensor | WithTerms: ...
@overload
def graph_spectral_contrastive(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.GraphSpectralContrastive],
) -> WithTerms: ...
@overload
def graph_spectral_contrastive(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.GraphSpectralContrastive],
) -> Tensor: ...
@overload
def graph_spectral_contrastive(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: bool,
    **options: Unpack[kw.GraphSpectralContrastive],
) -> Tensor | WithTerms: ...
@overload
def graph_vicreg(
    z: Tensor, graph: PairGraph, *, return_terms: Literal[True], **options: Unpack[kw.GraphVicreg]
) -> WithTerms: ...
@overload
def graph_vicreg(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.GraphVicreg],
) -> Tensor: ...
@overload
def graph_vicreg(
    z: Tensor, graph: PairGraph, *, return_terms: bool, **options: Unpack[kw.GraphVicreg]
) -> Tensor | WithTerms: ...
@overload
def info_nce(
    query: Tensor, key: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.InfoNce]
) -> WithTerms: ...
@overload
def info_nce(
    query: Tensor, key: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.InfoNce]
) -> Tensor: ...
@overload
def info_nce(
    query: Tensor, key: Tensor, *, return_terms: bool, **options: Unpack[kw.InfoNce]
) -> Tensor | WithTerms: ...
def koleo(z: Tensor, **options: Unpack[kw.Koleo]) -> Tensor: ...
@overload
def lejepa(
    global_views: Views,
    local_views: Views | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Lejepa],
) -> WithTerms: ...
@overload
def lejepa(
    global_views: Views,
    local_views: Views | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Lejepa],
) -> Tensor: ...
@overload
def lejepa(
    global_views: Views,
    local_views: Views | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.Lejepa],
) -> Tensor | WithTerms: ...
@overload
def ls_simclr(
    z: Tensor, graph: PairGraph, *, return_terms: Literal[True], **options: Unpack[kw.LsSimclr]
) -> WithTerms: ...
@overload
def ls_simclr(
    z: Tensor,
    graph: PairGraph,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.LsSimclr],
) -> Tensor: ...
@overload
def ls_simclr(
    z: Tensor, graph: PairGraph, *, return_terms: bool, **options: Unpack[kw.LsSimclr]
) -> Tensor | WithTerms: ...
@overload
def matryoshka(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    *,
    dims: Sequence[int],
    weights: Sequence[float] | None = ...,
    return_terms: Literal[True],
    **hyper: Any,
) -> WithTerms: ...
@overload
def matryoshka(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    *,
    dims: Sequence[int],
    weights: Sequence[float] | None = ...,
    return_terms: Literal[False] = ...,
    **hyper: Any,
) -> Tensor: ...
@overload
def matryoshka(
    loss: str,
    z1: Tensor,
    z2: Tensor,
    *,
    dims: Sequence[int],
    weights: Sequence[float] | None = ...,
    return_terms: bool,
    **hyper: Any,
) -> Tensor | WithTerms: ...
@overload
def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Moco],
) -> WithTerms: ...
@overload
def moco(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Moco],
) -> Tensor: ...
@overload
def moco(
    query: Tensor, key: Tensor, queue: Tensor, *, return_terms: bool, **options: Unpack[kw.Moco]
) -> Tensor | WithTerms: ...
def negative_cosine(p: Tensor, z: Tensor, **options: Unpack[kw.NegativeCosine]) -> Tensor: ...
def negative_mises_fisher_weights(u1: Tensor, u2: Tensor, sigma: float = ...) -> Tensor: ...
@overload
def nt_xent(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.NtXent]
) -> WithTerms: ...
@overload
def nt_xent(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.NtXent]
) -> Tensor: ...
@overload
def nt_xent(
    z1: Tensor, z2: Tensor, *, return_terms: bool, **options: Unpack[kw.NtXent]
) -> Tensor | WithTerms: ...
@overload
def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Rows],
) -> WithTerms: ...
@overload
def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Rows],
) -> Tensor: ...
@overload
def siglip(
    image: Tensor,
    text: Tensor,
    logit_scale: float | Tensor,
    logit_bias: float | Tensor,
    *,
    return_terms: bool,
    **options: Unpack[kw.Rows],
) -> Tensor | WithTerms: ...
def sigreg(z: Tensor, **options: Unpack[kw.Sigreg]) -> Tensor: ...
@overload
def spectral_contrastive(
    z1: Tensor,
    z2: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.SpectralContrastive],
) -> WithTerms: ...
@overload
def spectral_contrastive(
    z1: Tensor,
    z2: Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.SpectralContrastive],
) -> Tensor: ...
@overload
def spectral_contrastive(
    z1: Tensor, z2: Tensor, *, return_terms: bool, **options: Unpack[kw.SpectralContrastive]
) -> Tensor | WithTerms: ...
@overload
def sup_con(
    z: Tensor, labels: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.SupCon]
) -> WithTerms: ...
@overload
def sup_con(
    z: Tensor, labels: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.SupCon]
) -> Tensor: ...
@overload
def sup_con(
    z: Tensor, labels: Tensor, *, return_terms: bool, **options: Unpack[kw.SupCon]
) -> Tensor | WithTerms: ...
@overload
def vicreg(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.Vicreg]
) -> WithTerms: ...
@overload
def vicreg(
    z1: Tensor, z2: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.Vicreg]
) -> Tensor: ...
@overload
def vicreg(
    z1: Tensor, z2: Tensor, *, return_terms: bool, **options: Unpack[kw.Vicreg]
) -> Tensor | WithTerms: ...
@overload
def dino(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Dino],
) -> WithTerms: ...
@overload
def dino(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Dino],
) -> Tensor: ...
@overload
def dino(
    student_views: Views,
    teacher_views: Views,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.Dino],
) -> Tensor | WithTerms: ...
@overload
def ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Ibot],
) -> WithTerms: ...
@overload
def ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Ibot],
) -> Tensor: ...
@overload
def ibot(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.Ibot],
) -> Tensor | WithTerms: ...
@overload
def swav(
    high_views: Views,
    low_views: Views | None = ...,
    prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Swav],
) -> WithTerms: ...
@overload
def swav(
    high_views: Views,
    low_views: Views | None = ...,
    prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Swav],
) -> Tensor: ...
@overload
def swav(
    high_views: Views,
    low_views: Views | None = ...,
    prototypes: Tensor | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.Swav],
) -> Tensor | WithTerms: ...
@overload
def capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Capi],
) -> WithTerms: ...
@overload
def capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Capi],
) -> Tensor: ...
@overload
def capi(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None = ...,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.Capi],
) -> Tensor | WithTerms: ...
@overload
def msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Msn],
) -> WithTerms: ...
@overload
def msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Msn],
) -> Tensor: ...
@overload
def msn(
    anchors: Tensor,
    targets: Tensor,
    prototypes: Tensor,
    *,
    return_terms: bool,
    **options: Unpack[kw.Msn],
) -> Tensor | WithTerms: ...
@overload
def ressl(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.Ressl],
) -> WithTerms: ...
@overload
def ressl(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.Ressl],
) -> Tensor: ...
@overload
def ressl(
    query: Tensor, key: Tensor, queue: Tensor, *, return_terms: bool, **options: Unpack[kw.Ressl]
) -> Tensor | WithTerms: ...
@overload
def x_clr(
    z: Tensor, targets: Tensor, *, return_terms: Literal[True], **options: Unpack[kw.XClr]
) -> WithTerms: ...
@overload
def x_clr(
    z: Tensor, targets: Tensor, *, return_terms: Literal[False] = ..., **options: Unpack[kw.XClr]
) -> Tensor: ...
@overload
def x_clr(
    z: Tensor, targets: Tensor, *, return_terms: bool, **options: Unpack[kw.XClr]
) -> Tensor | WithTerms: ...
@overload
def proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Any,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.ProtoNce],
) -> WithTerms: ...
@overload
def proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Any,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.ProtoNce],
) -> Tensor: ...
@overload
def proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Any,
    *,
    return_terms: bool,
    **options: Unpack[kw.ProtoNce],
) -> Tensor | WithTerms: ...
@overload
def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[True],
    **options: Unpack[kw.PrototypeCrossEntropy],
) -> WithTerms: ...
@overload
def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: Literal[False] = ...,
    **options: Unpack[kw.PrototypeCrossEntropy],
) -> Tensor: ...
@overload
def prototype_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None = ...,
    *,
    return_terms: bool,
    **options: Unpack[kw.PrototypeCrossEntropy],
) -> Tensor | WithTerms: ...
def concentration(
    z: Tensor, prototypes: Tensor, assignment: Any, *, temperature: float = ...
) -> Tensor: ...
def center_bias(center: Tensor, temperature: float) -> Tensor: ...
def sinkhorn_bias(
    rows: Tensor,
    prototypes: Tensor | None = ...,
    *,
    temperature: float = ...,
    iterations: int = ...,
    start: str = ...,
    normalize: bool = ...,
    sample_weight: Tensor | None = ...,
    impl: kw.Implementation = ...,
    group: Any = ...,
) -> Tensor: ...
def column_mean(
    rows: Tensor,
    prototypes: Tensor | None = ...,
    *,
    normalize: bool = ...,
    sample_weight: Tensor | None = ...,
    impl: kw.Implementation = ...,
    group: Any = ...,
) -> Tensor: ...
