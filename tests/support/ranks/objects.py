"""What the ranks do for test_modules.py. Every function takes the group first."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.integrations import sentence_transformers as sentences
from sslspec_fast.losses._catalogue import CATALOGUE, TWO_VIEWS
from sslspec_fast.ranks import Held

from .training import Batch, pairs_of
from .work import relative

Module = torch.nn.Module


class _first(torch.nn.Module):
    """A module of one view, called with two."""

    def __init__(self, loss: Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.loss(a) + 0 * b.sum()


class _views(_first):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.loss(global_proj=[a, b], local_proj=[a + b])


class _patches(_first):
    def forward(self, a: Tensor, b: Tensor) -> Any:
        return self.loss(torch.stack([a, b, a * b], 1), torch.stack([b, b, a], 1))


class _related(_first):
    """Of pairs that follow each other, on any rank."""

    def __init__(self, loss: Module, group: Any) -> None:
        super().__init__(loss)
        self.held = Held("GraphSigLIPLoss", group) if group is not None else None

    def forward(self, a: Tensor, b: Tensor) -> Any:
        group = None if self.held is None else self.held.group
        return self.loss(a, b, pairs_of(a, {"group": group}), 2.0, -1.0)


# name -> (the module over a group, the module of one process)
PAIRS: dict[str, tuple[Callable[..., Module], Callable[[], Module]]] = {
    "NTXentLoss": (lambda **k: sf.NTXentLoss(0.3, **k), lambda: sf.NTXentLoss(0.3)),
    "DCLLoss": (lambda **k: sf.DCLLoss(**k), sf.DCLLoss),
    "DCLWLoss": (lambda **k: sf.DCLWLoss(0.2, 0.7, **k), lambda: sf.DCLWLoss(0.2, 0.7)),
    "VICRegLoss": (lambda **k: sf.VICRegLoss(**k), sf.VICRegLoss),
    "BarlowTwinsLoss": (lambda **k: sf.BarlowTwinsLoss(**k), sf.BarlowTwinsLoss),
    "InfoNCELoss": (lambda **k: sf.InfoNCELoss(**k), sf.InfoNCELoss),
    "SpectralContrastiveLoss": (
        lambda **k: sf.SpectralContrastiveLoss(0.5, **k),
        lambda: sf.SpectralContrastiveLoss(0.5),
    ),
    "FalconLoss": (lambda **k: sf.FalconLoss(5, 16, **k), lambda: sf.FalconLoss(5, 16)),
    "MatryoshkaLoss": (
        lambda **k: sf.MatryoshkaLoss("dcl", [2, 5], **k),
        lambda: sf.MatryoshkaLoss("dcl", [2, 5]),
    ),
    "SIGReg": (
        lambda **k: _first(sf.SIGReg(num_vectors=None, **k)),
        lambda: _first(sf.SIGReg(num_vectors=None)),
    ),
    "LeJEPALoss": (
        lambda **k: _views(sf.LeJEPALoss(0.3, sigreg_num_vectors=None, **k)),
        lambda: _views(sf.LeJEPALoss(0.3, sigreg_num_vectors=None)),
    ),
    "GramAnchorLoss": (
        lambda **k: _patches(sf.GramAnchorLoss(True, **k)),
        lambda: _patches(sf.GramAnchorLoss(True)),
    ),
    "GraphSigLIPLoss": (
        lambda **k: _related(sf.GraphSigLIPLoss(**k), k["group"]),
        lambda: _related(sf.GraphSigLIPLoss(), None),
    ),
    "KoLeoLoss": (lambda **k: _first(sf.KoLeoLoss(**k)), lambda: _first(sf.KoLeoLoss())),
    "CLIPLoss": (lambda **k: sf.CLIPLoss(**k), sf.CLIPLoss),
    "SigLIPLoss": (lambda **k: sf.SigLIPLoss(**k), sf.SigLIPLoss),
}
for row in CATALOGUE.values():
    if row.inputs == TWO_VIEWS:
        for kind in row.modules:
            PAIRS.setdefault(kind, (getattr(sf, kind), getattr(sf, kind)))
GATHERED = ("NTXentLoss", "DCLLoss", "DCLWLoss", "VICRegLoss", "BarlowTwinsLoss")
GATHERED += ("SIGReg", "LeJEPALoss")


def module(group: Any, name: str, how: str) -> dict[str, float]:
    """A module over ranks against the module of one process with all rows."""
    over, single = PAIRS[name]
    keywords: dict[str, Any] = {"group": group}
    if how == "gather_distributed":
        keywords = {"gather_distributed": True}
    elif how == "open_clip":
        keywords = {"rank": dist.get_rank(group), "world_size": group.size()}
    loss, one, batch = copy.deepcopy(over(**keywords)), single(), Batch(group)
    scales: tuple[Any, Any] = ((), ())
    if name in ("CLIPLoss", "SigLIPLoss"):
        scales = (batch.own_scale,), (batch.scale,)
    got, want = loss(*batch.own, *scales[0]), one(*batch.whole, *scales[1])
    got.backward()
    want.backward()
    mine = [
        float((x.grad - batch.size * y.grad[batch.here]).abs().sum())
        for x, y in zip(batch.own, batch.whole, strict=True)
    ]
    scale = float((batch.own_scale.grad - batch.scale.grad).abs()) if scales[0] else 0.0
    return {"value": relative(got.detach(), want.detach()), "rows": max(mine), "scale": scale}


class _Texts(torch.nn.Module):
    """What the losses of the integration take for a SentenceTransformer; a text is its features."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.linear = torch.nn.Linear(5, 4, dtype=torch.float64)
        self.tokenizer = self

    def get_vocab(self) -> dict[str, int]:
        return {}

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"sentence_embedding": self.linear(features["x"])}


