"""The losses of lightly and open_clip over ranks, by their formulas; see test_peers.py.

Each is what the library computes on a rank of the rows of that rank and of the gathered rows of
all, equal on all ranks in number. Their sum over ranks is what DDP minimises, W times the mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as nnf
from torch import Tensor

import sslspec_fast as sf

ROWS, D = 4, 5


class _Gather(torch.autograd.Function):
    """lightly's GatherLayer; open_clip's all_gather with gradient does the same."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.rows = len(x)
        every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
        dist.all_gather(every, x)
        return torch.cat(every)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        start = dist.get_rank() * ctx.rows
        return total[start : start + ctx.rows]


class _Sum(torch.autograd.Function):
    """torch.distributed.nn.all_reduce."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _Sum.apply(grad)


def gather(x: Tensor, with_grad: bool = True) -> Tensor:
    """with_grad=False: open_clip's default, in which the own rows alone have a gradient."""
    if with_grad:
        out: Tensor = _Gather.apply(x)
        return out
    every = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(every, x.detach())
    every[dist.get_rank()] = x
    return torch.cat(every)


def labels(n: int = ROWS) -> Tensor:
    return torch.arange(n) + n * dist.get_rank()


def _others(logits: Tensor) -> Tensor:
    """Without the pairs of a sample with itself."""
    own = nnf.one_hot(labels(), logits.shape[1]).bool()
    return logits[~own].view(len(logits), -1)


def nt_xent(x: Tensor, y: Tensor, t: float = 0.5) -> Tensor:
    x, y = nnf.normalize(x), nnf.normalize(y)
    all_x, all_y = gather(x), gather(y)
    first = torch.cat([x @ all_y.T, _others(x @ all_x.T)], 1)
    second = torch.cat([y @ all_x.T, _others(y @ all_y.T)], 1)
    return nnf.cross_entropy(torch.cat([first, second]) / t, labels().repeat(2))


def dcl(x: Tensor, y: Tensor, t: float = 0.1, weight_fn: Any = None) -> Tensor:
    x, y = nnf.normalize(x), nnf.normalize(y)
    sides = (x, y, gather(x), gather(y)), (y, x, gather(y), gather(x))
    total = x.new_zeros(())
    for own, other, all_own, all_other in sides:
        positive = -(own * other).sum(1) / t
        if weight_fn is not None:
            positive = positive * weight_fn(own, other)
        negative = torch.cat([_others(own @ all_own.T), _others(own @ all_other.T)], 1) / t
        total = total + 0.5 * (positive + negative.logsumexp(1)).mean()
    return total


def dclw(x: Tensor, y: Tensor) -> Tensor:
    def weights(u: Tensor, v: Tensor) -> Tensor:  # of the rows of a rank, where ours are of all
        return 2 - len(u) * nnf.softmax((u * v).sum(1) / 0.5, dim=0)

    return dcl(x, y, weight_fn=weights)


def vicreg(x: Tensor, y: Tensor) -> Tensor:
    total = 25 * nnf.mse_loss(x, y)
    for z in (gather(x), gather(y)):
        z = z - z.mean(0)
        total = total + 12.5 * torch.relu(1 - (z.var(0) + 1e-4).sqrt()).mean()
        cov = z.T @ z / (len(z) - 1)
        off = cov - torch.diag(cov.diagonal())
        total = total + off.square().sum() / D
    return total


def barlow_twins(x: Tensor, y: Tensor) -> Tensor:
    """Rows are normalised by the statistics of their rank, where ours are those of all."""
    a, b = (nnf.batch_norm(z, None, None, training=True) for z in (x, y))
    c = _Sum.apply(a.T @ b / len(a) / dist.get_world_size())
    off = c - torch.diag(c.diagonal())
    return (c.diagonal() - 1).square().sum() + 5e-3 * off.square().sum()


def sigreg(x: Tensor, y: Tensor) -> Tensor:
    """One draw of directions for all ranks, that of the first."""
    torch.manual_seed(0)
    a = torch.randn(D, 1024).to(x)
    a = a / a.norm(dim=0)
    t = torch.linspace(0, 3, 17, dtype=x.dtype)
    n, phi = len(x) * dist.get_world_size(), torch.exp(-t.square() / 2)
    angle = (x @ a)[..., None] * t
    gap = (_Sum.apply(angle.cos().sum(0)) / n - phi).square()
    gap = gap + (_Sum.apply(angle.sin().sum(0)) / n).square()
    return n * 2 * torch.trapezoid(phi * gap, t).mean()


