"""SIGReg and LeJEPA of rows that are spread over ranks.

Formulas: the files of the losses. Along directions, the characteristic function of all rows is a
mean, so that only its sums are added up over ranks: 2 K S float64 numbers for each view. The exact
form is a sum over pairs: the rows of all ranks are gathered, every rank takes the pairs of its own
rows with all of them, and so makes the whole gradient of its rows.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ... import _checks as check
from ..._dtypes import computed_dtype
from ..._register import register_op
from ...primitives.normality import sliced_ecf as sliced
from ...primitives.normality.pairwise_kernel import kernel_of_rows
from ...primitives.normality.radial import epps_pulley
from ...ranks import agree, sum_to_value
from ...ranks.differentiable import start_gather, sum_over_ranks
from ...ranks.group import by_name
from ...ranks.traffic import broadcast
from ...ranks.value_and_grad import refuse_second_derivative
from .._normality import Kernel, check_options, given_views
from .._views import Views
from ._form import COPY, ROWS, Form, Given, Problem, Result
from .sums.value_and_gradients import ValueAndGradients

OPTIONS = ("knots", "t_max", "gaussian", "imq", "seed")  # numbers that say which distance is taken


def _given(
    op: str,
    rows: Tensor,
    slices: int | None,
    directions: Tensor | None,
    knots: int,
    t_max: float,
    seed: int | None,
    kernel: Kernel | None,
) -> tuple[dict[str, Tensor | None], dict[str, float], int | None]:
    """Tensors, numbers, and how many directions are still to be drawn. rows: (n_r, ..., d)."""
    options = check_options(op, rows, slices, directions, knots, t_max, seed, kernel)
    numbers = {"knots": options["knots"], "t_max": options["t_max"]}
    for name in ("gaussian", "imq"):
        numbers[name] = kernel[1] if kernel is not None and kernel[0] == name else 0.0
    numbers["seed"] = -1.0 if seed is None else float(seed)
    like = rows.new_empty(0, rows.shape[-1], dtype=computed_dtype(rows))
    if directions is not None:
        return {"directions": directions.detach().to(like)}, numbers, None
    if slices is not None and seed is not None:
        return {"directions": sliced.directions(like, slices, seed)}, numbers, None
    return {"directions": None}, numbers, slices


def _drawn(op: str) -> Any:
    """`Form.prepare`: directions without a seed are drawn by the first rank for all of them."""

    def prepare(given: Given, group: str) -> Given:
        if given.to_prepare is None:
            return given
        rows = next(iter(given.tensors.values()))
        assert rows is not None
        like = rows.detach().new_empty(0, rows.shape[-1], dtype=computed_dtype(rows))
        normal = _shared_normal(like, given.to_prepare, op, group)
        directions = sliced.unit_columns(normal, like)
        return given._replace(tensors={**given.tensors, "directions": directions})

    return prepare


def _shared_shapes(like: Tensor, count: int, op: str, group: str) -> Tensor:
    return like.new_empty(like.shape[-1], count, dtype=torch.float32)


def _shared_body(like: Tensor, count: int, op: str, group: str) -> Tensor:
    over = by_name(group)
    facts = {"directions": "drawn", "slices": count, "the number of features": like.shape[-1]}
    agree(op, over, facts, 0)
    # all ranks draw, so that their generators stay in step
    drawn = torch.randn(like.shape[-1], count, device=like.device, dtype=torch.float32)
    return broadcast(drawn, over)


_shared_normal = register_op(
    "sliced_ecf_shared(Tensor like, int count, str op, str group) -> Tensor",
    cpu=_shared_body,
    cuda=_shared_body,
    fake=_shared_shapes,
)


# ---- the distance of every view ----


class _CosineSums(torch.autograd.Function):
    """(views, 2 (K - 1), S) float64 sums over the rows z (views, n_r, d) of this rank."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, directions: Tensor, knots: int, step: float) -> Tensor:
        ctx.options = knots, step
        ctx.save_for_backward(z, directions)
        return sliced.cosine_sums(z, directions, knots, step)

    @staticmethod
    @refuse_second_derivative
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        z, directions = ctx.saved_tensors
        knots, step = ctx.options
        return sliced.sums_gradient(z, directions, knots, step, grad), None, None, None


def _normality(p: Problem, rows: Tensor) -> Tensor:
    """(views,) the distance from N(0, I) of each view of rows (n_r, views, d)."""
    z, directions, n = rows.transpose(0, 1), p.tensors["directions"], p.ranks.n
    knots, t_max = int(p.numbers["knots"]), p.numbers["t_max"]
    if directions is None:
        return torch.stack([_of_pairs(p, view) for view in z.unbind(0)])
    own = _CosineSums.apply(z, directions, knots, t_max / (knots - 1))
    mean = sum_to_value(own, p.ranks) / n
    _, weights, targets = (x.to(z.device)[:, None] for x in epps_pulley(knots, t_max))
    cosine, sine = mean.unflatten(1, (2, -1)).unbind(1)
    gap = weights * ((cosine - targets).square() + sine.square())
    return (n * gap.sum(1).mean(1)).to(z.dtype)