SENTENCES: dict[str, Callable[..., Module]] = {
    "GISTEmbedLoss": lambda m, **k: sentences.GISTEmbedLoss(m, _Texts(1), 0.3, margin=0.1, **k),
    "MultipleNegativesRankingLoss": lambda m, **k: sentences.MultipleNegativesRankingLoss(
        m, 2.0, symmetric=True, **k
    ),
    "MatryoshkaLoss": lambda m, **k: sentences.MatryoshkaLoss(m, [2, 4], scale=2.0, **k),
}


def of_sentences(group: Any, name: str) -> dict[str, float]:
    """Anchors, positives and negatives of all processes, under DDP, against one process."""
    batch = Batch(group)
    one, net = _Texts(0), _Texts(0)
    ddp = torch.nn.parallel.DistributedDataParallel(net, process_group=group)
    found = []
    for model, rows, gathered in ((one, batch.whole, False), (net, batch.own, True)):
        loss = SENTENCES[name](model, gather_across_devices=gathered)
        loss.model = ddp if gathered else model  # as the trainer does
        a, b = (x.detach() for x in rows)
        value = loss({"x": x} for x in (a, b, a * b))
        value.backward()
        found.append(value.detach())
    return {
        "value": relative(found[1], found[0]),
        "gradient": relative(net.linear.weight.grad, one.linear.weight.grad),
    }


def bank(group: Any) -> float:
    """Two steps against a memory bank: the rows of all ranks are stored on all, in rank order."""
    torch.manual_seed(dist.get_rank(group))  # other ranks begin with another bank
    loss = sf.NTXentLoss(0.3, (20, 5), group=group)
    first = loss.bank.clone()
    dist.broadcast(first, dist.get_global_rank(group, 0), group=group)
    one, worst = sf.NTXentLoss(0.3, (20, 5)), 0.0
    one.bank.copy_(first)
    for k in range(3):
        batch = Batch(group, seed=k)
        got, want = loss(*batch.own), one(*batch.whole)
        got.backward()
        want.backward()
        worst = max(
            worst,
            relative(got.detach(), want.detach()),
            float((loss.bank - one.bank).abs().max()),
            float((loss.next - one.next).abs()),
            float((batch.own[0].grad - batch.size * batch.whole[0].grad[batch.here]).abs().sum()),
        )
    return worst


