"""What the ranks do for test_training.py. Every function takes the group first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.ranks import buffer_bytes, bytes_sent

from .work import relative

COUNTS = (4, 0, 7, 2)


def columns(z: Tensor) -> Tensor:
    """Prototypes of rows, that every rank has."""
    return torch.ones(6, z.shape[1]).tril().to(z)


LOSSES: dict[str, Callable[..., Tensor]] = {
    "nt_xent": lambda a, b, c, **k: F.nt_xent(a, b, temperature=1 / c, **k),
    "dcl": lambda a, b, c, **k: F.dcl(a, b, temperature=1 / c, **k),
    "info_nce": lambda a, b, c, **k: F.info_nce(a, b, temperature=1 / c, **k),
    "clip": lambda a, b, c, **k: F.clip(a, b, c, **k),
    "siglip": lambda a, b, c, **k: F.siglip(a, b, c, c.detach() - 3, **k),
    "sup_con": lambda a, b, c, **k: F.sup_con(
        a, torch.zeros(len(a), dtype=torch.int64), temperature=1 / c, **k
    ),
    "vicreg": lambda a, b, c, **k: F.vicreg(a, b, **k) + 0 * c,
    "barlow_twins": lambda a, b, c, **k: F.barlow_twins(a, b, **k) + 0 * c,
    "spectral_contrastive": lambda a, b, c, **k: F.spectral_contrastive(a, b, **k) + 0 * c,
    "falcon": lambda a, b, c, **k: F.falcon(a, b, n_codes=12, **k) + 0 * c,
    "sigreg": lambda a, b, c, **k: F.sigreg(torch.stack([a, b]), slices=40, seed=0, **k) + 0 * c,
    "sigreg of pairs": lambda a, b, c, **k: F.sigreg(a, slices=None, **k) + 0 * c,
    "lejepa": lambda a, b, c, **k: F.lejepa([a, b], slices=None, **k) + 0 * c,
    "koleo": lambda a, b, c, **k: F.koleo(a, k=2, **k) + 0 * c,
    "moco": lambda a, b, c, **k: F.moco(a, b, torch.eye(a.shape[1]).to(a), temperature=1 / c, **k),
    "info_nce, threshold": lambda a, b, c, **k: F.info_nce(
        a, b, temperature=1 / c, ids=_pairs(a, k), threshold=0.3, margin=0.1, **k
    ),
    "info_nce, target": lambda a, b, c, **k: F.info_nce(
        a, torch.cat([a + b, b]), target=len(b) + torch.arange(len(b)), temperature=1 / c, **k
    ),
    "info_nce, weights": lambda a, b, c, **k: F.info_nce(
        a, b, temperature=1 / c, column_weight=a.detach()[:, 0].abs(), threshold=0.3, **k
    ),
    "info_nce, negatives of each query": lambda a, b, c, **k: F.info_nce(
        a, b, temperature=1 / c, negatives=torch.stack([a * b, a - b], 1), **k
    ),
    "gram_anchor": lambda a, b, c, **k: (
        F.gram_anchor(torch.stack([a, b, a + b], 1), torch.stack([b, b, b], 1), **k) + 0 * c
    ),
    "dino": lambda a, b, c, **k: F.dino(
        [a, b], [b], columns(a) * c, student_temperature=1 / c, **k
    ),
    "ibot": lambda a, b, c, **k: F.ibot(
        a,
        b,
        torch.ones(len(a), 1, dtype=torch.bool),
        columns(a) + c,
        student_temperature=1 / c,
        **k,
    ),
    "prototype_cross_entropy": lambda a, b, c, **k: F.prototype_cross_entropy(
        a, b, columns(a) + c, student_temperature=1 / c, mean_entropy=0.5, **k
    ),
    "swav": lambda a, b, c, **k: F.swav([a, b], None, columns(a) + c, temperature=1 / c, **k),
    "capi": lambda a, b, c, **k: F.capi(
        a[:, None], b[:, None], columns(a) + c, student_temperature=1 / c, **k
    ),
    "msn": lambda a, b, c, **k: F.msn(a, b, columns(a) + c, **k),
    "ressl": lambda a, b, c, **k: F.ressl(
        a, b, torch.eye(a.shape[1]).to(a), temperature=1 / c, **k
    ),
    "x_clr": lambda a, b, c, **k: F.x_clr(a, b, temperature=1 / c, **k),
    "proto_nce": lambda a, b, c, **k: F.proto_nce(
        a, columns(a) + c, torch.arange(len(a)) * 0, concentration=1 / c, **k
    ),
    "graph_info_nce": lambda a, b, c, **k: F.graph_info_nce(
        torch.cat([a, b]), views_of(a, k), temperature=1 / c, **k
    ),
    "graph_info_nce, non_positive": lambda a, b, c, **k: F.graph_info_nce(
        a, pairs_of(a, k), temperature=1 / c, negatives="non_positive", **k
    ),
    "graph_info_nce, per_positive": lambda a, b, c, **k: F.graph_info_nce(
        a, pairs_of(a, k), temperature=1 / c, negatives="per_positive", **k
    ),
    "graph_siglip": lambda a, b, c, **k: F.graph_siglip(
        a, b, pairs_of(a, k), c, c.detach() - 3, **k
    ),
    "graph_vicreg": lambda a, b, c, **k: F.graph_vicreg(a, pairs_of(a, k), **k) + 0 * c,
    "ls_simclr": lambda a, b, c, **k: F.ls_simclr(a, pairs_of(a, k), **k) + 0 * c,
}


def first_row(z: Tensor, keywords: dict[str, Any]) -> int:
    """The number of the first row of this rank in a call with these keywords."""
    group = keywords.get("group")
    return 0 if group is None else sum(COUNTS[: dist.get_rank(group)])


def _pairs(z: Tensor, keywords: dict[str, Any]) -> Tensor:
    """Ids by which two rows that follow each other are one."""
    return (torch.arange(len(z)) + first_row(z, keywords)) // 2


def views_of(z: Tensor, keywords: dict[str, Any]) -> sf.PairGraph:
    return sf.PairGraph.from_views(len(z), group=keywords.get("group"))


def pairs_of(z: Tensor, keywords: dict[str, Any]) -> sf.PairGraph:
    """Rows that follow each other, on any rank, as stored edges."""
    group = keywords.get("group")
    if group is None:
        n = len(z)
    else:
        n = sum(COUNTS[: group.size()])
    first = first_row(z, keywords)
    rows = torch.arange(first, first + len(z))
    both = torch.cat([rows, rows]), torch.cat([rows - 1, rows + 1])
    kept = (both[1] >= 0) & (both[1] < n)
    return sf.PairGraph.from_edges(both[0][kept] - first, both[1][kept], n=len(z), group=group)


class Batch:
    """All rows as leaves, and the leaves of this rank."""

    def __init__(self, group: Any, d: int = 5, dtype: Any = torch.float64, seed: int = 5) -> None:
        g = torch.Generator().manual_seed(seed)
        counts = COUNTS[: group.size()]
        start = sum(counts[: dist.get_rank(group)])
        self.size, self.here = group.size(), slice(start, start + counts[dist.get_rank(group)])
        wide = [torch.randn(sum(counts), d, generator=g, dtype=torch.float64) for _ in "ab"]
        self.whole = [x.to(dtype).requires_grad_() for x in wide]
        self.own = [x.detach()[self.here].clone().requires_grad_() for x in self.whole]
        self.scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
        self.own_scale = self.scale.detach().clone().requires_grad_()


def factors(group: Any, name: str) -> dict[str, float]:
    """Gradients before any averaging, after two backward passes with the factors 1 and 3."""
    loss, batch = LOSSES[name], Batch(group)
    one = loss(*batch.whole, batch.scale, impl="torch")
    one.backward()
    over = loss(*batch.own, batch.own_scale, group=group)
    sent = bytes_sent()
    over.backward(retain_graph=True)
    (3 * over).backward()
    quiet = bytes_sent() == sent
    with torch.no_grad():
        value = loss(*batch.own, batch.own_scale, group=group)
    rows = [
        relative(own.grad, 4 * batch.size * x.grad[batch.here]) if own.shape[0] else 0.0
        for own, x in zip(batch.own, batch.whole, strict=True)
        if x.grad is not None
    ]
    errors = {
        "value": relative(over.detach(), one.detach()),
        "no_grad": relative(value, one.detach()),
        "rows": max(rows),
        "scale": float((batch.own_scale.grad - 4 * batch.scale.grad).abs()),
        "backward is silent": 0.0 if quiet else 1.0,
    }
    try:
        torch.autograd.grad(
            loss(*batch.own, batch.own_scale, group=group), batch.own[0], create_graph=True
        )
        errors["second derivative is refused"] = 1.0
    except NotImplementedError as error:
        errors["second derivative is refused"] = float("impl='torch'" not in str(error))
    return errors


def second_derivative(group: Any, name: str) -> float:
    """impl="torch" over ranks: a penalty of the gradient, against one process."""
    loss, batch = LOSSES[name], Batch(group)
    (ours,) = torch.autograd.grad(
        loss(*batch.own, batch.own_scale, group=group, impl="torch"),
        batch.own[0],
        create_graph=True,
    )
    (theirs,) = torch.autograd.grad(
        loss(*batch.whole, batch.scale, impl="torch"), batch.whole[0], create_graph=True
    )
    ours.square().sum().backward()
    (batch.size**2 * theirs.square().sum()).backward()
    got, want = batch.own[0].grad, batch.whole[0].grad[batch.here]
    return max(
        float((ours - batch.size * theirs[batch.here]).abs().sum()),
        float((got - want).abs().sum() / batch.whole[0].grad.abs().max()),
    )


def pieces(group: Any, name: str, budget: int) -> tuple[float, float]:
    """Rows gathered a piece at a time: the error, and how many more bytes were sent."""
    loss, found = LOSSES[name], []
    for size in (1 << 30, budget):
        batch, before = Batch(group), bytes_sent()
        with buffer_bytes(size):
            value = loss(*batch.own, batch.own_scale, group=group)
        value.backward()
        grads = [x.grad for x in (*batch.own, batch.own_scale) if x.grad is not None]
        sent = bytes_sent() - before
        found.append((torch.cat([value.detach()[None], *(x.flatten() for x in grads)]), sent))
    return relative(found[1][0], found[0][0]), float(found[1][1] > found[0][1])


def rounding(group: Any, name: str, dtype: torch.dtype) -> dict[str, float]:
    """Errors over ranks and of one process against float64, for rows of another dtype."""
    loss, exact = LOSSES[name], Batch(group, 16)
    batch = Batch(group, 16, dtype)
    for one in (exact, batch):
        for x in (*one.whole, *one.own):
            x.data = x.data / x.data.double().norm(dim=1, keepdim=True).to(x.dtype)
    want = Batch(group, 16)
    for x, rows in zip(want.whole, batch.whole, strict=True):
        x.data = rows.data.double()
    scale = [torch.tensor(2.0, requires_grad=True) for _ in "ab"]
    for x in (*batch.whole, *batch.own):
        x.grad = None
    loss(*want.whole, want.scale, impl="torch").backward()
    loss(*batch.whole, scale[0]).backward()
    value = loss(*batch.own, scale[1], group=group)
    value.backward()
    one, over = 0.0, 0.0
    for exact_rows, whole, own in zip(want.whole, batch.whole, batch.own, strict=True):
        if exact_rows.grad is None:
            continue
        top = exact_rows.grad.abs().max()
        one = max(one, float((whole.grad.double() - exact_rows.grad).abs().max() / top))
        if own.shape[0]:
            mine = own.grad.double() / batch.size - exact_rows.grad[batch.here]
            over = max(over, float(mine.abs().max() / top))
    return {"one": one, "over": over, "dtype": float(value.dtype == torch.float32)}


def skipped_backward(group: Any) -> bool:
    """A rank that does not go backward lets the others go on."""
    batch = Batch(group)
    loss = F.nt_xent(*batch.own, group=group)
    if dist.get_rank(group) == 0:
        loss.backward()
    return bool(F.clip(*batch.own, 2.0, group=group).isfinite())


def accumulated(group: Any) -> float:
    """Two micro-batches under no_sync: the mean of both single-process gradients."""
    torch.manual_seed(0)
    net, one = (torch.nn.Linear(5, 4, dtype=torch.float64) for _ in "ab")
    one.load_state_dict(net.state_dict())
    ddp = DistributedDataParallel(net, process_group=group)
    for k in (0, 1):
        batch = Batch(group, seed=k)
        own, whole = (torch.stack(x).detach() for x in (batch.own, batch.whole))
        with ddp.no_sync() if k == 0 else torch.enable_grad():
            (F.nt_xent(*ddp(own), group=group) / 2).backward()
        (F.nt_xent(*one(whole), impl="torch") / 2).backward()
    return relative(net.weight.grad, one.weight.grad)


def cached(group: Any, order: str) -> dict[str, float]:
    """A step of the global batch by `sf.GradCache` around DDP or FSDP2, or inside DDP; the second
    of two steps that are added up. reduced: how often the gradients were exchanged in each.
    """
    torch.manual_seed(0)
    net, one = (torch.nn.Linear(5, 4, dtype=torch.float64) for _ in "ab")
    one.load_state_dict(net.state_dict())
    reductions = []

    def counted(state, bucket):  # DDP reads annotations, and takes no text for a type
        reductions.append(bucket.index())
        return allreduce_hook(state, bucket)

    if order == "sharded":
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        fully_shard(net, mesh=init_device_mesh("cpu", (group.size(),)))
        model, chunk = sf.GradCache(net, 100), 100
    else:
        chunk = 2
        inner = sf.GradCache(net, chunk) if order == "inside" else net
        ddp = DistributedDataParallel(inner, process_group=group)
        ddp.register_comm_hook(group, counted)
        model = sf.GradCache(ddp, chunk) if order == "around" else ddp
    for k in (0, 1):
        batch = Batch(group, seed=k)
        own, whole = (torch.cat(x).detach() for x in (batch.own, batch.whole))
        waits = order != "sharded" and k == 0
        with ddp.no_sync() if waits else contextlib.nullcontext():
            z = model(own)
        F.clip(*z.chunk(2), 2.0, group=group).backward()
        F.clip(*one(whole).chunk(2), 2.0, impl="torch").backward()
    grad = net.weight.grad
    return {
        "error": relative(grad.full_tensor() if order == "sharded" else grad, one.weight.grad),
        "reductions": len(reductions),
    }


def meshes(group: Any) -> tuple[float, str]:
    """A mesh of one dimension as the group, of two refused."""
    from torch.distributed.device_mesh import init_device_mesh

    size = group.size()
    batch, mesh = Batch(group), init_device_mesh("cpu", (size,))
    value = F.nt_xent(*batch.own, group=mesh).detach()
    error = relative(value, F.nt_xent(*batch.whole, impl="torch").detach())
    try:
        F.nt_xent(*batch.own, group=init_device_mesh("cpu", (2, size // 2)))
    except ValueError as refused:
        return error, str(refused)
    return error, ""


def sharded(group: Any) -> dict[str, float]:
    """FSDP2: weights that are sharded, and a scale that is a DTensor."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import Shard, distribute_tensor

    mesh, batch = init_device_mesh("cpu", (group.size(),)), Batch(group)
    torch.manual_seed(0)
    net, one = (torch.nn.Linear(5, 4, dtype=torch.float64) for _ in "ab")
    one.load_state_dict(net.state_dict())
    fully_shard(net, mesh=mesh)
    scale = torch.nn.Parameter(
        distribute_tensor(torch.tensor([2.0], dtype=torch.float64), mesh, [Shard(0)])
    )
    z = net(torch.cat(batch.own))
    n = len(batch.own[0])
    F.clip(z[:n], z[n:], scale.full_tensor()[0], group=mesh).backward()
    F.clip(*(one(x) for x in batch.whole), batch.scale, impl="torch").backward()
    return {
        "weight": relative(net.weight.grad.full_tensor(), one.weight.grad),
        "scale": relative(scale.grad.full_tensor()[0], batch.scale.grad),
    }


