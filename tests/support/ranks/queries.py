"""InfoNCE and MoCo of a batch, in one process or with its rows spread over ranks."""

from __future__ import annotations

import torch
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast._checks import DIRECTIONS

from .batch import Case, Own, unit


def _weights_of_keys(own: Own) -> Tensor:
    """Factors of the columns that are keys, some of which are 0."""
    return (own["temperature"] - 0.5).clamp_min(0)


def _weights_of_queue(own: Own) -> Tensor:
    return own.part("queue")[:, 0].clamp_min(0)


def _of_each(a: Tensor, b: Tensor, own: Own) -> Tensor:
    """Three negatives of each query, two of which have a gradient."""
    return torch.stack([a - b, a * b, own["x1"][:, : a.shape[1]]], 1)


QUERY_CASES = {
    "info_nce": Case(lambda a, b, c, t, o, **k: F.info_nce(a, b, temperature=1 / c, **k)),
    "info_nce, a part of the queue": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, negatives=o.part("queue"), label_smoothing=0.1, **k
        )
    ),
    "info_nce, a temperature per query": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=o["temperature"] / c, tau_plus=0.05, sample_weight=o["weight"], **k
        )
    ),
    "info_nce, margin": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, margin=0.2, negatives=o.part("queue"), **k
        )
    ),
    "info_nce, ids": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, ids=o["labels"], negatives=o.part("queue"), **k
        )
    ),
    "info_nce, ids of negatives": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            ids=o["labels"],
            negatives=o.part("queue"),
            negative_ids=o.part("queue_ids"),
            sample_weight=o["weight"],
            **k,
        )
    ),
    "info_nce, threshold": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, threshold=o["temperature"], ids=o["labels"], **k
        )
    ),
    "info_nce, guided": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=1 / c,
            directions=DIRECTIONS[:3],
            guide=(o["x1"], o["x2"]),
            guide_margin=0.1,
            **k,
        )
    ),
    "info_nce, guided, all pairs": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            directions=DIRECTIONS,
            negatives=o.part("queue"),
            guide=(o["x1"][:, :5], o["x2"][:, :5], o.part("queue").detach()),
            guide_margin=0.2,
            guide_relative=True,
            threshold=0.7,
            ids=o["labels"],
            sample_weight=o["weight"],
            **k,
        )
    ),
    "info_nce, hardness": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, hardness=0.5, negatives=o.part("queue"), tau_plus=0.05, **k
        )
    ),
    "info_nce, hardness of the others": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            directions=DIRECTIONS,
            hardness=1.5,
            threshold=0.7,
            ids=o["labels"],
            sample_weight=o["weight"],
            **k,
        )
    ),
    "info_nce, negatives alone": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, directions=(), negatives=o.part("queue"), margin=0.1, **k
        )
    ),
    "info_nce, negatives alone and ids": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=1 / c,
            directions=("query_to_query",),
            negatives=o.part("queue"),
            ids=o["labels"],
            negative_ids=o.part("queue_ids"),
            **k,
        )
    ),
    "info_nce, keys in another order": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            torch.cat([a - b, b]),
            target=len(b) + torch.arange(len(b)),
            temperature=o["temperature"] / c,
            tau_plus=0.05,
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "info_nce, two queries for a key": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            torch.cat([a, a + b]),
            torch.cat([a - b, b]),
            target=len(b) + torch.arange(len(b)).repeat(2),
            temperature=1 / c,
            negatives=o.part("queue"),
            label_smoothing=0.1,
            **k,
        ),
        2,
    ),
    "info_nce, keys in another order, all pairs": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            torch.cat([a, a + b]),
            torch.cat([a - b, b]),
            target=len(b) + torch.arange(len(b)).repeat(2),
            temperature=o["temperature"].repeat(2) / c,
            directions=DIRECTIONS,
            negatives=o.part("queue"),
            guide=(
                torch.cat([o["x1"], o["x2"]])[:, :5],
                torch.cat([o["x2"], o["x1"]])[:, :5],
                o.part("queue").detach(),
            ),
            guide_margin=-0.3,
            threshold=0.8,
            margin=0.1,
            **k,
        ),
        2,
    ),
    "info_nce, weights of columns": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, column_weight=_weights_of_keys(o), **k
        )
    ),
    "info_nce, weights of columns and other options": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            negatives=o.part("queue"),
            column_weight=torch.cat([_weights_of_keys(o), _weights_of_queue(o)]),
            threshold=0.6,
            ids=o["labels"],
            negative_ids=o.part("queue_ids"),
            hardness=0.5,
            margin=0.1,
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "info_nce, weights of negatives alone": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=1 / c,
            directions=(),
            negatives=o.part("queue"),
            column_weight=_weights_of_queue(o),
            **k,
        )
    ),
    "info_nce, weights and negatives of one rank": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=1 / c,
            negatives=(queue := o.data["queue"][: None if o.rank == 0 else 0]),
            column_weight=torch.cat([_weights_of_keys(o), queue[:, 0].clamp_min(0)]),
            **k,
        )
    ),
    "info_nce, weights of keys in another order": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            torch.cat([a - b, b]),
            target=len(b) + torch.arange(len(b)),
            temperature=1 / c,
            column_weight=torch.cat([o["weight"], _weights_of_keys(o)]),
            guide=(o["x1"], torch.cat([o["x1"].flip(1), o["x2"]])),
            **k,
        )
    ),
    "info_nce, negatives of each query": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a, b, temperature=1 / c, negatives=_of_each(a, b, o), label_smoothing=0.1, **k
        )
    ),
    "info_nce, negatives of each query alone": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=1 / c,
            negatives=_of_each(a, b, o),
            directions=(),
            ids=o["labels"],
            margin=0.1,
            **k,
        )
    ),
    "info_nce, negatives of each query, debiased": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            negatives=_of_each(a, b, o),
            tau_plus=0.05,
            hardness=0.5,
            **k,
        )
    ),
    "info_nce, negatives of each query, all pairs": Case(
        lambda a, b, c, t, o, **k: F.info_nce(
            a,
            b,
            temperature=o["temperature"] / c,
            negatives=_of_each(a, b, o),
            directions=DIRECTIONS,
            ids=o["labels"],
            negative_ids=torch.stack([o["labels"], -o["labels"], o["labels"] - 1], 1),
            threshold=0.7,
            hardness=1.5,
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "moco": Case(
        lambda a, b, c, t, o, **k: F.moco(a, b, unit(o.data["queue"]), temperature=1 / c, **k)
    ),
    "moco, options": Case(
        lambda a, b, c, t, o, **k: F.moco(
            a,
            b,
            unit(o.data["queue"]),
            temperature=o["temperature"] / c,
            margin=0.1,
            ids=o["labels"],
            queue_ids=o.data["queue_ids"],
            threshold=0.7,
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "moco, hardness and weights of columns": Case(
        lambda a, b, c, t, o, **k: F.moco(
            a,
            b,
            unit(o.data["queue"]),
            temperature=1 / c,
            hardness=0.5,
            column_weight=torch.linspace(0, 2, len(o.data["queue"])).to(a),
            **k,
        )
    ),
    "moco, weights": Case(
        lambda a, b, c, t, o, **k: F.moco(
            a,
            b,
            unit(o.data["queue"]),
            temperature=1 / c,
            margin=0.1,
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
}
