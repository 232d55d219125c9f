"""What the ranks do for test_failures.py. Every function takes the group first."""

from __future__ import annotations

import os
import time
from typing import Any

import torch
import torch.distributed as dist

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _dtypes

D = torch.float64


def pair(n: int = 4, d: int = 5, dtype: torch.dtype = D, grad: bool = True) -> list[torch.Tensor]:
    torch.manual_seed(n)
    return [torch.randn(n, d).to(dtype).requires_grad_(grad) for _ in "ab"]


def _weights(n: float) -> Any:
    return lambda u, v: torch.ones(int(n) if n > 1 else len(u), dtype=D)


# name -> (what rank 1 does, what the others do)
CALLS: dict[str, Any] = {
    "features": (lambda g: F.nt_xent(*pair(d=4), group=g), lambda g: F.nt_xent(*pair(), group=g)),
    "dtype": (
        lambda g: F.vicreg(*pair(dtype=torch.float32), group=g),
        lambda g: F.vicreg(*pair(), group=g),
    ),
    "option": (
        lambda g: F.clip(*pair(), 2.0, label_smoothing=0.1, group=g),
        lambda g: F.clip(*pair(), 2.0, group=g),
    ),
    "reduction": (
        lambda g: F.clip(*pair(), 2.0, reduction="sum", group=g),
        lambda g: F.clip(*pair(), 2.0, group=g),
    ),
    "impl": (
        lambda g: F.clip(*pair(), 2.0, impl="torch", group=g),
        lambda g: F.clip(*pair(), 2.0, group=g),
    ),
    "loss": (lambda g: F.dcl(*pair(), group=g), lambda g: F.nt_xent(*pair(), group=g)),
    "requires_grad": (
        lambda g: F.siglip(*pair(grad=False), 2.0, -3.0, group=g),
        lambda g: F.siglip(*pair(), 2.0, -3.0, group=g),
    ),
    "no_grad": (
        lambda g: torch.no_grad()(F.barlow_twins)(*pair(), group=g),
        lambda g: F.barlow_twins(*pair(), group=g),
    ),
    "scale": (
        lambda g: F.clip(*pair(), torch.tensor(3.0, dtype=D), group=g),
        lambda g: F.clip(*pair(), torch.tensor(2.0, dtype=D), group=g),
    ),
    "bias": (
        lambda g: F.siglip(*pair(), 2.0, -1.0, group=g),
        lambda g: F.siglip(*pair(), 2.0, -3.0, group=g),
    ),
    "layout": (
        lambda g: F.nt_xent(*pair(), temperature=torch.full((4,), 0.5, dtype=D), group=g),
        lambda g: F.nt_xent(*pair(), group=g),
    ),
    "weights": (
        lambda g: F.nt_xent(*pair(), sample_weight=torch.ones(4, dtype=D), group=g),
        lambda g: F.nt_xent(*pair(), group=g),
    ),
    "weight_fn": (
        lambda g: F.dcl(*pair(), weight_fn=_weights(0), group=g),
        lambda g: F.dcl(*pair(), group=g),
    ),
    "weight_fn elsewhere": (
        lambda g: F.dcl(*pair(), group=g),
        lambda g: F.dcl(*pair(), weight_fn=_weights(0), group=g),
    ),
    "codes": (
        lambda g: F.falcon(*pair(), n_codes=8, group=g),
        lambda g: F.falcon(*pair(), n_codes=12, group=g),
    ),
    "products": (
        lambda g: _with_rounded_rows(lambda: F.clip(*pair(dtype=torch.float32), 2.0, group=g)),
        lambda g: F.clip(*pair(dtype=torch.float32), 2.0, group=g),
    ),
    "budget": (
        lambda g: _with_budget(lambda: F.nt_xent(*pair(), group=g)),
        lambda g: F.nt_xent(*pair(), group=g),
    ),
    "prefixes": (
        lambda g: F.matryoshka("nt_xent", *pair(), dims=[2, 5], group=g),
        lambda g: F.matryoshka("nt_xent", *pair(), dims=[2, 4, 5], group=g),
    ),
    "views": (
        lambda g: sf.SupConLoss(group=g)(pair(6)[0].view(2, 3, 5)),
        lambda g: sf.SupConLoss(group=g)(pair(6)[0].view(3, 2, 5)),
    ),
    "bank": (
        lambda g: sf.NTXentLoss(memory_bank_size=8, group=g)(*pair()),
        lambda g: sf.NTXentLoss(memory_bank_size=9, group=g)(*pair()),
    ),
    "directions": (
        lambda g: F.sigreg(pair()[0], slices=8, seed=1, group=g),
        lambda g: F.sigreg(pair()[0], slices=8, seed=2, group=g),
    ),
    "drawn": (
        lambda g: F.sigreg(pair()[0], slices=8, group=g),
        lambda g: F.sigreg(pair()[0], slices=9, group=g),
    ),
    "drawn elsewhere": (
        lambda g: F.sigreg(pair()[0], slices=8, seed=1, group=g),
        lambda g: F.sigreg(pair()[0], slices=8, group=g),
    ),
    "kernel": (
        lambda g: F.sigreg(pair()[0], slices=None, kernel=("imq", 1.0), group=g),
        lambda g: F.sigreg(pair()[0], slices=None, group=g),
    ),
    "queue": (
        lambda g: F.moco(*pair(), torch.eye(4, 5, dtype=D), group=g),
        lambda g: F.moco(*pair(), torch.eye(4, 5, dtype=D).flip(0)[:3], group=g),
    ),
    "rows of a queue": (
        lambda g: F.moco(*pair(), torch.eye(4, 5, dtype=D), group=g),
        lambda g: F.moco(*pair(), -torch.eye(4, 5, dtype=D), group=g),
    ),
    "bank of keys": (
        lambda g: sf.MemoryBank(8, 5, group=g).update(pair()[0]),
        lambda g: sf.MemoryBank(9, 5, group=g).update(pair()[0]),
    ),
    "ids of a bank": (
        lambda g: sf.MemoryBank(8, 5, group=g).update(pair()[0], [1, 2, 3, 4]),
        lambda g: sf.MemoryBank(8, 5, group=g).update(pair()[0]),
    ),
    "margin": (
        lambda g: F.info_nce(*pair(), margin=0.1, group=g),
        lambda g: F.info_nce(*pair(), group=g),
    ),
    "target": (
        lambda g: F.info_nce(*pair(), target=torch.arange(4), group=g),
        lambda g: F.info_nce(*pair(), group=g),
    ),
    "keys": (
        lambda g: F.info_nce(*pair(), target=torch.arange(4) + 1, group=g),
        lambda g: F.info_nce(*pair(), target=torch.arange(4), group=g),
    ),
    "weights of columns": (
        lambda g: F.info_nce(*pair(), column_weight=torch.ones(4), group=g),
        lambda g: F.info_nce(*pair(), group=g),
    ),
    "weights for other columns": (
        lambda g: F.info_nce(*pair(), column_weight=torch.ones(3), group=g),
        lambda g: F.info_nce(*pair(), column_weight=torch.ones(4), group=g),
    ),
    "negatives of each query": (
        lambda g: F.info_nce(*pair(), negatives=torch.ones(4, 3, 5, dtype=D), group=g),
        lambda g: F.info_nce(*pair(), negatives=torch.ones(4, 2, 5, dtype=D), group=g),
    ),
    "negatives of all queries": (
        lambda g: F.info_nce(*pair(), negatives=torch.ones(3, 5, dtype=D), group=g),
        lambda g: F.info_nce(*pair(), negatives=torch.ones(4, 2, 5, dtype=D), group=g),
    ),
    "negatives of other queries": (
        lambda g: F.info_nce(*pair(), negatives=torch.ones(3, 2, 5, dtype=D), group=g),
        lambda g: F.info_nce(*pair(), negatives=torch.ones(4, 2, 5, dtype=D), group=g),
    ),
    "patches": (
        lambda g: F.gram_anchor(*(x.view(1, 4, 5) for x in pair()), group=g),
        lambda g: F.gram_anchor(*(x.view(2, 2, 5) for x in pair()), group=g),
    ),
    "patches of the teacher": (
        lambda g: F.gram_anchor(*(x.view(1, 4, 5) for x in pair()), group=g),
        lambda g: F.gram_anchor(pair()[0], pair(d=4)[0], group=g),
    ),
    "clamp": (
        lambda g: F.gram_anchor(*pair(), clamp=True, group=g),
        lambda g: F.gram_anchor(*pair(), group=g),
    ),
    "images of the teacher": (
        lambda g: F.gram_anchor(pair()[0], pair(3)[0], group=g),
        lambda g: F.gram_anchor(*pair(), group=g),
    ),
    "neighbours": (
        lambda g: F.koleo(pair()[0], k=12, group=g),
        lambda g: F.koleo(pair()[0], k=12, group=g),
    ),
    "groups of rows": (
        lambda g: F.koleo(pair(6)[0], group_size=4, group=g),
        lambda g: F.koleo(pair(4)[0], group_size=4, group=g),
    ),
    "long rows": (
        lambda g: F.sigreg(400 * pair()[0], slices=None, group=g),
        lambda g: F.sigreg(pair()[0], slices=None, group=g),
    ),
    "prototypes": (
        lambda g: F.msn(*pair(), torch.eye(4, 5, dtype=D), group=g),
        lambda g: F.msn(*pair(), torch.eye(4, 5, dtype=D).flip(0) * 2, group=g),
    ),
    "center": (
        lambda g: F.dino(pair(), pair(), center=torch.ones(5, dtype=D), group=g),
        lambda g: F.dino(pair(), pair(), center=torch.zeros(5, dtype=D), group=g),
    ),
    "crops": (
        lambda g: F.dino(pair(), pair(), group=g),
        lambda g: F.dino([*pair(), pair()[0]], pair(), group=g),
    ),
    "views of the teacher": (
        lambda g: F.dino(pair(), pair()[:1], group=g),
        lambda g: F.dino(pair(), pair(), group=g),
    ),
    "dtype of the teacher": (
        lambda g: F.x_clr(pair()[0], pair(dtype=torch.float32)[1], group=g),
        lambda g: F.x_clr(*pair(), group=g),
    ),
    "temperature of the teacher": (
        lambda g: F.ressl(*pair(), torch.eye(5, dtype=D), key_temperature=0.1, group=g),
        lambda g: F.ressl(*pair(), torch.eye(5, dtype=D), group=g),
    ),
    "pairs": (
        lambda g: F.prototype_cross_entropy(*pair(), None, pairs=([0, 1], [1, 0]), group=g),
        lambda g: F.prototype_cross_entropy(*pair(), None, group=g),
    ),
    "rounds": (
        lambda g: F.sinkhorn_bias(pair()[0], temperature=1.0, iterations=2, group=g),
        lambda g: F.sinkhorn_bias(pair()[0], temperature=1.0, group=g),
    ),
    "start": (
        lambda g: F.sinkhorn_bias(pair()[0], temperature=1.0, start="rows", group=g),
        lambda g: F.sinkhorn_bias(pair()[0], temperature=1.0, group=g),
    ),
    "codes of a queue": (
        lambda g: F.swav(pair(), queue=pair(2), group=g),
        lambda g: F.swav(pair(), group=g),
    ),
    "logits of a center": (
        lambda g: sf.DINOLoss(4).double()(pair(d=4), pair(d=4)),
        lambda g: sf.DINOLoss(5).double()(pair(), pair()),
    ),
    "views of a target": (
        lambda g: F.msn(pair(8)[0], pair(4)[0], torch.eye(5, dtype=D), group=g),
        lambda g: F.msn(*pair(), torch.eye(5, dtype=D), group=g),
    ),
    "weights of no mean": (
        lambda g: F.column_mean(pair()[0], sample_weight=torch.zeros(4, dtype=D), group=g),
        lambda g: F.column_mean(pair()[0], sample_weight=torch.zeros(4, dtype=D), group=g),
    ),
    "pairs without a weight": (
        lambda g: _weightless_pairs(g),
        lambda g: _weightless_pairs(g),
    ),
    "pairs over ranks": (
        lambda g: F.prototype_cross_entropy(*pair(), None, pairs=_graph(g), group=g),
        lambda g: F.prototype_cross_entropy(
            *pair(), None, pairs=sf.PairGraph.from_labels([0] * 4), group=_made(g)
        ),
    ),
    "biases beside pairs over ranks": (
        lambda g: F.prototype_cross_entropy(
            *pair(), None, pairs=_graph(g), bias=torch.zeros(2, 5, dtype=D)
        ),
        lambda g: F.prototype_cross_entropy(*pair(), None, pairs=_graph(g)),
    ),
    "pairs of another group": (
        lambda g: F.prototype_cross_entropy(*pair(), None, pairs=_graph(g), group=dist.group.WORLD),
        lambda g: F.prototype_cross_entropy(*pair(), None, pairs=_graph(g), group=g),
    ),
    "tokens": (
        lambda g: F.ibot(*pair(3), torch.ones(2, 2, dtype=torch.bool), group=g),
        lambda g: F.ibot(*pair(), torch.ones(2, 2, dtype=torch.bool), group=g),
    ),
    "biases by block": (
        lambda g: F.prototype_cross_entropy(
            *pair(), None, bias=torch.zeros(2, 5, dtype=D), group=g
        ),
        lambda g: F.prototype_cross_entropy(*pair(), None, bias=torch.zeros(5, dtype=D), group=g),
    ),
    "an error beside a center": (
        lambda g: sf.DINOLoss(5, student_temp=-1.0).double()(pair(), pair()),
        lambda g: sf.DINOLoss(5).double()(pair(), pair()),
    ),
    "error": (
        lambda g: F.nt_xent(*pair(), temperature=-1.0, group=g),
        lambda g: F.nt_xent(*pair(), group=g),
    ),
    "shapes": (
        lambda g: F.info_nce(pair(4)[0], pair(3)[0], group=g),
        lambda g: F.info_nce(*pair(), group=g),
    ),
    "keyword": (
        lambda g: F.vicreg(*pair(), nonsense=1, group=g),
        lambda g: F.vicreg(*pair(), group=g),
    ),
    "error in weight_fn": (
        lambda g: F.dcl(*pair(), weight_fn=_weights(2), group=g),
        lambda g: F.dcl(*pair(), weight_fn=_weights(0), group=g),
    ),
    "prefix": (
        lambda g: F.matryoshka("nt_xent", *pair(), dims=[9], group=g),
        lambda g: F.matryoshka("nt_xent", *pair(), dims=[5], group=g),
    ),
    "labels": (
        lambda g: sf.SupConLoss(group=g)(pair(6)[0].view(3, 2, 5), torch.zeros(2)),
        lambda g: sf.SupConLoss(group=g)(pair(6)[0].view(3, 2, 5), torch.zeros(3)),
    ),
    "rows of the bank": (
        lambda g: sf.NTXentLoss(memory_bank_size=8, group=g)(pair()[0], pair(3)[0]),
        lambda g: sf.NTXentLoss(memory_bank_size=8, group=g)(*pair()),
    ),
    "no rows anywhere": (
        lambda g: F.nt_xent(*pair(0), group=g),
        lambda g: F.nt_xent(*pair(0), group=g),
    ),
    "one row for a covariance": (
        lambda g: F.vicreg(*pair(1), group=g),
        lambda g: F.vicreg(*pair(0), group=g),
    ),
    "weights without a mean": (
        lambda g: F.clip(*pair(), 2.0, sample_weight=torch.zeros(4, dtype=D), group=g),
        lambda g: F.clip(*pair(), 2.0, sample_weight=torch.zeros(4, dtype=D), group=g),
    ),
}


