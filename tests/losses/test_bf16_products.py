"""Losses that multiply bfloat16 rows as such: errors below those of plain torch under autocast.

Autocast takes float32 leaves with the same values, normalises, centres and scales them in float32,
rounds the rows for the product, and rounds each logit or covariance; ours round the rows and the
weights of the gradient, and no result of a product. Where the CPU has no such products the rows are
multiplied in float32, which passes too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C
from sslspec_fast._checks import DIRECTIONS
from sslspec_fast.losses import _prefixes
from sslspec_fast.losses._nested import over_prefixes
from sslspec_fast.reference.barlow_twins import barlow_twins as plain_barlow_twins
from sslspec_fast.reference.clip import clip as plain_clip
from sslspec_fast.reference.dcl import dcl as plain_dcl
from sslspec_fast.reference.graph_barlow_twins import graph_barlow_twins as plain_graph_barlow_twins
from sslspec_fast.reference.graph_info_nce import graph_info_nce as plain_graph_info_nce
from sslspec_fast.reference.graph_siglip import graph_siglip as plain_graph_siglip
from sslspec_fast.reference.graph_spectral_contrastive import (
    graph_spectral_contrastive as plain_graph_spectral_contrastive,
)
from sslspec_fast.reference.graph_vicreg import graph_vicreg as plain_graph_vicreg
from sslspec_fast.reference.info_nce import info_nce as plain_info_nce
from sslspec_fast.reference.ls_simclr import ls_simclr as plain_ls_simclr
from sslspec_fast.reference.matryoshka import matryoshka as plain_matryoshka
from sslspec_fast.reference.moco import moco as plain_moco
from sslspec_fast.reference.nt_xent import nt_xent as plain_nt_xent
from sslspec_fast.reference.siglip import siglip as plain_siglip
from sslspec_fast.reference.spectral_contrastive import (
    spectral_contrastive as plain_spectral_contrastive,
)
from sslspec_fast.reference.sup_con import sup_con as plain_sup_con
from sslspec_fast.reference.vicreg import vicreg as plain_vicreg
from sslspec_fast.reference.x_clr import x_clr as plain_x_clr

from ..support.inputs import pair_rows, unit
from ..support.tolerance import relative_error, root_mean_square

N, D = 384, 96
LABELS = torch.arange(N) % 24
GRAPH = sf.PairGraph.from_labels(LABELS)
DENSE = ((LABELS[:, None] == LABELS) & ~torch.eye(N, dtype=torch.bool)).double()

Loss = Callable[..., Tensor]
# (ours of bfloat16 rows, the plain form) at a temperature; the rows of the last are of unit length
FORMS: dict[str, Callable[[float], tuple[Loss, Loss]]] = {
    "nt_xent": lambda t: (
        lambda a, b: F.nt_xent(a, b, temperature=t),
        lambda a, b: plain_nt_xent(a, b, temperature=t),
    ),
    "nt_xent none": lambda t: (
        lambda a, b: F.nt_xent(a, b, temperature=t, reduction="none").square().mean(),
        lambda a, b: plain_nt_xent(a, b, temperature=t, reduction="none").square().mean(),
    ),
    "dcl": lambda t: (
        lambda a, b: F.dcl(a, b, temperature=t),
        lambda a, b: plain_dcl(a, b, temperature=t),
    ),
    "info_nce": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=t),
        lambda a, b: plain_info_nce(a, b, temperature=t),
    ),
    "graph_info_nce": lambda t: (
        lambda a, b: F.graph_info_nce(a, GRAPH, temperature=t) + 0 * b.sum(),
        lambda a, b: plain_graph_info_nce(a, DENSE.to(a), temperature=t) + 0 * b.sum(),
    ),
    "sup_con of unit rows": lambda t: (
        lambda a, b: F.sup_con(a, LABELS, temperature=t) + 0 * b.sum(),
        lambda a, b: plain_sup_con(a, LABELS, temperature=t) + 0 * b.sum(),
    ),
    "SupConLoss of unit rows": lambda t: (
        lambda a, b: sf.SupConLoss(t, base_temperature=None)(torch.stack([a, b], 1), LABELS),
        lambda a, b: plain_sup_con(torch.cat([a, b]), LABELS.repeat(2), temperature=t),
    ),
    "SupConLoss, a mask, of unit rows": lambda t: (
        lambda a, b: sf.SupConLoss(t, base_temperature=None)(
            torch.stack([a, b], 1), mask=LABELS[:, None] == LABELS
        ),
        lambda a, b: plain_sup_con(torch.cat([a, b]), LABELS.repeat(2), temperature=t),
    ),
    "SupConLoss, one anchor, of unit rows": lambda t: (
        lambda a, b: sf.SupConLoss(t, "one", None)(torch.stack([a, b], 1), LABELS),
        lambda a, b: plain_sup_con(
            torch.cat([a, b]), LABELS.repeat(2), temperature=t, reduction="none"
        )[:N].mean(),
    ),
    "x_clr": lambda t: (
        lambda a, b: F.x_clr(a, b.detach(), temperature=t) + 0 * b.sum(),
        lambda a, b: (
            plain_x_clr(
                a, b.detach(), temperature=a.new_tensor(t), target_temperature=a.new_tensor(0.1)
            )
            + 0 * b.sum()
        ),
    ),
    "graph_siglip of unit rows": lambda t: (
        lambda a, b: F.graph_siglip(a, b, GRAPH, 1 / t, -2.0),
        lambda a, b: plain_graph_siglip(a, b, DENSE.to(a), 1 / t, -2.0),
    ),
    "siglip of unit rows": lambda t: (
        lambda a, b: F.siglip(a, b, 1 / t, -2.0),
        lambda a, b: plain_siglip(a, b, 1 / t, -2.0),
    ),
    "clip of unit rows": lambda t: (
        lambda a, b: F.clip(a, b, 1 / t),
        lambda a, b: plain_clip(a, b, 1 / t),
    ),
}

ROW = torch.linspace(1.0, 2.0, N, dtype=torch.float64)  # of the temperature of each row


def each(t: float, x: Tensor) -> Tensor:
    """A temperature per row, in the dtype of the loss of x."""
    return (t * ROW).to(torch.float64 if x.dtype == torch.float64 else torch.float32)


FORMS |= {
    "nt_xent, a temperature per row": lambda t: (
        lambda a, b: F.nt_xent(a, b, temperature=each(t, a)),
        lambda a, b: plain_nt_xent(a, b, temperature=each(t, a)),
    ),
    "dcl, a temperature per row": lambda t: (
        lambda a, b: F.dcl(a, b, temperature=each(t, a)),
        lambda a, b: plain_dcl(a, b, temperature=each(t, a)),
    ),
    "info_nce, a temperature per row": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=each(t, a)),
        lambda a, b: plain_info_nce(a, b, temperature=each(t, a)),
    ),
    "sup_con, a temperature per row, of unit rows": lambda t: (
        lambda a, b: F.sup_con(a, LABELS, temperature=each(t, a)) + 0 * b.sum(),
        lambda a, b: plain_sup_con(a, LABELS, temperature=each(t, a)) + 0 * b.sum(),
    ),
    "clip, a scale per row, of unit rows": lambda t: (
        lambda a, b: F.clip(a, b, 1 / each(t, a)),
        lambda a, b: plain_clip(a, b, 1 / each(t, a)),
    ),
    "siglip, a scale per row, of unit rows": lambda t: (
        lambda a, b: F.siglip(a, b, 1 / each(t, a), -2.0),
        lambda a, b: plain_siglip(a, b, 1 / each(t, a), -2.0),
    ),
}

QUEUE = unit(pair_rows(500, D, 20)[0]).bfloat16()
GUIDE = [pair_rows(N, 32, 22)[0], pair_rows(N, 32, 22)[1]]  # of the queries, of the keys
WEIGHT = torch.linspace(0, 2, 500)
MARGIN = 0.5  # without it a few queries alone have a loss at a small temperature


def queue_of(x: Tensor) -> Tensor:
    return QUEUE.to(x.dtype)


# what InfoNCE and MoCo do with their negatives: (ours, the plain form) of options
NEGATIVES: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "all": ({}, {}),
    "none": ({"reduction": "none"}, {"reduction": "none"}),
    "threshold": ({"threshold": 0.2}, {"threshold": torch.tensor(0.2)}),
    "hardness": ({"hardness": 1.0}, {"hardness": 1.0}),
    "column_weight": ({"column_weight": WEIGHT}, {"log_weight": WEIGHT.log().clamp_min(-1e15)}),
}
NEGATIVES["column_weight and hardness"] = tuple(
    {**a, **b} for a, b in zip(NEGATIVES["column_weight"], NEGATIVES["hardness"], strict=True)
)
NEGATIVES["column_weight and threshold"] = tuple(
    {**a, **b} for a, b in zip(NEGATIVES["column_weight"], NEGATIVES["threshold"], strict=True)
)


def moco(mine: dict[str, object], plain: dict[str, object], t: float) -> tuple[Loss, Loss]:
    return (
        lambda a, b: F.moco(a, b, queue_of(a), temperature=t, margin=MARGIN, **mine).mean(),
        lambda a, b: plain_moco(a, b, queue_of(a), temperature=t, margin=MARGIN, **plain).mean(),
    )


def with_negatives(
    mine: dict[str, object], plain: dict[str, object], t: float
) -> tuple[Loss, Loss]:
    """Negatives that have a gradient, half of the rows of b, and those columns weighed."""

    def of(loss: Loss, options: dict[str, object]) -> Loss:
        h = N // 2
        given = {k: x[:N] if k.endswith("weight") else x for k, x in options.items()}
        return lambda a, b: (
            loss(a[:h], b[:h], negatives=b[h:], temperature=t, **given).mean() + 0 * a.sum()
        )

    return of(F.info_nce, mine), of(plain_info_nce, plain)


FORMS |= {f"moco, {name}": partial(moco, *both) for name, both in NEGATIVES.items()}
FORMS |= {f"info_nce, {name}": partial(with_negatives, *both) for name, both in NEGATIVES.items()}
IDS, QUEUE_IDS = torch.arange(N) % 40, torch.arange(500) % 45
FORMS |= {
    "moco, ids": partial(
        moco, {"ids": IDS, "queue_ids": QUEUE_IDS}, {"ids": IDS, "column_ids": QUEUE_IDS}
    ),
    "moco, a queue in float32": lambda t: (
        lambda a, b: F.moco(a, b, QUEUE.float(), temperature=t, margin=MARGIN),
        lambda a, b: plain_moco(a, b, queue_of(a), temperature=t, margin=MARGIN),
    ),
    "moco, a temperature per row": lambda t: (
        lambda a, b: F.moco(a, b, queue_of(a), temperature=each(t, a), margin=MARGIN),
        lambda a, b: plain_moco(a, b, queue_of(a), temperature=each(t, a), margin=MARGIN),
    ),
    "info_nce, ids": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=t, ids=IDS),
        lambda a, b: plain_info_nce(a, b, temperature=t, ids=(IDS, IDS, None)),
    ),
    "info_nce, guide": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=t, guide=[x.float() for x in GUIDE]),
        lambda a, b: plain_info_nce(a, b, temperature=t, guide=(*GUIDE, None)),
    ),
    "info_nce, all directions": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=t, directions=DIRECTIONS),
        lambda a, b: plain_info_nce(a, b, temperature=t, directions=DIRECTIONS),
    ),
    "siglip, rows, a scale per row, of unit rows": lambda t: (
        lambda a, b: F.siglip(a, b, 1 / each(t, a), -10.0, reduction="none").mean(),
        lambda a, b: plain_siglip(a, b, 1 / each(t, a), -10.0, reduction="none").mean(),
    ),
}


Errors = tuple[float, float]  # of the value, of the gradient
ROUNDING = 1.7e-3  # of a gradient to bfloat16


@pytest.fixture(params=["bfloat16 rows", "float32 rows"])
def leaf(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """The dtype of the rows of ours, those of float32 with the setting that rounds them."""
    if request.param == "bfloat16 rows":
        yield torch.bfloat16
        return
    if not _C.bf16_products():
        pytest.skip("the setting needs a processor with such products")
    before = sf.set_float32_products(torch.bfloat16)
    yield torch.float32
    sf.set_float32_products(before)


def errors(
    mine: Loss, plain: Loss, batches: list[list[Tensor]], leaf: torch.dtype = torch.bfloat16
) -> tuple[Errors, Errors]:
    """Of ours, and of the plain form under autocast, against the plain form in float64: one value
    may be right by luck, so over several batches of bfloat16 rows.
    """
    ours: list[Errors] = []
    theirs: list[Errors] = []
    for rows in batches:
        exact, half, wide = (
            [x.to(dtype).requires_grad_() for x in rows]
            for dtype in (torch.float64, leaf, torch.float32)
        )
        expected = plain(*exact)
        wanted = torch.cat(torch.autograd.grad(expected, exact))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = plain(*wide)
        for found, value, leaves in ((ours, mine(*half), half), (theirs, rounded, wide)):
            grads = torch.cat(torch.autograd.grad(value, leaves)).bfloat16()
            of_value = relative_error(value.detach(), expected.detach())
            found.append((of_value, relative_error(grads, wanted)))
    (value, grad), (value_limit, grad_limit) = (
        map(root_mean_square, zip(*found, strict=True)) for found in (ours, theirs)
    )
    return (value, grad), (value_limit, grad_limit)


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("form", FORMS)
def test_errors_below_autocast(form: str, temperature: float, leaf: torch.dtype) -> None:
    batches = []
    for seed in range(8):
        clean, noisy = pair_rows(N, D, seed)
        rows = [clean, 3 * noisy - 2 * clean]
        batches.append([(unit(x) if form.endswith("unit rows") else x).bfloat16() for x in rows])
    (value, grad), (value_limit, grad_limit) = errors(*FORMS[form](temperature), batches, leaf)
    assert value <= max(value_limit, 3e-5)  # sums of many logits, whose errors average out
    assert grad <= max(grad_limit, ROUNDING)


PREFIXES = [
    17,
    40,
    75,
    96,
]  # most of them end inside a pair of numbers that are multiplied together


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.05, 0.01])
@pytest.mark.parametrize(
    ("loss", "plain"),
    [
        ("nt_xent", plain_nt_xent),
        ("dcl", plain_dcl),
        ("info_nce", plain_info_nce),
        ("clip", plain_clip),
    ],
)
def test_errors_of_prefixes_below_autocast(
    loss: str,
    plain: Loss,
    temperature: float,
    leaf: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Matryoshka in one pass, whose rows are multiplied as they came: the value loses nothing."""
    monkeypatch.setattr(_prefixes, "MIN_ROWS", 2)
    scale = {"logit_scale": 1 / temperature} if loss == "clip" else {"temperature": temperature}
    batches = []
    for seed in range(8):
        clean, noisy = pair_rows(N, D, seed)
        batches.append([x.bfloat16() for x in (clean, 3 * noisy - 2 * clean)])
    options = {"weights": [1.0] * len(PREFIXES), "renormalize": loss == "clip"}
    (value, grad), (value_limit, grad_limit) = errors(
        lambda a, b: F.matryoshka(loss, a, b, dims=PREFIXES, **scale),
        lambda a, b: plain_matryoshka(plain, a, b, dims=PREFIXES, **options, **scale),
        batches,
        leaf,
    )
    assert value <= min(value_limit, 5e-6)
    assert grad <= grad_limit