def _of_pairs(p: Problem, view: Tensor) -> Tensor:
    """() by pairs of all rows: of LeJEPA's kernel, or of another one."""
    name = "gaussian" if p.numbers["gaussian"] else "imq" if p.numbers["imq"] else "slices"
    parameter = p.numbers["gaussian"] + p.numbers["imq"]
    options = name, parameter, int(p.numbers["knots"]), p.numbers["t_max"]

    def make(view: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        every = start_gather(view, p.ranks)()[None]
        # without rows of its own a rank takes one, for its checks, and leaves its part out
        here = p.ranks.here if len(view) else slice(0, 1)
        wants = view.requires_grad and len(view) > 0
        part, grad = kernel_of_rows(every, here, *options, wants_grad=wants)
        total = sum_over_ranks(part[0] if len(view) else torch.zeros_like(part[0]), p.ranks)
        return total, [total], [grad.view_as(view) if wants else torch.zeros_like(view)]

    loss: Tensor = ValueAndGradients.apply(make, p.ranks, view)[0]
    return loss


def _kernel_of(arguments: dict[str, Any]) -> dict[str, Any]:
    """The numbers of `OPTIONS` as the functional takes them; its directions are drawn already."""
    widths = {name: arguments.pop(name) for name in ("gaussian", "imq")}
    kernel = next(((name, width) for name, width in widths.items() if width), None)
    arguments.pop("seed")
    slices = None if arguments["directions"] is None else 1
    return {**arguments, "knots": int(arguments["knots"]), "kernel": kernel, "slices": slices}


# ---- SIGReg ----


def _check_sigreg(
    z: Tensor,
    slices: int | None,
    directions: Tensor | None,
    knots: int,
    t_max: float,
    seed: int | None,
    kernel: Kernel | None,
    reduction: str,
) -> Given:
    check.views("sigreg", "z", z, min_rows=0)
    rows = z if z.dim() == 2 else z.transpose(0, 1)
    tensors, numbers, count = _given("sigreg", rows, slices, directions, knots, t_max, seed, kernel)
    return Given({"z": rows, **tensors}, numbers, count)


def _sigreg(p: Problem) -> Result:
    z = p.rows("z")
    by_view = _normality(p, z if z.dim() == 3 else z[:, None])
    if p.reduction == "none":
        return by_view.view(z.shape[1:-1]), ()
    return by_view.sum() if p.reduction == "sum" else by_view.mean(), ()


def _views_first(arguments: dict[str, Any]) -> dict[str, Any]:
    z = arguments["z"]
    return {**_kernel_of(arguments), "z": z if z.dim() == 2 else z.transpose(0, 1)}


SIGREG = Form(
    "sigreg",
    {"z": ROWS, "directions": COPY},
    OPTIONS,
    _check_sigreg,
    _sigreg,
    shape=lambda z, *_: z.shape[1:-1],
    prepare=_drawn("sigreg"),
    restore=_views_first,
)


# ---- LeJEPA ----


def _check_lejepa(
    global_views: Views,
    local_views: Views | None,
    weight: float,
    slices: int | None,
    directions: Tensor | None,
    knots: int,
    t_max: float,
    seed: int | None,
    kernel: Kernel | None,
) -> Given:
    op = "lejepa"
    first, further, weight = given_views(op, global_views, local_views, weight, min_rows=0)
    rows = torch.stack([*first, *further], 1)
    tensors, numbers, count = _given(op, rows, slices, directions, knots, t_max, seed, kernel)
    numbers = {"global_views": len(first), "weight": weight, **numbers}
    return Given({"views": rows, **tensors}, numbers, count)


def _lejepa(p: Problem) -> Result:
    z, globals_, weight = p.rows("views"), int(p.numbers["global_views"]), p.numbers["weight"]
    apart = (z - z[:, :globals_].mean(1, keepdim=True)).square().sum(dtype=torch.float64)
    invariance = sum_to_value(apart, p.ranks) / (p.ranks.n * z.shape[1] * z.shape[2])
    terms = _normality(p, z).mean(), invariance.to(z.dtype)
    return weight * terms[0] + (1 - weight) * terms[1], terms


def _split_views(arguments: dict[str, Any]) -> dict[str, Any]:
    z, count = arguments.pop("views").transpose(0, 1), int(arguments.pop("global_views"))
    local = z[count:] if z.shape[0] > count else None
    return {**_kernel_of(arguments), "global_views": z[:count], "local_views": local}


LEJEPA = Form(
    "lejepa",
    {"views": ROWS, "directions": COPY},
    ("global_views", "weight", *OPTIONS),
    _check_lejepa,
    _lejepa,
    terms=("sigreg", "invariance"),
    reduces=False,
    prepare=_drawn("lejepa"),
    restore=_split_views,
)
