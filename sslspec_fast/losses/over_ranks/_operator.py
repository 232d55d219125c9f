"""The operator that runs a loss over ranks, and the reference on gathered rows beside it.

The ranks agree, then one operator gathers, computes, and makes the gradient (`value_and_grad`). It
is opaque to torch.compile, a single node, and its arguments are tensors, strings and numbers only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..._dtypes import computed_dtype, is_half
from ..._register import register_op
from ...graph.over_ranks import by_name as graph_of
from ...graph.over_ranks import whole
from ...graph.pair_graph import PairGraph
from ...ranks import gather_rows, replicated, value_and_grad
from ...ranks.group import by_name
from .._common import LossOrTerms
from ._agreed import PER_ANCHOR, agreed, wanted
from ._form import (
    COPY,
    COUNTED,
    FORMS,
    FURTHER,
    MORE,
    MORE_OF_FURTHER,
    MORE_OF_ROW,
    ROW_OF_FURTHER,
    ROWS,
    SCALES,
    SLOTS,
    Form,
    Given,
    Problem,
)


def call(
    form: Form,
    group: str,
    given: Given,
    reduction: str,
    impl: str,
    return_terms: bool,
    single: Callable[..., Any],
) -> LossOrTerms:
    """The loss of checked arguments over the ranks of a group that is given by its name."""
    tensors = list(given.tensors.values())
    numbers = [float(x) for x in given.numbers.values()]
    if impl == "torch":
        return _reference(form, group, given, reduction, return_terms, single)
    wants = [wanted(x) for x in tensors]
    padding: list[None] = [None] * (SLOTS - len(tensors))
    graph = "" if given.graph is None else given.graph.name
    choices = "\n".join([*(given.choices or {}).values()])
    half = is_half(next(x for x in tensors if x is not None))
    what = form.op, group, graph, choices, reduction, numbers, half, wants
    loss, terms, *_ = _over_ranks(*tensors, *padding, *what, return_terms)
    if not return_terms:
        return loss
    return loss, dict(zip(form.names_of_terms(numbers), terms.unbind(), strict=True))


def _named(form: Form, tensors: Sequence[Tensor | None]) -> dict[str, Tensor | None]:
    return dict(zip(form.tensors, tensors, strict=False))


# ---- impl="torch": the reference on gathered rows ----


def _reference(
    form: Form,
    name: str,
    given: Given,
    reduction: str,
    return_terms: bool,
    single: Callable[..., Any],
) -> LossOrTerms:
    """The plain-torch loss of all rows on every rank: the oracle, with derivatives of any order."""
    wants = [wanted(x) for x in given.tensors.values()]
    numbers = list(given.numbers.values())
    ranks, more, further, layouts, tensors = agreed(
        form,
        by_name(name),
        given.tensors,
        numbers,
        list((given.choices or {}).values()),
        given.graph,
        reduction,
        wants,
        "torch",
    )
    every: dict[str, Any] = {}
    of_kind = {ROWS: ranks, MORE: more, FURTHER: further}
    first_more = more.here.start
    first = {
        ROW_OF_FURTHER: ranks.here.start,
        MORE_OF_FURTHER: first_more,
        MORE_OF_ROW: first_more,
    }
    for key, x in tensors.items():
        kind = form.tensors[key]
        if x is None or (kind in (MORE, FURTHER) and not of_kind[kind].n):
            every[key] = None
        elif kind == COPY or x.dim() == 0:
            (every[key],) = replicated(ranks, x)
        elif layouts.get(key) == PER_ANCHOR:
            every[key] = gather_rows(
                x.view(form.views, x.shape[0] // form.views).T, ranks
            ).T.reshape(-1)
        elif kind in first:
            every[key] = gather_rows(x + first[kind], of_kind[COUNTED[kind]])
        else:
            every[key] = gather_rows(x, of_kind[SCALES.get(kind) or COUNTED[kind]])
    keywords: dict[str, Any] = {"reduction": reduction} if form.reduces else {}
    arguments = form.restore({**every, **given.numbers, **(given.choices or {})})
    if given.graph is not None:
        rows = given.graph.stored()
        arguments[form.graph] = PairGraph(whole(ranks, rows, given.graph.is_symmetric))
    if return_terms:
        keywords["return_terms"] = True
    out = single(**arguments, **keywords, impl="torch")
    if reduction != "none" or form.shape is not None:
        return out
    loss, terms = out if return_terms else (out, {})

    def own(x: Tensor) -> Tensor:
        return x.view(-1, ranks.n)[:, ranks.here].reshape(-1)

    return (own(loss), {k: own(v) for k, v in terms.items()}) if return_terms else own(loss)


# ---- the operator ----

_ARGS = (
    "Tensor x0, " + "".join(f"Tensor? x{k}, " for k in range(1, SLOTS)) + "str op, str group,"
    " str graph, str choices, str reduction, float[] numbers, bool half, bool[] wants"
)
_GRADS = ", ".join(["Tensor"] * SLOTS)


def _loss_shape(form: Form, tensors: Sequence[Tensor], reduction: str) -> tuple[int, ...]:
    a = tensors[0]
    if reduction != "none":
        return ()
    return (form.views * a.shape[0],) if form.shape is None else tuple(form.shape(*tensors))


def _gradient_shapes(
    tensors: Sequence[Tensor | None], wants: Sequence[bool], like: Tensor
) -> list[Tensor]:
    kind = computed_dtype(like)
    return [
        like.new_empty(
            x.shape if x is not None and k < len(wants) and wants[k] else (0,), dtype=kind
        )
        for k, x in enumerate(tensors)
    ]


def _shapes(*args: Any) -> tuple[Tensor, ...]:
    tensors, (op, _, _, _, reduction, numbers, _, wants, terms) = args[:SLOTS], args[SLOTS:]
    form, a = FORMS[op], args[0]
    kind, shape = computed_dtype(a), _loss_shape(form, tensors, reduction)
    asked = wants if reduction != "none" else []
    loss = a.new_empty(shape, dtype=kind)
    count = len(form.names_of_terms(numbers)) if terms else 0
    of_terms = a.new_empty((count, *shape), dtype=kind)
    return loss, of_terms, *_gradient_shapes(tensors, asked, a)


def _run(
    args: Sequence[Any], terms: bool, wants: Sequence[bool], factor: Tensor | None
) -> tuple[Tensor, Tensor, list[Tensor | None]]:
    """Agree, then the value and what `wants` asks of its gradient."""
    op, name, named, chosen, reduction, numbers, half, asked = args[SLOTS:]
    form = FORMS[op]
    tensors = _named(form, args[:SLOTS])
    graph, choices = graph_of(named) if named else None, chosen.split("\n")
    ranks, more, further, _, tensors = agreed(
        form, by_name(name), tensors, numbers, choices, graph, reduction, asked, "fused", half
    )
    first = args[0]

    def function(*leaves: Tensor | None) -> tuple[Tensor, Tensor]:
        problem = Problem(
            op,
            ranks,
            more,
            further,
            reduction,
            terms,
            dict(zip(tensors, leaves, strict=True)),
            dict(zip(form.numbers, numbers, strict=True)),
            half,
            dict(zip(form.choices, choices, strict=False)),
            graph,
        )
        loss, found = form.compute(problem)
        return loss, torch.stack([t.detach() for t in found]) if terms else loss.new_empty(0)

    wide = [_widened(x, first) for x in tensors.values()]
    return value_and_grad(function, wide, wants, factor)


def _widened(x: Tensor | None, like: Tensor) -> Tensor | None:
    return x.to(computed_dtype(like)) if x is not None and x.is_floating_point() else x


def _in_slots(grads: Sequence[Tensor | None], args: Sequence[Any]) -> list[Tensor]:
    """A tensor per slot: gradients, zeros where nothing depends on a tensor, or nothing."""
    empty = _gradient_shapes(args[:SLOTS], args[-1], args[0])
    asked = [*args[-1], *[False] * (SLOTS - len(args[-1]))]
    given = [*grads, *[None] * (SLOTS - len(grads))]
    return [
        room if not want else room.zero_() if grad is None else grad.reshape(room.shape)
        for room, want, grad in zip(empty, asked, given, strict=True)
    ]


def _body(*args: Any) -> tuple[Tensor, ...]:
    args, terms = args[:-1], args[-1]
    reduced = args[SLOTS + 4] != "none"
    wants = args[-1] if reduced else [False] * len(args[-1])
    loss, found, grads = _run(args, terms, wants, None)
    found = found if terms else loss.new_empty(0, *loss.shape)
    return loss, found, *_in_slots(grads, (*args[:-1], wants))


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.mark_non_differentiable(*output[1:])
    ctx.set_materialize_grads(False)
    ctx.options = inputs[SLOTS:-1]
    named = inputs[SLOTS + 2]
    ctx.graph = graph_of(named) if named else None  # which is there as long as this is
    ctx.kinds = [None if x is None else x.dtype for x in inputs[:SLOTS]]
    # a reduced loss has its gradients; its inputs may change, as a center or a queue does
    reduced = inputs[SLOTS + 4] != "none"
    ctx.save_for_backward(*(output[2:] if reduced else inputs[:SLOTS]))


def _backward(ctx: Any, grad: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
    rest = (None,) * (len(ctx.options) + 1)
    if grad is None:
        return (*(None,) * SLOTS, *rest)
    op, _, _, _, reduction, _, _, wants = ctx.options
    if torch.is_grad_enabled():
        raise NotImplementedError(
            f"{op}: second derivatives of a loss over ranks exist with impl='torch' only"
        )
    grads = ctx.saved_tensors
    if reduction == "none":
        grads, grad = _over_ranks_bwd(*grads, *ctx.options, grad), None
    wants = [*wants, *[False] * (SLOTS - len(wants))]
    out = []
    for kind, want, found in zip(ctx.kinds, wants, grads, strict=True):
        scaled = found if grad is None else found * grad
        out.append(scaled.to(kind) if want else None)
    return (*out, *rest)


def _bwd_shapes(*args: Any) -> tuple[Tensor, ...]:
    return tuple(_gradient_shapes(args[:SLOTS], args[SLOTS + 7], args[0]))


def _bwd_body(*args: Any) -> tuple[Tensor, ...]:
    args, grad = args[:-1], args[-1]
    return tuple(_in_slots(_run(args, False, args[-1], grad)[2], args))


_over_ranks_bwd = register_op(
    f"over_ranks_bwd({_ARGS}, Tensor grad) -> ({_GRADS})",
    cpu=_bwd_body,
    cuda=_bwd_body,
    fake=_bwd_shapes,
)
_over_ranks = register_op(
    f"over_ranks({_ARGS}, bool terms) -> (Tensor, Tensor, {_GRADS})",
    cpu=_body,
    cuda=_body,
    fake=_shapes,
    backward=_backward,
    setup=_setup,
)