VICREG = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "eps": 1e-4}
COVARIANCE = VICREG | {"invariance": 0.0, "variance": 0.0}  # of no error that is hidden by others
BARLOW = {"off_diagonal": 5e-3, "eps": 1e-5}

ONE_BY_ONE: dict[str, tuple[dict[str, object], Loss, dict[str, object]]] = {
    "siglip": (
        {"logit_scale": 10.0, "logit_bias": -5.0},
        plain_siglip,
        {"logit_scale": 10.0, "logit_bias": -5.0, "renormalize": True},
    ),
    "vicreg": ({}, plain_vicreg, {**VICREG, "renormalize": False}),
    "barlow_twins": ({}, plain_barlow_twins, {**BARLOW, "renormalize": False}),
    "spectral_contrastive": ({}, plain_spectral_contrastive, {"renormalize": True}),
    "info_nce": (
        {"temperature": 0.1, "hardness": 1.0},
        plain_info_nce,
        {"temperature": 0.1, "hardness": 1.0, "renormalize": True},
    ),
}


@pytest.mark.parametrize("loss", ONE_BY_ONE)
def test_errors_of_prefixes_one_by_one_below_autocast(loss: str, leaf: torch.dtype) -> None:
    """Matryoshka that calls its loss for each prefix: the gradients add up in float32."""
    if loss == "siglip" and leaf == torch.float32:
        pytest.skip("the setting rounds unit rows of prefixes, as autocast does")
    mine, plain, options = ONE_BY_ONE[loss]
    batches = []
    for seed in range(8):
        clean, noisy = pair_rows(N, D, seed)
        batches.append([x.bfloat16() for x in (clean, 3 * noisy - 2 * clean)])
    (value, grad), (value_limit, grad_limit) = errors(
        lambda a, b: F.matryoshka(loss, a, b, dims=PREFIXES, **mine),
        lambda a, b: plain_matryoshka(
            plain, a, b, dims=PREFIXES, weights=[1.0] * len(PREFIXES), **options
        ),
        batches,
        leaf,
    )
    assert value <= max(value_limit, 3e-5)
    assert grad <= max(grad_limit, 1.8e-3)


