"""The options of each loss as types, for the overloads in functional.pyi."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypedDict

from torch import Tensor

from ._nested import Nested
from ._normality import Kernel
from ._views import Views
from .dcl import WeightFn

Reduction = Literal["mean", "sum", "none"]
Implementation = Literal["fused", "torch"]
Negatives = Literal["others", "non_positive", "per_positive"]
Direction = Literal["query_to_key", "query_to_query", "key_to_key", "key_to_query"]
Penalty = Literal["hinge_std", "hinge_var", "ls_std", "ls_var"]
Measure = Literal["uniform", "degree"]


class Options(TypedDict, total=False):
    """Of every loss."""

    impl: Implementation
    group: Any


class Rows(Options, total=False):
    """Of a loss that is a mean or a sum over rows."""

    reduction: Reduction
    sample_weight: Tensor | None


class BarlowTwins(Options, total=False):
    off_diagonal: float
    eps: float


class Clip(Rows, total=False):
    logit_bias: float | Tensor | None
    label_smoothing: float
    tau_plus: float


class Dcl(Rows, total=False):
    temperature: float | Tensor
    weight_fn: WeightFn | None


class Falcon(Options, total=False):
    codes: Tensor | None
    n_codes: int | None
    beta: float
    eps: float
    seed: int


class GramAnchor(Options, total=False):
    clamp: bool
    reduction: Reduction


class GraphBarlowTwins(Options, total=False):
    off_diagonal: float
    center: bool
    eps: float


class GraphCovariance(Options, total=False):
    center: bool


class GraphInfoNce(Rows, total=False):
    temperature: float | Tensor
    normalize: bool
    negatives: Negatives
    ids: Tensor | None
    label_smoothing: float
    tau_plus: float


class GraphSpectralContrastive(Options, total=False):
    nested: Nested


class GraphVicreg(Options, total=False):
    variance: float
    covariance: float | None
    invariance: float
    penalty: Penalty
    measure: Measure
    eps: float
    nested: Nested


class InfoNce(Rows, total=False):
    temperature: float | Tensor
    negatives: Tensor | None
    directions: Sequence[Direction]
    target: Any
    guide: Sequence[Tensor] | None
    guide_margin: float
    guide_relative: bool
    hardness: float
    column_weight: Tensor | None
    label_smoothing: float
    tau_plus: float
    margin: float
    ids: Any
    negative_ids: Any
    threshold: float | Tensor | None


class Koleo(Options, total=False):
    k: int
    ids: Any
    group_size: int | None
    eps: float
    reduction: Reduction


class Lejepa(Options, total=False):
    weight: float
    slices: int | None
    directions: Tensor | None
    knots: int
    t_max: float
    seed: int | None
    kernel: Kernel | None


class LsSimclr(Options, total=False):
    center: bool
    nested: Nested


class Moco(Rows, total=False):
    temperature: float | Tensor
    margin: float
    ids: Any
    queue_ids: Any
    threshold: float | Tensor | None
    hardness: float
    column_weight: Tensor | None


class NegativeCosine(Rows, total=False):
    eps: float


class NtXent(Rows, total=False):
    temperature: float | Tensor
    label_smoothing: float
    tau_plus: float


class Sigreg(Options, total=False):
    slices: int | None
    directions: Tensor | None
    knots: int
    t_max: float
    seed: int | None
    kernel: Kernel | None
    reduction: Reduction


class SpectralContrastive(Rows, total=False):
    mu: float


class SupCon(Rows, total=False):
    temperature: float | Tensor
    base_temperature: float | None
    label_smoothing: float


class Vicreg(Options, total=False):
    invariance: float
    variance: float
    covariance: float
    eps: float


class Dino(Options, total=False):
    student_temperature: float | Tensor
    teacher_temperature: float
    center: Tensor | None
    bias: Tensor | None
    normalize: bool


class Ibot(Options, total=False):
    student_temperature: float | Tensor
    teacher_temperature: float
    center: Tensor | None
    bias: Tensor | None
    visible_weight: float | None
    normalize: bool


class Swav(Options, total=False):
    queue: Views | None
    temperature: float | Tensor
    sinkhorn_temperature: float
    iterations: int
    normalize: bool


class Capi(Options, total=False):
    index: Tensor | None
    student_temperature: float | Tensor
    teacher_temperature: float
    iterations: int
    normalize: bool


class Msn(Options, total=False):
    temperature: float
    sharpening: float
    iterations: int
    regularization: float
    prior: float | Tensor | None
    normalize: bool


class Ressl(Rows, total=False):
    temperature: float | Tensor
    key_temperature: float | Tensor


class XClr(Rows, total=False):
    temperature: float | Tensor
    target_temperature: float | Tensor


class ProtoNce(Rows, total=False):
    concentration: float | Tensor


class PrototypeCrossEntropy(Rows, total=False):
    pairs: Any
    student_temperature: float | Tensor
    teacher_temperature: float | Tensor
    bias: Tensor | None
    normalize: bool
    mean_entropy: float