def clip(x: Tensor, y: Tensor, local_loss: bool, gather_with_grad: bool) -> Tensor:
    x, y = nnf.normalize(x), nnf.normalize(y)
    all_x, all_y = gather(x, gather_with_grad), gather(y, gather_with_grad)
    if not local_loss:
        logits, every = 2.0 * all_x @ all_y.T, torch.arange(len(all_x))
        return 0.5 * (nnf.cross_entropy(logits, every) + nnf.cross_entropy(logits.T, every))
    if not gather_with_grad:
        all_x, all_y = all_x.detach(), all_y.detach()
    first = nnf.cross_entropy(2.0 * x @ all_y.T, labels())
    return 0.5 * (first + nnf.cross_entropy(2.0 * y @ all_x.T, labels()))


def siglip(x: Tensor, y: Tensor) -> Tensor:
    x, y = nnf.normalize(x), nnf.normalize(y)
    logits = 2.0 * x @ gather(y).T - 3.0
    sign = 2.0 * nnf.one_hot(labels(), logits.shape[1]) - 1
    return -nnf.logsigmoid(sign * logits).sum() / len(x)


def _sinkhorn(codes: Tensor) -> Tensor:
    """Three rounds: columns of one sum over all ranks, rows of the sum 1."""
    for _ in range(3):
        columns = codes.sum(0)
        dist.all_reduce(columns)
        codes = codes / columns
        codes = codes / codes.sum(1, keepdim=True)
    return codes


def swav(x: Tensor, y: Tensor) -> Tensor:
    """Of scores."""
    total = x.new_zeros(())
    for own, other in ((x, y), (y, x)):
        codes = _sinkhorn((own.detach() / 0.05).exp())
        total = total - 0.5 * (codes * nnf.log_softmax(other / 0.1, 1)).sum(1).mean()
    return total


def prototypes() -> Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.randn(6, D, generator=g, dtype=torch.float64)


def msn(x: Tensor, y: Tensor, regularization: float) -> Tensor:
    w = nnf.normalize(prototypes())
    own, target = (nnf.softmax(nnf.normalize(z) @ w.T / 0.1, 1) for z in (x, y.detach()))
    sharp = target**4
    sharp = _sinkhorn(sharp / sharp.sum(1, keepdim=True))
    mean = own.mean(0)  # of a rank, where ours is of all
    entropy = -(mean * mean.log()).sum()
    return -(sharp * own.log()).sum(1).mean() + regularization * (math.log(6) - entropy)


Call = Callable[[Tensor, Tensor], Tensor]


def _pair_of(loss: Any) -> Call:
    return lambda x, y: loss([x, y], [])


def _with_prototypes(regularization: float) -> Call:
    loss = sf.MSNLoss(regularization_weight=regularization, gather_distributed=True)
    return lambda x, y: loss(x, y, prototypes())


def _ours(group: Any) -> dict[str, Callable[[], Call]]:
    """Our class of the same arguments."""
    place = {"rank": dist.get_rank(), "world_size": dist.get_world_size()}

    def scaled(loss: Any, *more: float) -> Call:
        scale = torch.tensor(2.0, dtype=torch.float64)
        return lambda x, y: loss(nnf.normalize(x), nnf.normalize(y), scale, *more)

    def seeded(loss: Any) -> Call:
        torch.manual_seed(dist.get_rank())  # the first rank's is used
        return lambda x, y: loss(x)

    return {
        "nt_xent": lambda: sf.NTXentLoss(gather_distributed=True),
        "dcl": lambda: sf.DCLLoss(gather_distributed=True),
        "dclw": lambda: sf.DCLWLoss(gather_distributed=True),
        "vicreg": lambda: sf.VICRegLoss(gather_distributed=True),
        "barlow_twins": lambda: sf.BarlowTwinsLoss(gather_distributed=True),
        "sigreg": lambda: seeded(sf.SIGReg(gather_distributed=True)),
        "clip": lambda: scaled(sf.CLIPLoss(local_loss=True, gather_with_grad=True, **place)),
        "clip without gradient": lambda: scaled(sf.CLIPLoss(**place)),
        "clip local": lambda: scaled(sf.CLIPLoss(local_loss=True, **place)),
        "swav": lambda: _pair_of(sf.SwaVLoss(sinkhorn_gather_distributed=True)),
        "msn": lambda: _with_prototypes(0.0),
        "msn, mean code": lambda: _with_prototypes(1.0),
        "siglip": lambda: scaled(sf.SigLIPLoss(dist_impl="bidir", **place), -3.0),
    }