@pytest.mark.parametrize("form", ["nt_xent", "info_nce", "clip of unit rows"])
def test_a_factor_comes_before_the_rounding_of_the_gradient(form: str) -> None:
    """One that is no power of two would round a gradient in bfloat16 once more."""
    batches = []
    for seed in range(4):
        clean, noisy = pair_rows(N, D, seed)
        rows = [clean, 3 * noisy - 2 * clean]
        batches.append([(unit(x) if form.endswith("unit rows") else x).bfloat16() for x in rows])
    mine, plain = FORMS[form](0.1)
    (_, grad), (_, limit) = errors(
        lambda a, b: 0.3 * mine(a, b), lambda a, b: 0.3 * plain(a, b), batches
    )
    assert grad <= limit


@pytest.mark.parametrize(
    "form", ["nt_xent", "info_nce", "clip of unit rows", "siglip of unit rows"]
)
def test_rows_in_bfloat16_of_any_stride_and_length(form: str) -> None:
    """Rows are read as they lie, and nothing of what is between them; some have length 0, or one
    whose square float32 does not hold.
    """
    rows = [unit(x).bfloat16() for x in pair_rows(40, 24)]
    if "unit" not in form:
        rows[0][::4] = 0
        rows[1][1::4] *= 1e25
    found = []
    for width in (24, 31):
        leaves = [torch.full((40, width), torch.nan).bfloat16()[:, width - 24 :] for _ in rows]
        for leaf, x in zip(leaves, rows, strict=True):
            leaf.copy_(x).requires_grad_()
        value = FORMS[form](0.1)[0](*leaves)
        found.append([value.detach(), *torch.autograd.grad(value, leaves)])
        assert all(part.isfinite().all() for part in found[-1])
    assert all(map(torch.equal, *found))