def beside_other_collectives(group: Any) -> float:
    """Two losses and a collective of torch's own in one compiled graph, which keeps their order."""
    from torch.distributed._functional_collectives import all_reduce

    torch._dynamo.reset()
    batch, size = Batch(group), group.size()

    def step(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        first = F.nt_xent(a, b, temperature=1 / c, group=group)
        rows = all_reduce(torch.ones(()).to(c) * a.shape[0], "sum", group)
        return first * rows + F.vicreg(a, b, group=group)

    run = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    value = run(*batch.own, batch.own_scale)
    value.backward()
    n = len(batch.whole[0])
    one = n * F.nt_xent(*batch.whole, temperature=1 / batch.scale, impl="torch")
    (one + F.vicreg(*batch.whole, impl="torch")).backward()
    errors = [float((batch.own_scale.grad - batch.scale.grad).abs() / batch.scale.grad.abs())]
    for own, x in zip(batch.own, batch.whole, strict=True):
        off = own.grad - size * x.grad[batch.here]
        errors.append(float(off.abs().sum() / x.grad.abs().max()))
    return max(errors)


def groups_of_a_step(group: Any) -> float:
    """Losses of two groups under DDP over all ranks: the mean of the two losses."""
    rank, size = dist.get_rank(), dist.get_world_size()
    parts = [dist.new_group([0, 2]), dist.new_group([1, 3])]
    torch.manual_seed(0)
    net, one = (torch.nn.Linear(5, 4, dtype=torch.float64) for _ in "ab")
    one.load_state_dict(net.state_dict())
    ddp = DistributedDataParallel(net, process_group=group)
    rows = torch.randn(2, size, 3, 5, generator=torch.Generator().manual_seed(5)).double()
    F.clip(*ddp(rows[:, rank]), 2.0, group=parts[rank % 2]).backward()
    for which in (0, 1):
        x, y = one(rows[:, which::2].reshape(2, -1, 5))
        (F.clip(x, y, 2.0, impl="torch") / 2).backward()
    return relative(net.weight.grad, one.weight.grad)


def under_autocast(group: Any, name: str) -> tuple[float, float]:
    """Of bfloat16 rows that autocast makes, the value over ranks and of one process against
    float64; and how far autocast around the loss moves it.
    """
    loss, batch = LOSSES[name], Batch(group, 16, torch.float32)
    layer = torch.eye(16)
    with torch.autocast("cpu", torch.bfloat16):
        own = [nnf.normalize((x @ layer).float()).bfloat16() for x in batch.own]
        whole = [nnf.normalize((x @ layer).float()).bfloat16() for x in batch.whole]
        scale = torch.tensor(2.0)
        got, one = loss(*own, scale, group=group), loss(*whole, scale)
    same = loss(*own, scale, group=group)
    exact = float(loss(*(x.detach().double() for x in whole), scale.double(), impl="torch"))
    assert got.dtype == torch.float32
    assert abs(float(got) - exact) <= 2 * abs(float(one) - exact) + 1e-5 * abs(exact)
    return float((got - same).abs()), abs(float(got) - exact) / abs(exact)


def compiled(group: Any, name: str) -> dict[str, float]:
    """One graph, whatever this rank's number of rows; equal to eager."""
    torch._dynamo.reset()  # of the losses before, which count as compilations of this function
    loss, batch = LOSSES[name], Batch(group)

    def step(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return loss(a * 1.5, b, c, group=group)

    run = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    value = run(*batch.own, batch.own_scale)
    value.backward()
    one = loss(batch.whole[0] * 1.5, batch.whole[1], batch.scale, impl="torch")
    one.backward()
    rows = [
        float((own.grad - batch.size * x.grad[batch.here]).abs().sum())
        for own, x in zip(batch.own, batch.whole, strict=True)
        if x.grad is not None
    ]
    return {"value": relative(value.detach(), one.detach()), "rows": max(rows)}