def _graph(group: Any) -> Any:
    return sf.PairGraph.from_labels([0] * 4, group=group)


def _made(group: Any) -> Any:
    """The group, after a graph over its ranks, which all of them must make."""
    _graph(group)
    return group


def _weightless_pairs(group: Any) -> Any:
    none = torch.zeros(2, dtype=D)
    return F.prototype_cross_entropy(*pair(), None, pairs=([0, 1], [1, 0], none), group=group)


def _with_budget(call: Any) -> Any:
    from sslspec_fast.ranks import buffer_bytes

    with buffer_bytes(1000):
        return call()


def _with_rounded_rows(call: Any) -> Any:
    """What `set_float32_products` changes, on a processor without such products too."""
    _dtypes.change_float32_products(torch.bfloat16)
    try:
        return call()
    finally:
        _dtypes.change_float32_products(torch.float32)


def told(group: Any, name: str) -> tuple[str, str, float]:
    """Type, text and seconds of the error of a call, after which the ranks still work together."""
    odd, others = CALLS[name]
    kind, text, begin = "", "", time.monotonic()
    try:
        (odd if dist.get_rank(group) == 1 else others)(group)
    except Exception as error:
        kind, text = type(error).__name__, str(error)
    seconds = time.monotonic() - begin
    F.nt_xent(*pair(), group=group).backward()
    return kind, text, seconds