# (ours, the plain form) of products over columns
COLUMN_FORMS: dict[str, tuple[Loss, Loss]] = {
    "vicreg": (F.vicreg, partial(plain_vicreg, **VICREG)),
    "covariance": (partial(F.vicreg, **COVARIANCE), partial(plain_vicreg, **COVARIANCE)),
    "barlow_twins": (F.barlow_twins, partial(plain_barlow_twins, **BARLOW)),
    "spectral_contrastive": (F.spectral_contrastive, plain_spectral_contrastive),
    "spectral_contrastive, rows not cut": (
        partial(F.spectral_contrastive, mu=1e9),
        partial(plain_spectral_contrastive, mu=1e9),
    ),
    "graph_vicreg": (
        lambda a, b: F.graph_vicreg(torch.cat([a, b]), views(a)),
        lambda a, b: plain_graph_vicreg(torch.cat([a, b]), paired(a)),
    ),
    "graph_barlow_twins": (
        lambda a, b: F.graph_barlow_twins(torch.cat([a, b]), views(a)),
        lambda a, b: plain_graph_barlow_twins(torch.cat([a, b]), paired(a)),
    ),
    "graph_spectral_contrastive": (
        lambda a, b: F.graph_spectral_contrastive(torch.cat([a, b]), views(a)),
        lambda a, b: plain_graph_spectral_contrastive(torch.cat([a, b]), paired(a)),
    ),
    "ls_simclr": (
        lambda a, b: F.ls_simclr(torch.cat([a, b]), views(a)),
        lambda a, b: plain_ls_simclr(torch.cat([a, b]), paired(a)),
    ),
    "graph_vicreg, nested": (
        lambda a, b: F.graph_vicreg(torch.cat([a, b]), views(a), nested=shares(a)),
        lambda a, b: over_prefixes(
            lambda z: plain_graph_vicreg(z, paired(a)), torch.cat([a, b]), shares(a)
        ),
    ),
    "graph_spectral_contrastive, nested": (
        lambda a, b: F.graph_spectral_contrastive(torch.cat([a, b]), views(a), nested=shares(a)),
        lambda a, b: over_prefixes(
            lambda z: plain_graph_spectral_contrastive(z, paired(a)), torch.cat([a, b]), shares(a)
        ),
    ),
    "ls_simclr, nested": (
        lambda a, b: F.ls_simclr(torch.cat([a, b]), views(a), nested=shares(a)),
        lambda a, b: over_prefixes(
            lambda z: plain_ls_simclr(z, paired(a)), torch.cat([a, b]), shares(a)
        ),
    ),
}