def queue(group: Any) -> float:
    """MoCo's queue: every rank stores the keys of all, and has the loss of all queries."""
    options: dict[str, Any] = {"ids": True, "dtype": torch.float64}
    over, one = sf.MemoryBank(20, 5, group=group, **options), sf.MemoryBank(20, 5, **options)
    worst = 0.0
    for k in range(3):
        batch = Batch(group, seed=k)
        ids = torch.arange(len(batch.whole[0])) % 4
        how = {"margin": 0.1, "temperature": 0.3}
        got = F.moco(
            *batch.own, over.rows, ids=ids[batch.here], queue_ids=over.ids, group=group, **how
        )
        want = F.moco(*batch.whole, one.rows, ids=ids, queue_ids=one.ids, **how)
        got.backward()
        want.backward()
        over.update(batch.own[1], ids[batch.here])
        one.update(batch.whole[1], ids)
        mine = batch.own[0].grad - batch.size * batch.whole[0].grad[batch.here]
        worst = max(
            worst,
            relative(got.detach(), want.detach()),
            float(mine.abs().sum()),
            float((over.rows - one.rows).abs().max()),
            float((over.ids - one.ids).abs().max()),
        )
    return worst


def drawn(group: Any) -> dict[str, Any]:
    """Directions without a seed are those of the first rank, and the generators stay in step."""
    torch.manual_seed(dist.get_rank(group))
    batch = Batch(group)
    first, second = (F.sigreg(batch.own[0], slices=8, group=group).item() for _ in "ab")
    torch.manual_seed(0)
    whole = [F.sigreg(batch.whole[0], slices=8).item() for _ in "ab"]
    views = torch.stack(batch.whole)
    want = F.sigreg(views, slices=8, seed=1, reduction="none")
    got = F.sigreg(torch.stack(batch.own), slices=8, seed=1, reduction="none", group=group)
    summed = F.sigreg(torch.stack(batch.own), slices=8, seed=1, reduction="sum", group=group)
    grads = torch.autograd.grad((got * torch.tensor([1.0, -2.0])).sum(), batch.own)
    wanted = torch.autograd.grad((want * torch.tensor([1.0, -2.0])).sum(), batch.whole)
    return {
        "drawn": max(abs(a - b) for a, b in zip((first, second), whole, strict=True)),
        "differ": first != second,
        "by view": relative(got.detach(), want.detach()),
        "sum": float((summed - want.sum()).abs()),
        "rows": max(
            float((a - batch.size * b[batch.here]).abs().sum())
            for a, b in zip(grads, wanted, strict=True)
        ),
    }


def _labels(n: int) -> dict[str, Tensor | None]:
    of = torch.arange(n)
    return {
        "none": None,
        "integers": of % 3 - 1,
        "floats": torch.tensor([0.5, -1.0, 2.25, 0.5])[of % 4],
    }


def sup_con(group: Any, labels: str, mode: str, empty: bool) -> float:
    """SupContrast's call with the labels of a rank's own samples."""
    batch = Batch(group)
    n = batch.whole[0].shape[0]
    if not empty:  # the first rows of every rank; none of them has 0
        rank, n = dist.get_rank(group), 3 * group.size()
        batch.here = slice(3 * rank, 3 * rank + 3)
    every = torch.stack([x.detach()[:n] for x in batch.whole], 1).requires_grad_()
    own = every.detach()[batch.here].clone().requires_grad_()
    y = _labels(n)[labels]
    over = sf.SupConLoss(0.3, mode, 0.1, group=group)
    got = over(own, None if y is None else y[batch.here])
    want = sf.SupConLoss(0.3, mode, 0.1)(every, y)
    got.backward()
    want.backward()
    return max(
        relative(got.detach(), want.detach()),
        float((own.grad - batch.size * every.grad[batch.here]).abs().sum()),
    )


def held(group: Any) -> dict[str, Any]:
    """What a module does with its group."""
    loss = sf.CLIPLoss(group=group)
    found: dict[str, Any] = {"repr": repr(loss), "state": len(loss.state_dict())}
    found["copy"] = copy.deepcopy(loss).group is group
    for key, call in {
        "pickle": lambda: pickle.dumps(loss),
        "mask": lambda: sf.SupConLoss(group=group)(torch.ones(2, 2, 3), mask=torch.ones(2, 2)),
        "rank": lambda: sf.CLIPLoss(rank=dist.get_rank() + 1, world_size=dist.get_world_size()),
        "size": lambda: sf.SigLIPLoss(rank=0, world_size=17),
    }.items():
        try:
            call()
        except (TypeError, ValueError) as error:
            found[key] = f"{type(error).__name__}: {error}"
    return found
