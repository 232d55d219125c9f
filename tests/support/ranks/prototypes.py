"""The losses over prototypes: cases for test_equality.py, and what the ranks do for
test_prototypes.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.losses import _sinkhorn

from .batch import Case, Own, unit

K = 7


def prototypes(t: Tensor, d: int = 5) -> Tensor:
    """(K, d) on every rank, with a gradient for t."""
    at = torch.arange(K * d, dtype=t.dtype).view(K, d)
    return torch.sin(0.37 * at + 0.5) + t * torch.cos(1.7 * at)


def fixed(d: int = 5) -> Tensor:
    """Those of the teacher."""
    return prototypes(torch.tensor(0.3, dtype=torch.float64), d)


def bias() -> Tensor:
    return torch.linspace(-1, 1, K, dtype=torch.float64)


def logits(x: Tensor) -> Tensor:
    """(n, K) made of rows."""
    return x @ fixed().T


def pairs(own: Own) -> tuple[Tensor, Tensor, Tensor]:
    """Two of 2 n teachers for each of n students, with weights; one pair is there twice."""
    weight = own["weight"]
    n = len(weight)
    at = torch.arange(n)
    return at.repeat(3), torch.cat([at, n + at, at]), torch.cat([weight, 1 / weight, weight])


def _all_options(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **keywords: Any) -> Any:
    return F.prototype_cross_entropy(
        a,
        torch.cat([b, a - b]),
        prototypes(t),
        fixed(),
        pairs=pairs(own),
        student_temperature=own["temperature"] / c,
        teacher_temperature=own["temperatures"].flatten(),
        bias=bias(),
        normalize=False,
        sample_weight=t.exp() * own["weight"],
        **keywords,
    )


def _of_logits(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **keywords: Any) -> Any:
    return F.prototype_cross_entropy(
        logits(a),
        logits(b),
        None,
        student_temperature=1 / c,
        teacher_temperature=0.5,
        mean_entropy=0.0 if keywords.get("reduction") == "none" else 0.7,
        sample_weight=own["weight"],
        **keywords,
    )


def tokens(own: Own, *rows: Tensor) -> tuple[Tensor, Tensor]:
    """Three tokens for each sample, and which are masked; some images have none."""
    labels = own["labels"]
    mask = torch.stack([labels > 0, labels == 2, own["weight"] > 0.6], 1)
    return torch.stack(rows, 1), mask


def _ibot(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **keywords: Any) -> Any:
    student, mask = tokens(own, a, b, a + b)
    teacher, _ = tokens(own, b, a, a - b)
    how = {"student_temperature": 1 / c, "center": bias()}
    return F.ibot(student[mask], teacher[mask], mask, prototypes(t), **how, **keywords)


def _ibot_visible(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **keywords: Any) -> Any:
    student, mask = tokens(own, a, b, a + b)
    teacher, _ = tokens(own, b, a, a - b)
    rows = [logits(x.flatten(0, 1)) for x in (student, teacher)]
    how = {"student_temperature": 1 / c, "visible_weight": 0.3, "teacher_temperature": 0.5}
    return F.ibot(*rows, mask, bias=bias(), **how, **keywords)


def _swav_queue(a: Tensor, b: Tensor, c: Tensor, t: Tensor, own: Own, **keywords: Any) -> Any:
    queue = [own.part("queue"), own.part("queue").flip(1)]
    how = {"temperature": 1 / c, "sinkhorn_temperature": 0.2, "iterations": 2}
    return F.swav([a, b], [a + b], prototypes(t), queue=queue, **how, **keywords)


PROTOTYPE_CASES = {
    "prototype_cross_entropy": Case(
        lambda a, b, c, t, o, **k: F.prototype_cross_entropy(
            a, b, prototypes(t), student_temperature=1 / c, sample_weight=o["weight"], **k
        )
    ),
    "prototype_cross_entropy, options": Case(_all_options),
    "prototype_cross_entropy, logits": Case(_of_logits),
    "prototype_cross_entropy, biases by block": Case(
        lambda a, b, c, t, o, **k: F.prototype_cross_entropy(
            a,
            torch.cat([b, a - b]),
            prototypes(t),
            pairs=pairs(o),
            student_temperature=1 / c,
            bias=torch.stack([bias(), bias().square()]),
            **k,
        )
    ),
    "dino": Case(
        lambda a, b, c, t, o, **k: F.dino(
            [a, b, a + b], [b, a], prototypes(t), student_temperature=1 / c, center=bias(), **k
        ),
        0,
    ),
    "dino, a last layer for each": Case(
        lambda a, b, c, t, o, **k: F.dino(
            torch.stack([a, b]), b[None], prototypes(t), fixed(), bias=bias(), **k
        ),
        0,
    ),
    "dino, logits": Case(
        lambda a, b, c, t, o, **k: F.dino([logits(a), logits(b)], [logits(b)], **k), 0
    ),
    "ibot": Case(_ibot, 0),
    "ibot, visible tokens": Case(_ibot_visible, 0),
    "swav": Case(
        lambda a, b, c, t, o, **k: F.swav([a, b], None, prototypes(t), temperature=1 / c, **k), 0
    ),
    "swav, queue": Case(_swav_queue, 0),
    "capi": Case(
        lambda a, b, c, t, o, **k: F.capi(
            torch.stack([a, b], 1),
            torch.stack([o["x1"], o["x2"], o["x1"] - o["x2"]], 1),
            prototypes(t),
            fixed(6),
            index=(o["labels"][:, None] + torch.arange(2)) % 3,
            student_temperature=1 / c,
            **k,
        ),
        0,
    ),
    "capi, logits": Case(
        lambda a, b, c, t, o, **k: F.capi(
            logits(torch.stack([a, b], 1)), logits(torch.stack([b, a], 1)), iterations=2, **k
        ),
        0,
    ),
    "swav, scores": Case(
        lambda a, b, c, t, o, **k: F.swav(
            torch.stack([logits(a), logits(b)]), [logits(a - b)], sinkhorn_temperature=0.5, **k
        ),
        0,
    ),
    "msn": Case(lambda a, b, c, t, o, **k: F.msn(a, b, prototypes(t), **k), 0),
    "msn, views": Case(
        lambda a, b, c, t, o, **k: F.msn(
            torch.cat([a, b, a + b]), b, prototypes(t), prior=0.25, iterations=2, **k
        ),
        0,
    ),
    "ressl": Case(
        lambda a, b, c, t, o, **k: F.ressl(a, b, unit(o.data["queue"]), temperature=1 / c, **k)
    ),
    "ressl, options": Case(
        lambda a, b, c, t, o, **k: F.ressl(
            a,
            b,
            unit(o.data["queue"]),
            temperature=o["temperature"] / c,
            key_temperature=o["temperature"],
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "x_clr": Case(lambda a, b, c, t, o, **k: F.x_clr(a, o["x2"], temperature=1 / c, **k)),
    "x_clr, options": Case(
        lambda a, b, c, t, o, **k: F.x_clr(
            a,
            o["x2"],
            temperature=o["temperature"] / c,
            target_temperature=o["temperature"],
            sample_weight=t.exp() * o["weight"],
            **k,
        )
    ),
    "proto_nce": Case(
        lambda a, b, c, t, o, **k: F.proto_nce(
            a, prototypes(t), o["labels"] % K, concentration=1 / c, sample_weight=o["weight"], **k
        )
    ),
    "proto_nce, concentrations": Case(
        lambda a, b, c, t, o, **k: F.proto_nce(
            a, prototypes(t), o["labels"] % K, concentration=bias().exp() / c, **k
        )
    ),
}


# ---- what a teacher adds to its logits, and modules ----


def _split(group: Any, split: tuple[int, ...], x: Tensor) -> Tensor:
    start = sum(split[: dist.get_rank(group)])
    return x[start : start + split[dist.get_rank(group)]]


def column_values(group: Any, splits: list[tuple[int, ...]], impl: str, kept: bool) -> float:
    """Column means and Sinkhorn biases of rows, or of logits, against one process; inf where the
    bits differ between ranks.
    """
    held, worst = _sinkhorn._KEPT, 0.0
    _sinkhorn._KEPT = held if kept else 0
    x = torch.sin(torch.arange(13.0 * 5).double().view(13, 5) ** 1.1)
    weight = torch.linspace(0.2, 2, 13, dtype=torch.float64)
    for split in splits:
        for w in (fixed(), None):
            for factors in (None, weight):
                every = {"sample_weight": factors, "impl": impl}
                own = {**every, "group": group}
                own["sample_weight"] = None if factors is None else _split(group, split, factors)
                mine, balanced = _split(group, split, x), {"temperature": 0.3, "start": "rows"}
                values = (
                    (F.column_mean(mine, w, **own), F.column_mean(x, w, **every)),
                    (
                        F.sinkhorn_bias(mine, w, **balanced, **own),
                        F.sinkhorn_bias(x, w, **balanced, **every),
                    ),
                )
                for got, want in values:
                    bits = [torch.empty_like(got) for _ in split]
                    dist.all_gather(bits, got, group=group)
                    same = all(torch.equal(b, bits[0]) for b in bits)
                    worst = max(worst, float((got - want).abs().max()) if same else float("inf"))
    _sinkhorn._KEPT = held
    return worst


def _calls(own: list[Tensor]) -> dict[str, Any]:
    """Each module and its call on the rows of a rank, or of all."""
    a, b = own
    mask = a.detach()[:, :3] > 0
    student, teacher = (torch.stack([x, x + 1, x - b], 1) for x in (a, b))
    w = fixed()
    return {
        "DINOLoss": lambda **k: sf.DINOLoss(K, **k).double()([b], [a, b], prototypes=w),
        "IBOTPatchLoss": lambda **k: sf.IBOTPatchLoss(K, **k).double()(
            teacher[mask], student[mask], mask, prototypes=w
        ),
        "IBOTPlusPlusPatchLoss": lambda **k: sf.IBOTPlusPlusPatchLoss(K, **k).double()(
            logits(teacher), logits(student), mask
        ),
        "SwaVLoss": lambda **k: sf.SwaVLoss(**k)([a, b], [], prototypes=w),
        "CAPILoss": lambda **k: sf.CAPILoss(**k)(teacher, student, prototypes=w),
        "MSNLoss": lambda **k: sf.MSNLoss(**k)(a, b, w),
        "PMSNLoss": lambda **k: sf.PMSNLoss(**k)(torch.cat([a, b]), b, w),
    }


MODULES = tuple(_calls([torch.zeros(2, 5)] * 2))
GATHERED = {
    "SwaVLoss": {"sinkhorn_gather_distributed": True},
    "CAPILoss": {"gather_distributed": True},
    "MSNLoss": {"gather_distributed": True},
    "PMSNLoss": {"gather_distributed": True},
}


def module(group: Any, name: str, gathered: bool) -> float:
    """A module over ranks of 3, 4, 5 ... samples against the module of one process."""
    rank, size = dist.get_rank(group), group.size()
    split = tuple(range(3, 3 + size))
    whole = [
        torch.sin(torch.arange(5.0 * sum(split)).double().view(-1, 5) ** p) for p in (1.1, 1.2)
    ]
    mask_rows = slice(sum(split[:rank]), sum(split[: rank + 1]))
    own = [x[mask_rows].clone().requires_grad_() for x in whole]
    for x in whole:
        x.requires_grad_()
    keywords = GATHERED[name] if gathered else {"group": group}
    got, want = _calls(own)[name](**keywords), _calls(whole)[name]()
    got.backward()
    want.backward()
    first = float((own[0].grad - size * whole[0].grad[mask_rows]).abs().max())
    return max(float((got - want).abs().detach()), first)


def centers(group: Any) -> dict[str, float]:
    """The centers after a step on uneven ranks: without a group the mean of the means of all
    processes, with one that of all rows.
    """
    rank, every = dist.get_rank(), dist.group.WORLD
    counts = [2 * (r + 1) for r in range(dist.get_world_size())]
    rows = [torch.sin(torch.arange(5.0 * n) + 7 * n).double().view(n, 5) for n in counts]
    own, means = rows[rank], torch.stack([x.mean(0) for x in rows]).mean(0)
    mask = torch.ones(len(own), 1, dtype=torch.bool)
    found = {}
    for name, keywords, mean in (
        ("means", {}, means),
        ("rows", {"group": every}, torch.cat(rows).mean(0)),
    ):
        dino, ibot = (kind(5, **keywords).double() for kind in (sf.DINOLoss, sf.IBOTPatchLoss))
        dino(own[None], [own, own.flip(0)])
        ibot(own, own.flip(0), mask)
        for center in (dino.center, ibot.center.value):
            off = float((center.flatten() - 0.1 * mean).abs().max())
            found[name] = max(found.get(name, 0.0), off)
    return found