def shares(a: Tensor) -> list[float]:
    """Weights of three prefixes of the columns."""
    d = a.shape[1]
    return [{d // 4: 0.5, d // 2: 2.0, d: 1.0}.get(m, 0.0) for m in range(1, d + 1)]


def views(a: Tensor) -> sf.PairGraph:
    return sf.PairGraph.from_views(len(a))


def paired(a: Tensor) -> Tensor:
    """The same graph as a dense matrix."""
    eye, none = torch.eye(len(a)), torch.zeros(len(a), len(a))
    return torch.cat([torch.cat([none, eye]), torch.cat([eye, none])], 1).to(a)


def columns(kind: str, n: int, d: int, seed: int) -> list[Tensor]:
    """Two views whose columns have very different scales, large means, or are nearly dependent."""
    rows = torch.stack(pair_rows(n, d, seed))
    g = torch.Generator().manual_seed(seed)
    if kind == "scales":
        rows *= torch.logspace(-3, 3, d)
    elif kind == "one large column":
        rows[:, :, 0] *= 50
    elif kind == "means":
        rows += 10 * torch.randn(d, generator=g)
    elif kind == "rank 4":
        mixed = torch.randn(n, 4, generator=g) @ torch.randn(4, d, generator=g)
        rows = 0.1 * rows + mixed
    return [*rows.bfloat16()]


@pytest.mark.parametrize("kind", ["even", "scales", "one large column", "means", "rank 4"])
@pytest.mark.parametrize(("n", "d"), [(96, 384), (260, 90)])
@pytest.mark.parametrize("form", COLUMN_FORMS)
def test_errors_of_columns_below_autocast(
    form: str, n: int, d: int, kind: str, leaf: torch.dtype
) -> None:
    batches = [columns(kind, n, d, seed) for seed in range(4)]
    (value, grad), (value_limit, grad_limit) = errors(*COLUMN_FORMS[form], batches, leaf)
    assert value <= value_limit
    assert grad <= max(grad_limit, 1.8e-3)  # the rounding of the gradient itself is 1.7e-3
