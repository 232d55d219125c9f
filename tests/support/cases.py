"""One entry for each loss, and the inputs that many tests share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast._checks import DIRECTIONS
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import _catalogue
from sslspec_fast.losses.falcon import random_codes

from .inputs import (
    directed_graph,
    labels_of,
    pair_rows,
    unit,
    unit_unless_half,
    weighted_graph,
)

RAGGED = (1, 2, 7, 252, 257)


@dataclass(frozen=True)
class LossCase:
    """A loss as a function of differentiable fp64 tensors, for the tests that every loss passes.

    build: (n, d, seed) -> the inputs, and the loss of them with any keywords.
    min_rows: the number of rows below which the loss is undefined.
    softmax: the loss takes `temperature=`, and is tried at small ones.
    hyper: keywords of every call.
    largest: the scale of the rows up to which the plain form is right in float32.
    unit: the loss takes unit rows; the case normalises rows that are not in half precision.
    """

    name: str
    build: Callable[[int, int, int], tuple[list[Tensor], Callable[..., Any]]]
    min_rows: int = 1
    softmax: bool = False
    hyper: dict[str, Any] = field(default_factory=dict)
    largest: float = float("inf")
    unit: bool = False

    def make(self, n: int, d: int, seed: int = 0) -> tuple[list[Tensor], Callable[..., Any]]:
        """Inputs, and a function of inputs of any dtype with keywords impl, temperature, ..."""
        inputs, call = self.build(n, d, seed)

        def loss(*tensors: Tensor, **keywords: Any) -> Any:
            return call(*tensors, **{**self.hyper, **keywords})

        return inputs, loss


def _pairs(function: Callable[..., Any]) -> Callable[..., Any]:
    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        return list(pair_rows(n, d, seed)), function

    return build


def _scaled(function: Callable[..., Any], *extra: float) -> Callable[..., Any]:
    """Losses that take unit rows and a scale; temperature=t sets the scale to 1 / t."""

    def call(a: Tensor, b: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
        return function(
            unit_unless_half(a), unit_unless_half(b), 1 / temperature, *extra, **keywords
        )

    return _pairs(call)


def _graph(
    function: Callable[..., Any], make_graph: Callable[[int], PairGraph]
) -> Callable[..., Any]:
    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        graph = make_graph(n)
        graph.volume, graph.is_symmetric, graph.has_negative_weights  # noqa: B018 cached facts

        def call(z: Tensor, **keywords: Any) -> Any:
            return function(z, graph.to(z.device), **keywords)

        return [pair_rows(n, d, seed)[0]], call

    return build


def _nested_vicreg(z: Tensor, graph: PairGraph, **keywords: Any) -> Any:
    """Over the first columns, half of them and all: the plain form takes each prefix by itself."""
    weights = [0.0] * z.shape[1]
    weights[0], weights[z.shape[1] // 2], weights[-1] = 0.5, 2.0, 1.0
    return F.graph_vicreg(z, graph, nested=weights, **keywords)


def _two_views(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """An even number of rows."""
    graph = PairGraph.from_views(n // 2)
    z = pair_rows(n // 2 * 2, d, seed)[0]
    return [z], lambda z, **k: F.graph_info_nce(z, graph.to(z.device), **k)


def _labelled(n: int) -> PairGraph:
    return PairGraph.from_labels(labels_of(n))


def _sup_con(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    y = labels_of(n)

    def call(z: Tensor, **keywords: Any) -> Any:
        return F.sup_con(unit_unless_half(z), y.to(z.device), **keywords)

    return [pair_rows(n, d, seed)[0]], call


def _with_negatives(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    extra = pair_rows(n + 3, d, seed + 1)[0]
    return [*pair_rows(n, d, seed), extra], lambda q, k, m, **w: F.info_nce(q, k, negatives=m, **w)


def _without_false_negatives(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Ids, and a threshold in the widest gap among the larger cosines of a row: no rounding of
    theirs crosses it.
    """
    (q, k), extra, ids = pair_rows(n, d, seed), pair_rows(n + 3, d, seed + 1)[0], _ids(n)
    cosines = (unit(q) @ unit(torch.cat([k, extra])).T).sort(1).values[:, n // 2 :]
    widest = cosines.diff(dim=1).argmax(1, keepdim=True)
    threshold = (cosines.gather(1, widest) + cosines.gather(1, widest + 1))[:, 0] / 2

    def call(q: Tensor, k: Tensor, m: Tensor, **keywords: Any) -> Any:
        options = {"ids": ids.to(q.device), "threshold": threshold.to(q.device), "margin": 0.1}
        return F.info_nce(q, k, negatives=m, **options, **keywords)

    return [q, k, extra], call


def _hard(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    weight = torch.linspace(0, 2, 2 * n + 3, dtype=torch.float64)

    def call(q: Tensor, k: Tensor, m: Tensor, **keywords: Any) -> Any:
        by_hand = weight.to(**_of(q))
        return F.info_nce(q, k, negatives=m, hardness=0.5, column_weight=by_hand, **keywords)

    return _with_negatives(n, d, seed)[0], call


def _of_each(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    rows, call = _with_negatives(n, d, seed)
    return [*rows[:2], rows[2][:n]], lambda q, k, m, **w: call(q, k, m[:, None], **w)


def _guided(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """All pairs of a batch and negatives as columns, but those that a guide leaves out."""
    rows = [*pair_rows(n, d, seed), pair_rows(n + 3, d, seed + 1)[0]]
    guide = [z + 2 * pair_rows(len(z), d, seed + 5)[0] for z in rows]

    def call(q: Tensor, k: Tensor, m: Tensor, **keywords: Any) -> Any:
        given = [g.to(**_of(q)) for g in guide]
        how = {"directions": DIRECTIONS, "guide": given, "guide_margin": 0.05, **keywords}
        return F.info_nce(q, k, negatives=m, **how)

    return rows, call


def _with_target(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Keys in another number and order, some of several queries, some of none."""
    query, keys = pair_rows(n, d, seed)[0], pair_rows(n + 3, d, seed)[1]
    target = torch.arange(n) * 3 % (n + 3)

    def call(q: Tensor, k: Tensor, **keywords: Any) -> Any:
        return F.info_nce(q, k, target=target.to(q.device), **keywords)

    return [query, keys], call


def _graph_siglip(make_graph: Callable[[int], PairGraph]) -> Callable[..., Any]:
    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        graph = make_graph(n)

        def call(a: Tensor, b: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
            x, y, g = unit_unless_half(a), unit_unless_half(b), graph.to(a.device)
            return F.graph_siglip(x, y, g, 1 / temperature, -2.0, **keywords)

        return list(pair_rows(n, d, seed)), call

    return build


def _below_one(n: int) -> PairGraph:
    return 0.25 * weighted_graph(n)


def _moco(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    queue = unit(pair_rows(2 * n + 3, d, seed + 1)[0])

    def call(q: Tensor, k: Tensor, **keywords: Any) -> Any:
        kind = q.dtype if q.dtype == torch.float64 else torch.float32
        return F.moco(q, k, queue.to(q.device, kind), **keywords)

    return list(pair_rows(n, d, seed)), call


def _prototypes(pairs: bool = False, **options: Any) -> Callable[..., Any]:
    """Students and prototypes; fixed teachers with prototypes of their own, one a student or two
    for most of them.
    """

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        k, m = 2 * n + 3, max(n // 2, 1) if pairs else n
        student, prototypes = pair_rows(n, d, seed)[0], pair_rows(k, d, seed + 1)[0]
        teacher, own = pair_rows(m, d, seed + 2)[1], pair_rows(k, d, seed + 1)[1]
        bias = pair_rows(1, k, seed + 3)[0][0]
        index = torch.arange(n)
        rows, columns = torch.cat([index, index[1:]]), torch.cat([index % m, (index[1:] + 1) % m])
        weights = torch.linspace(0.5, 2, len(rows), dtype=torch.float64)

        def call(a: Tensor, w: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
            kind = a.dtype if a.dtype == torch.float64 else torch.float32
            keywords = {**options, "student_temperature": temperature, **keywords}
            if pairs:
                keywords["pairs"] = tuple(x.to(a.device) for x in (rows, columns, weights))
            b, v, beta = (x.to(a.device, kind) for x in (teacher, own, bias))
            return F.prototype_cross_entropy(a, b, w, v, bias=beta, **keywords)

        return [student, prototypes], call

    return build


def _views_of_prototypes(n: int, d: int, seed: int, count: int = 2) -> tuple[list[Tensor], Tensor]:
    """Views of n samples, and prototypes."""
    views = [*pair_rows(n, d, seed), *pair_rows(n, d, seed + 4)]
    return views[:count], pair_rows(2 * n + 3, d, seed + 1)[0]


def _of(like: Tensor) -> dict[str, Any]:
    """The device and dtype of what has no gradient."""
    kind = like.dtype if like.dtype == torch.float64 else torch.float32
    return {"device": like.device, "dtype": kind}


def _coarse(x: Tensor) -> Tensor:
    """Rounded to sixteenths, which every dtype holds."""
    return (16 * x).round() / 16


def _dino(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Three views of the student, two of the teacher with prototypes of its own, and a center."""
    (a, b, c), w = _views_of_prototypes(n, d, seed, 3)
    teachers, own = torch.stack(pair_rows(n, d, seed + 2)), w + pair_rows(len(w), d, seed + 3)[0]
    center = pair_rows(1, len(w), seed + 3)[0][0]

    def call(a: Tensor, b: Tensor, w: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
        t, v, m = (x.to(**_of(a)) for x in (teachers, own, 0.1 * center))
        how = {"center": m, "student_temperature": temperature, **keywords}
        return F.dino([a, b, _coarse(c).to(a.device, a.dtype)], t, w, v, **how)

    return [a, b, w], call


def _ibot(visible: float | None) -> Callable[..., Any]:
    """n tokens of two images, one without masked ones if n is 1."""

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        (a,), w = _views_of_prototypes(n, d, seed, 1)
        teacher, own = pair_rows(n, d, seed + 2)[1], pair_rows(len(w), d, seed + 3)[0]
        mask = torch.arange(2 * n).view(2, n) % 2 == 0
        if visible is not None:
            mask = (torch.arange(n) % 3 == 0)[None]

        def call(a: Tensor, w: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
            how = {"student_temperature": temperature, "visible_weight": visible, **keywords}
            b, v = (x.to(**_of(a)) for x in (teacher, own))
            return F.ibot(a, b, mask.to(a.device), w, v, **how)

        return [a, w], call

    return build


def _swav(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Small crops; fixed large ones, whose codes have no gradient, prototypes and a queue."""
    (a, b, c), w = _views_of_prototypes(n, d, seed, 3)
    queue = torch.stack(pair_rows(n + 1, d, seed + 2))

    def call(x: Tensor, **keywords: Any) -> Any:
        high, low, kept = (
            _coarse(y).to(x.device, x.dtype) for y in (torch.stack([a, b]), c, queue)
        )
        return F.swav(high, [x, low], w.to(**_of(x)), queue=kept, **keywords)

    return [pair_rows(n, d, seed + 3)[1]], call


def _capi(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Two predicted tokens of n images, of three of the teacher with prototypes of its own."""
    (a, b), w = _views_of_prototypes(n, d, seed)
    teacher = torch.stack([*pair_rows(n, d, seed + 2), pair_rows(n, d, seed + 3)[0]], 1)
    own, index = pair_rows(len(w), d, seed + 3)[1], torch.tensor([[2, 0]]).repeat(n, 1)

    def call(a: Tensor, b: Tensor, w: Tensor, **keywords: Any) -> Any:
        t, v = (_coarse(x).to(**_of(a)) for x in (teacher, own))
        return F.capi(torch.stack([a, b], 1), t, w, v, index=index.to(a.device), **keywords)

    return [a, b, w], call


def _msn(**options: Any) -> Callable[..., Any]:
    """Two views of anchors; fixed targets and prototypes, which have one gradient of two."""

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        views, w = _views_of_prototypes(n, d, seed)
        targets = pair_rows(n, d, seed + 2)[0]

        def call(a: Tensor, **keywords: Any) -> Any:
            return F.msn(a, *(x.to(**_of(a)) for x in (targets, w)), **options, **keywords)

        return [torch.cat(views)], call

    return build


def _ressl(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    (query, key), queue = _views_of_prototypes(n, d, seed)
    key, queue = _coarse(key), nnf.normalize(queue, dim=1)

    def call(q: Tensor, **keywords: Any) -> Any:
        return F.ressl(q, key.to(q.device, q.dtype), queue.to(**_of(q)), **keywords)

    return [query], call


def _x_clr(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    z, targets = pair_rows(n, d, seed)[0], pair_rows(n, d + 1, seed + 1)[0]
    return [z], lambda z, **k: F.x_clr(z, targets.to(**_of(z)), **k)


def _proto_nce(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    """Each cluster with a concentration of its own."""
    k = n // 2 + 1
    assignment, ratio = torch.arange(n) % k, torch.linspace(0.8, 1.25, k, dtype=torch.float64)

    def call(z: Tensor, c: Tensor, temperature: float = 0.1, **keywords: Any) -> Any:
        phi = (temperature * ratio).to(**_of(z))
        return F.proto_nce(z, c, assignment.to(z.device), concentration=phi, **keywords)

    return [pair_rows(n, d, seed)[0], pair_rows(k, d, seed + 1)[0]], call


def _falcon(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    codes = random_codes(d, 4 * d, 1)

    def call(a: Tensor, b: Tensor, **keywords: Any) -> Any:
        return F.falcon(a, b, codes=codes.to(a.device), **keywords)

    return list(pair_rows(n, d, seed)), call


def _normality(**options: Any) -> Callable[..., Any]:
    """SIGReg along the same few directions, or with options that say otherwise."""

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        hyper = options or {"slices": 19, "seed": 3}
        return [pair_rows(n, d, seed)[0]], lambda z, **k: F.sigreg(z, **hyper, **k)

    return build


def _koleo(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    ids = _ids(n)

    def call(z: Tensor, **keywords: Any) -> Any:
        return F.koleo(z, k=2, ids=ids.to(z.device), **keywords)

    return [pair_rows(n, d, seed)[0]], call


def _gram_anchor(clamp: bool) -> Callable[..., Any]:
    """Two images of n patches each, and a teacher of another width."""

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        teacher = torch.stack(pair_rows(n, d + 1, seed + 2))

        def call(a: Tensor, b: Tensor, **keywords: Any) -> Any:
            t = _coarse(teacher).to(a.device, a.dtype)
            return F.gram_anchor(torch.stack([a, b]), t, clamp=clamp, **keywords)

        return list(pair_rows(n, d, seed)), call

    return build


def _lejepa(slices: int | None) -> Callable[..., Any]:
    """Two global views and a local one."""

    def build(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
        hyper = {"slices": slices, "seed": None if slices is None else 3, "weight": 0.4}
        third = pair_rows(n, d, seed + 1)[0]
        return [*pair_rows(n, d, seed), third], lambda a, b, c, **k: F.lejepa(
            [a, b], [c], **hyper, **k
        )

    return build


def _ids(n: int) -> Tensor:
    return torch.arange(n) % max(n // 3, 1)


def _info_nce_ids(n: int, d: int, seed: int) -> tuple[list[Tensor], Callable[..., Any]]:
    graph, ids = weighted_graph(n), _ids(n)

    def call(z: Tensor, **keywords: Any) -> Any:
        return F.graph_info_nce(z, graph.to(z.device), ids=ids.to(z.device), **keywords)

    return [pair_rows(n, d, seed)[0]], call


CASES = {
    case.name: case
    for case in (
        LossCase("nt_xent", _pairs(F.nt_xent), softmax=True),
        LossCase("info_nce", _pairs(F.info_nce), softmax=True),
        LossCase("info_nce_negatives", _with_negatives, softmax=True),
        LossCase("info_nce_filtered", _without_false_negatives, softmax=True),
        LossCase("info_nce_hard", _hard, softmax=True),
        LossCase("info_nce_of_each", _of_each, softmax=True),
        LossCase("info_nce_guided", _guided, softmax=True),
        LossCase("info_nce_target", _with_target, softmax=True),
        LossCase("moco", _moco, softmax=True),
        LossCase("clip", _scaled(F.clip), softmax=True, unit=True),
        LossCase("siglip", _scaled(F.siglip, -2.0), softmax=True, unit=True),
        LossCase("graph_siglip_labels", _graph_siglip(_labelled), softmax=True, unit=True),
        LossCase("graph_siglip", _graph_siglip(_below_one), 7, softmax=True, unit=True),
        LossCase("sup_con", _sup_con, 7, softmax=True, unit=True),
        LossCase("dcl", _pairs(F.dcl), 2, softmax=True),
        LossCase("graph_info_nce_views", _two_views, 4, softmax=True),
        LossCase("graph_info_nce_labels", _graph(F.graph_info_nce, _labelled), 7, softmax=True),
        LossCase("graph_info_nce", _graph(F.graph_info_nce, weighted_graph), 7, softmax=True),
        LossCase(
            "graph_info_nce_directed", _graph(F.graph_info_nce, directed_graph), 7, softmax=True
        ),
        LossCase(
            "graph_info_nce_dcl",
            _graph(F.graph_info_nce, weighted_graph),
            9,
            softmax=True,
            hyper={"negatives": "non_positive"},
        ),
        LossCase(
            "graph_info_nce_per_positive",
            _graph(F.graph_info_nce, weighted_graph),
            9,
            softmax=True,
            hyper={"negatives": "per_positive"},
        ),
        LossCase("graph_info_nce_ids", _info_nce_ids, 7, softmax=True),
        LossCase("gram_anchor", _gram_anchor(False)),
        LossCase("gram_anchor_clamped", _gram_anchor(True)),
        LossCase("vicreg", _pairs(F.vicreg), 2),
        LossCase("barlow_twins", _pairs(F.barlow_twins), 2),
        LossCase("spectral_contrastive", _pairs(F.spectral_contrastive), 2, hyper={"mu": 9.0}),
        *(
            LossCase(
                f"graph_vicreg_{penalty}_{measure}",
                _graph(F.graph_vicreg, weighted_graph),
                7,
                hyper={"penalty": penalty, "measure": measure, "covariance": 0.3},
            )
            for penalty in ("hinge_std", "ls_var", "ls_std", "hinge_var")
            for measure in ("uniform", "degree")
        ),
        LossCase("graph_barlow_twins", _graph(F.graph_barlow_twins, weighted_graph), 7),
        LossCase(
            "graph_barlow_twins_uncentred",
            _graph(F.graph_barlow_twins, weighted_graph),
            7,
            hyper={"center": False},
        ),
        LossCase("graph_spectral", _graph(F.graph_spectral_contrastive, weighted_graph), 7),
        LossCase(
            "graph_vicreg_nested",
            _graph(_nested_vicreg, weighted_graph),
            7,
            hyper={"penalty": "ls_var"},
        ),
        LossCase(
            "graph_spectral_contrastive_nested",
            _graph(F.graph_spectral_contrastive, weighted_graph),
            7,
            hyper={"nested": True},
        ),
        LossCase(
            "ls_simclr_nested",
            _graph(F.ls_simclr, weighted_graph),
            7,
            hyper={"nested": True, "center": True},
        ),
        LossCase("ls_simclr", _graph(F.ls_simclr, weighted_graph), 7),
        LossCase(
            "ls_simclr_centred", _graph(F.ls_simclr, weighted_graph), 7, hyper={"center": True}
        ),
        LossCase("dirichlet_energy", _graph(F.dirichlet_energy, weighted_graph), 7),
        LossCase("graph_covariance", _graph(F.graph_covariance, weighted_graph), 7),
        LossCase(
            "graph_covariance_directed",
            _graph(F.graph_covariance, directed_graph),
            7,
            hyper={"center": False},
        ),
        LossCase("negative_cosine", _pairs(F.negative_cosine)),
        LossCase("prototype_cross_entropy", _prototypes(), softmax=True),
        LossCase("prototype_cross_entropy_pairs", _prototypes(pairs=True), 2, softmax=True),
        LossCase("prototype_cross_entropy_mean_entropy", _prototypes(mean_entropy=0.7)),
        LossCase("dino", _dino, softmax=True),
        LossCase("ibot", _ibot(None), softmax=True),
        LossCase("ibot_visible", _ibot(0.5), 2, softmax=True),
        LossCase("swav", _swav),
        LossCase("capi", _capi),
        LossCase("msn", _msn()),
        LossCase("msn_prior", _msn(prior=0.25)),
        LossCase("proto_nce", _proto_nce, softmax=True),
        LossCase("ressl", _ressl, softmax=True),
        LossCase("x_clr", _x_clr, 2, softmax=True),
        LossCase("falcon", _falcon, 2),
        LossCase("koleo", _koleo, 3),
        LossCase("sigreg", _normality(), largest=1e3),
        LossCase("sigreg_exact", _normality(slices=None), largest=3.0),
        LossCase("sigreg_gaussian", _normality(slices=None, kernel=("gaussian", 2.0)), largest=1e6),
        LossCase("sigreg_imq", _normality(slices=None, kernel=("imq", 0.7)), largest=30.0),
        LossCase("lejepa", _lejepa(19), largest=1e3),
        LossCase("lejepa_exact", _lejepa(None), largest=3.0),
    )
}
# every loss of two views as a function of them
_REQUIRED = {"clip": {"logit_scale": 10.0}, "siglip": {"logit_scale": 10.0, "logit_bias": -10.0}}
TWO_VIEWS: dict[str, Callable[..., Any]] = {
    name: partial(row.function, **_REQUIRED.get(name, {}))
    for name, row in _catalogue.CATALOGUE.items()
    if row.inputs == _catalogue.TWO_VIEWS
}
SOFTMAX = [name for name, case in CASES.items() if case.softmax]