def not_a_group(group: Any) -> list[str]:
    """What is refused before anything is sent."""
    # every process must make the group; one of them alone is in it
    alone = dist.new_group([0])
    found = []
    for given in (3, alone if dist.get_rank() else dist.GroupMember.NON_GROUP_MEMBER):
        try:
            F.nt_xent(*pair(), group=given)
            found.append("")
        except (TypeError, ValueError) as error:
            found.append(f"{type(error).__name__}: {error}")
    return found


# what a rank that goes on meets where rank 1 does not: (before it stops, after)
LEFT: dict[str, Any] = {
    "before": (lambda g: None, lambda g, held: F.nt_xent(*pair(), group=g)),
    "between": (
        lambda g: F.nt_xent(*pair(), group=g),
        lambda g, held: (held.backward(), F.nt_xent(*pair(), group=g)),
    ),
    "between, of rows": (
        lambda g: F.nt_xent(*pair(), reduction="none", group=g),
        lambda g, held: held.sum().backward(),
    ),
    "graph": (
        lambda g: sf.PairGraph.from_edges([0, 1], [1, 4], n=4, group=g),
        lambda g, held: held @ pair()[0],
    ),
}


def dies(group: Any, where: str) -> tuple[float, str]:
    """Rank 1 ends; what the others see, and when."""
    return _alone(group, where, lambda: os._exit(3))


def stays_away(group: Any, where: str) -> tuple[float, str]:
    """Rank 1 makes no further call, as one with fewer steps, or that skips a backward pass."""
    return _alone(group, where, lambda: None)


def _alone(group: Any, where: str, leave: Any) -> tuple[float, str]:
    before, after = LEFT[where]
    held, begin = before(group), time.monotonic()
    if dist.get_rank(group) == 1:
        leave()
        return 0.0, "RuntimeError"
    try:
        after(group, held)
    except Exception as error:
        return time.monotonic() - begin, type(error).__name__
    return time.monotonic() - begin, ""
