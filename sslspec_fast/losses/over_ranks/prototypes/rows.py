"""Losses over prototypes that are means over rows, of rows that are spread over ranks.

Formulas: the files of the losses. X-CLR's prototypes are the rows of the batch: those of all ranks
are gathered, 2 N d numbers with their gradient, and the targets with them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .... import _checks as check
from ...._dtypes import as_multiplied
from ....graph.over_ranks import partition
from ....graph.pair_graph import PairGraph
from ....primitives import pairwise
from ....primitives.rows.unit_rows import unit_rows
from ....ranks import gather_rows
from ..._codes import divergence
from ..._common import rows_at
from ..._head_inputs import check_x_clr, ressl_heads
from ..._heads import Heads, mean_probability, prepare
from ..._prototypes import (
    Targets,
    check_clusters,
    check_heads,
    check_mean_entropy,
    check_pair_graph,
    from_pattern,
)
from .._agreed import scale_given
from .._form import (
    COPY,
    FURTHER,
    MORE,
    MORE_OF_FURTHER,
    MORE_SCALE,
    ROW_OF_FURTHER,
    ROWS,
    SCALE,
    Form,
    Given,
    Problem,
    Result,
)
from .._reduce import check_weight, reduce_rows, result, scale_of
from ._loss import copy_of, loss_of, options_of, total, with_wanted

# ---- prototype cross-entropy ----

_PAIRS = ("pairs[0]", "pairs[1]", "pairs[2]")


def _check_cross_entropy(
    student: Tensor,
    teacher: Tensor,
    prototypes: Tensor | None,
    teacher_prototypes: Tensor | None,
    pairs: Any,
    student_temperature: float | Tensor,
    teacher_temperature: float | Tensor,
    bias: Tensor | None,
    normalize: bool,
    mean_entropy: float,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "prototype_cross_entropy"
    check_heads(op, student, teacher, prototypes, teacher_prototypes, min_rows=0)
    n, m = student.shape[0], teacher.shape[0]
    mean_entropy = check_mean_entropy(op, mean_entropy, reduction)
    graph = pairs if isinstance(pairs, PairGraph) and pairs.group is not None else None
    if graph is not None:
        check_pair_graph(op, graph, n, m, student)
        if bias is not None and bias.dim() == 2 and bias.shape[0] > 1:
            raise ValueError(
                f"{op}: bias must be (k,) with pairs over ranks, whose teachers on other ranks "
                f"belong to no block of this one, got {tuple(bias.shape)}"
            )
    heads = prepare(
        op,
        (student, prototypes, student_temperature),
        (teacher, teacher_prototypes, teacher_temperature),
        pairs=None if graph is not None else pairs,
        bias=bias,
        normalize=normalize,
        by_row=True,
        min_rows=0,
    )
    held, weight = heads.graph
    pattern = (None,) * 3 if held is None else (held.row_of(), held.indices, weight)
    block = None
    if heads.bias is not None and heads.bias.dim() == 2:  # of every teacher row
        block = torch.arange(m, device=teacher.device) // max(1, m // len(heads.bias))
    tensors = {
        "student": student,
        "teacher": teacher.detach(),
        "prototypes": prototypes,
        "teacher_prototypes": None if teacher_prototypes is None else teacher_prototypes.detach(),
        "student_temperature": scale_given(op, "student_temperature", student_temperature, student),
        "teacher_temperature": scale_given(
            op, "teacher_temperature", teacher_temperature, student, rows=m
        ),
        "bias": heads.bias,
        "block": block,
        "sample_weight": check.sample_weight(op, sample_weight, student, n, "sum"),
        **dict(zip(_PAIRS, pattern, strict=True)),
    }
    numbers = {"normalize": float(normalize), "mean_entropy": mean_entropy}
    return Given(tensors, numbers, graph=graph)


def _cross_entropy(p: Problem) -> Result:
    weight, (normalize, mean_entropy) = p.tensors["sample_weight"], p.numbers.values()
    teacher, temperature, targets = _teachers(p)
    heads = Heads(
        p.rows("student"),
        copy_of(p, "prototypes"),
        scale_of(p, "student_temperature"),
        teacher,
        p.tensors["teacher_prototypes"],
        temperature,
        targets,
        p.tensors["bias"],
        bool(normalize),
        half=p.half,
    )
    graph, sides = heads.graph, heads.sides()
    if graph.pairs is None:
        check_weight(p, weight)
    else:
        check_weight(p, graph.weights(weight), "the weights of pairs")
    loss, terms = loss_of(p, sides, graph, p.reduction, weight)
    if mean_entropy:
        surplus = divergence(mean_probability(sides, p.ranks.n, total(p.ranks)))
        loss, terms["mean_entropy"] = loss + mean_entropy * surplus, surplus
    return with_wanted(p, loss, terms)


def _teachers(p: Problem) -> tuple[Tensor, Tensor, Targets]:
    """Rows, temperatures and who is whose target; of a graph over ranks, the rows of this rank and
    those of other ranks that its entries point to.
    """
    teacher, temperature = p.rows("teacher"), p.rows("teacher_temperature")
    student, n = p.rows("student"), len(p.rows("student"))
    if p.graph is not None:
        relation = partition(p.graph)
        stored, teacher = relation.rows(), relation.extended(teacher)
        if temperature.dim():
            temperature = relation.extended(temperature[:, None])[:, 0]
        weight = student.new_ones(stored.nnz) if stored.values is None else stored.values
        pairs = stored.rows(), stored.indices.long(), weight.to(student.dtype)
    elif p.tensors[_PAIRS[0]] is not None:
        rows, columns, weight = (p.rows(name) for name in _PAIRS)
        pairs = rows, columns, weight
    else:
        return teacher, temperature, Targets(None, student.new_ones(n))
    return teacher, temperature, from_pattern(*pairs, n, len(teacher))


def _pairs_of(arguments: dict[str, Any]) -> dict[str, Any]:
    parts = [arguments.pop(name) for name in _PAIRS]
    arguments = {**options_of(arguments), "pairs": [x for x in parts if x is not None] or None}
    block = arguments.pop("block")
    if block is not None:  # which are equal in number on every rank, and not among all rows
        arguments["bias"] = arguments["bias"][block]
    return arguments


PROTOTYPE_CROSS_ENTROPY = Form(
    "prototype_cross_entropy",
    {
        "student": ROWS,
        "teacher": MORE,
        "prototypes": COPY,
        "teacher_prototypes": COPY,
        "student_temperature": SCALE,
        "teacher_temperature": MORE_SCALE,
        "bias": COPY,
        "block": MORE,
        "sample_weight": ROWS,
        **dict(zip(_PAIRS, (ROW_OF_FURTHER, MORE_OF_FURTHER, FURTHER), strict=True)),
    },
    ("normalize", "mean_entropy"),
    _check_cross_entropy,
    _cross_entropy,
    terms=("entropy", "divergence"),
    weighed_terms=("mean_entropy",),
    restore=_pairs_of,
    graph="pairs",
    needs_graph=False,
)

# ---- ReSSL ----


def _check_ressl(
    query: Tensor,
    key: Tensor,
    queue: Tensor,
    temperature: float | Tensor,
    key_temperature: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op, n = "ressl", query.shape[0]
    heads = ressl_heads(query, key, queue, temperature, key_temperature, min_rows=0)
    tensors = {
        "query": query,
        "key": key.detach(),
        "queue": heads.prototypes,
        "temperature": scale_given(op, "temperature", temperature, query),
        "key_temperature": scale_given(op, "key_temperature", key_temperature, query),
        "sample_weight": check.sample_weight(op, sample_weight, query, n, "sum"),
    }
    return Given(tensors, {})


def _ressl(p: Problem) -> Result:
    weight, query = p.tensors["sample_weight"], p.rows("query")
    check_weight(p, weight)
    heads = Heads(
        query,
        p.rows("queue"),
        scale_of(p, "temperature"),
        p.rows("key"),
        None,
        p.rows("key_temperature"),
        Targets(None, query.new_ones(len(query))),
        None,
        scaled=False,
        half=p.half,
    )
    return with_wanted(p, *loss_of(p, heads.sides(), heads.graph, p.reduction, weight))


RESSL = Form(
    "ressl",
    {
        "query": ROWS,
        "key": ROWS,
        "queue": COPY,
        "temperature": SCALE,
        "key_temperature": SCALE,
        "sample_weight": ROWS,
    },
    (),
    _check_ressl,
    _ressl,
    terms=("entropy", "divergence"),
)

# ---- X-CLR ----


def _check_x_clr(
    z: Tensor,
    targets: Tensor,
    temperature: float | Tensor,
    target_temperature: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "x_clr"
    check_x_clr(z, targets, 0)
    other = scale_given(op, "target_temperature", target_temperature, z)
    check.refuse_grad(op, "target_temperature", other.requires_grad, "detach it")
    tensors = {
        "z": z,
        "targets": targets.detach(),
        "temperature": scale_given(op, "temperature", temperature, z),
        "target_temperature": other,
        "sample_weight": check.sample_weight(op, sample_weight, z, z.shape[0], "sum"),
    }
    return Given(tensors, {})


def _own_first(p: Problem, rows: Tensor) -> Tensor:
    """The rows of all ranks, those of this one first: so that row i is column i."""
    every, here = gather_rows(rows, p.ranks), p.ranks.here
    return torch.cat([every[here], every[: here.start], every[here.stop :]])


def _x_clr(p: Problem) -> Result:
    weight = p.tensors["sample_weight"]
    check_weight(p, weight)
    u, t = unit_rows(p.rows("z")), unit_rows(p.rows("targets"))
    heads = Heads(
        u,
        _own_first(p, u),
        scale_of(p, "temperature"),
        t,
        _own_first(p, t),
        p.rows("target_temperature"),
        Targets(None, u.new_ones(len(u))),
        None,
        normalize=False,
        half=p.half,
    )
    loss, terms = loss_of(p, heads.sides(), heads.graph, p.reduction, weight, skip_self=True)
    return with_wanted(p, loss, terms)


X_CLR = Form(
    "x_clr",
    {
        "z": ROWS,
        "targets": ROWS,
        "temperature": SCALE,
        "target_temperature": SCALE,
        "sample_weight": ROWS,
    },
    (),
    _check_x_clr,
    _x_clr,
    terms=("entropy", "divergence"),
    min_rows=2,
)

# ---- ProtoNCE ----


def _check_proto_nce(
    z: Tensor,
    prototypes: Tensor,
    assignment: Any,
    concentration: float | Tensor,
    reduction: str,
    sample_weight: Tensor | None,
) -> Given:
    op = "proto_nce"
    check.dense(op, "prototypes", prototypes)
    k = check_heads(op, z, z, prototypes, None, ("z", "z"), min_rows=0)
    tensors = {
        "z": z,
        "prototypes": prototypes,
        "assignment": check_clusters(op, assignment, z, k),
        "concentration": check.positive(op, "concentration", concentration, z, rows=(k,)),
        "sample_weight": check.sample_weight(op, sample_weight, z, z.shape[0], "sum"),
    }
    return Given(tensors, {})


def _proto_nce(p: Problem) -> Result:
    weight = p.tensors["sample_weight"]
    check_weight(p, weight)
    w, phi = copy_of(p, "prototypes"), copy_of(p, "concentration")
    assert w is not None
    assert phi is not None
    u, inverse = unit_rows(p.rows("z")), phi.reciprocal()
    columns = unit_rows(w) * (inverse if inverse.dim() == 0 else inverse[:, None])
    positive = (u * rows_at(columns, p.rows("assignment"))).sum(1)
    a, b = as_multiplied(u, p.half), as_multiplied(columns, p.half)
    lse = pairwise.lse(a, b, u.new_ones(()))[0]
    return result(p, reduce_rows(p, lse - positive, weight), positive, weight)


PROTO_NCE = Form(
    "proto_nce",
    {
        "z": ROWS,
        "prototypes": COPY,
        "assignment": ROWS,
        "concentration": COPY,
        "sample_weight": ROWS,
    },
    (),
    _check_proto_nce,
    _proto_nce,
    terms=("alignment", "uniformity"),
)