THEIRS: dict[str, Call] = {
    "nt_xent": nt_xent,
    "dcl": dcl,
    "dclw": dclw,
    "vicreg": vicreg,
    "barlow_twins": barlow_twins,
    "sigreg": sigreg,
    "clip": lambda x, y: clip(x, y, True, True),
    "clip without gradient": lambda x, y: clip(x, y, False, False),
    "clip local": lambda x, y: clip(x, y, True, False),
    "siglip": siglip,
    "swav": swav,
    "msn": lambda x, y: msn(x, y, 0.0),
    "msn, mean code": lambda x, y: msn(x, y, 1.0),
}


def compared(group: Any, name: str) -> dict[str, float]:
    """The mean over ranks of their value, and the gradients of the rows of this rank: how far ours
    are; and how large their gradient is beside ours.
    """
    g = torch.Generator().manual_seed(1 + dist.get_rank())
    rows = [torch.randn(ROWS, D, generator=g, dtype=torch.float64) for _ in "xy"]
    mine, other = ([x.clone().requires_grad_() for x in rows] for _ in "ab")
    want, got = THEIRS[name](*other), _ours(group)[name]()(*mine)
    want.backward()
    got.backward()
    mean = want.detach().clone()
    dist.all_reduce(mean)
    mean = mean / dist.get_world_size()
    theirs = torch.cat([x.grad for x in other if x.grad is not None])
    ours = torch.cat([x.grad for x in mine if x.grad is not None])
    off = (ours - theirs).abs().max() / theirs.abs().max()
    ratio = (ours * theirs).sum() / theirs.square().sum()
    across = (ours - ratio * theirs).abs().max() / ours.abs().max()
    value = (got.detach() - mean).abs() / mean.abs()
    return {
        "value": float(value),
        "gradient": float(off),
        "ratio": float(ratio),
        "direction": float(across),
    }


# the weights after ten steps that lightly's own test of two processes expects, and its rate; for
# DCL those of its class in one process, which are not what that test says
TRAINED: dict[str, tuple[Any, float, list[list[float]]]] = {
    "nt_xent": (
        sf.NTXentLoss,
        0.1,
        [[0.1675, 0.2676, 0.3678, 0.4679, 0.5680], [0.5763, 0.6742, 0.7721, 0.8700, 0.9679]],
    ),
    "vicreg": (
        sf.VICRegLoss,
        1e-8,
        [[-0.2382, -0.1381, -0.0381, 0.0619, 0.1620], [-0.0494, 0.0505, 0.1504, 0.2503, 0.3503]],
    ),
    "dcl": (
        sf.DCLLoss,
        0.1,
        [[0.3288, 0.4244, 0.5200, 0.6155, 0.7111], [0.5012, 0.5941, 0.6871, 0.7801, 0.8731]],
    ),
}


def trained(group: Any, name: str, split: tuple[int, ...]) -> float:
    """Ten steps of DDP on eight samples of all processes: how far the weights are from those."""
    kind, rate, expected = TRAINED[name]
    rank = dist.get_rank()
    here = slice(sum(split[:rank]), sum(split[: rank + 1]))
    x, y = torch.arange(80.0).view(8, 2, 5)[here], torch.arange(32.0).view(8, 4)[here]
    net = torch.nn.Linear(5, 2, bias=False)
    net.weight.data = torch.arange(1.0, 11.0).view(2, 5) / 10
    ddp = torch.nn.parallel.DistributedDataParallel(net, process_group=group)
    loss, step = kind(gather_distributed=True), torch.optim.SGD(net.parameters(), rate)
    for _ in range(10):
        step.zero_grad()
        loss(ddp(x).flatten(1), y).backward()
        step.step()
    want = torch.tensor(expected)
    return float(((net.weight - want).abs() - 1e-3 * want.abs()).max())
