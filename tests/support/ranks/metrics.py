"""What the ranks do; see test_metrics.py. Every function takes the group first."""

from __future__ import annotations

import warnings
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from sslspec_fast import PairGraph, metrics
from sslspec_fast.ranks import buffer_bytes

N, D = 26, 5


def rows(n: int = N, d: int = D, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=generator, dtype=torch.float64).to(dtype)


def labels(n: int = N) -> Tensor:
    return torch.arange(n) % 3


def views(n: int) -> PairGraph:
    """Rows 2 i and 2 i + 1 are views of one sample."""
    return PairGraph.from_labels(torch.arange(n) // 2)


def here(group: Any, split: tuple[int, ...]) -> slice:
    rank = dist.get_rank(group)
    return slice(sum(split[:rank]), sum(split[: rank + 1]))


def values(z: Tensor, w: Tensor, y: Tensor, rank: int = 0, size: int = 1, group: Any = None) -> Any:
    """Every metric of one batch; bank: a rank's share of what all hold."""
    bank, bank_labels = rows(31, D, seed=9).to(z), labels(31)
    share = slice(rank, None, size)
    graph = views(z.shape[0]) if z.shape[0] else None
    wide = z.repeat(1, 6) * torch.linspace(1, 2, 6 * D).to(z)
    return {
        "alignment": metrics.alignment(z, w, group=group),
        "alignment, alpha": metrics.alignment(z, w, 3.0, group=group),
        "uniformity": metrics.uniformity(z, 1.5, group=group),
        "effective_rank": metrics.effective_rank(z, group=group),
        "effective_rank, few rows": metrics.effective_rank(wide, group=group),
        "lidar": metrics.lidar(z, graph, group=group),
        "neighborhood_accuracy": metrics.neighborhood_accuracy(z, y, 4, group=group),
        "neighborhood_accuracy, bank": metrics.neighborhood_accuracy(
            z, y, 7, bank=bank[share], bank_labels=bank_labels[share], group=group
        ),
    }


def batch_metrics(group: Any, split: tuple[int, ...], dtype: torch.dtype) -> Any:
    """(values over ranks, values of one process)."""
    z, w, own = rows(dtype=dtype), rows(seed=1, dtype=dtype), here(group, split)
    with buffer_bytes(300):  # rows come in several pieces
        got = values(z[own], w[own], labels()[own], dist.get_rank(group), group.size(), group)
    return plain(got), plain(values(z, w, labels()))


def plain(found: dict[str, Tensor]) -> dict[str, Any]:
    """As NumPy's: tensors would stay in the memory of the rank."""
    return {name: value.numpy() for name, value in found.items()}


def gradients(group: Any, split: tuple[int, ...]) -> Any:
    """Of this rank's rows, as DDP would average them, and of one process."""
    own, out = here(group, split), []
    for which in (group, None):
        z, w = rows().requires_grad_(), rows(seed=1)
        part = own if which is not None else slice(None)
        value = metrics.alignment(z[part], w[part], 1.5, group=which)
        value = value + 2.0 * metrics.uniformity(z[part], group=which)
        (grad,) = torch.autograd.grad(value, z)
        out.append((grad[own] / (1 if which is None else group.size())).numpy())
    return out


def second_derivative(group: Any) -> Any:
    z = rows(3).requires_grad_()
    (grad,) = torch.autograd.grad(metrics.uniformity(z, group=group), z, create_graph=True)
    return grad


def accumulated(group: Any, split: tuple[int, ...]) -> Any:
    """Batches of 6 rows at most; a rank without rows sees none. The second: one process."""
    z, w, y, own = rows(), rows(seed=1), labels(), here(group, split)
    bank, bank_labels = rows(31, seed=9), labels(31)
    out = []
    for which in (group, None):
        made: dict[str, Any] = {
            "alignment": metrics.Alignment(1.5, group=which),
            "uniformity": metrics.Uniformity(group=which),
            "effective_rank": metrics.EffectiveRank(group=which),
            "lidar": metrics.Lidar(group=which),
            "accuracy": metrics.NeighborhoodAccuracy(bank, bank_labels, 5, group=which),
        }
        parts = [own] if which is not None else [here_of(split, r) for r in range(len(split))]
        for part in parts:
            for start in range(part.start, part.stop, 6):
                rows_of = slice(start, min(start + 6, part.stop))
                made["alignment"].update(z[rows_of], w[rows_of])
                made["uniformity"].update(z[rows_of])
                made["effective_rank"].update(z[rows_of])
                made["lidar"].update(z[rows_of], views(rows_of.stop - rows_of.start))
                made["accuracy"].update(z[rows_of], y[rows_of])
        out.append({name: metric.compute() for name, metric in made.items()})
    return out


def torchmetrics_collection(group: Any, split: tuple[int, ...]) -> Any:
    """Batches of 6 pairs at most; a rank without rows sees none. The second: one process."""
    from torchmetrics import MetricCollection

    from sslspec_fast.integrations import torchmetrics as ours

    z, w, out = rows(), rows(seed=1), []
    for which, parts in ((group, [here(group, split)]), (None, None)):
        made = MetricCollection(
            [
                metric(*args, process_group=which, distributed_available_fn=lambda w=which: bool(w))
                for metric, *args in (
                    (ours.EffectiveRank, D),
                    (ours.Lidar, D),
                    (ours.Alignment, 1.5),
                    (ours.Uniformity,),
                )
            ]
        )
        for part in parts or [here_of(split, r) for r in range(len(split))]:
            for start in range(part.start, part.stop, 6):
                own = slice(start, min(start + 6, part.stop))
                made.update(z[own], w[own])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a rank that has seen no batch
            out.append({name: float(value) for name, value in made.compute().items()})
    return out


def here_of(split: tuple[int, ...], rank: int) -> slice:
    return slice(sum(split[:rank]), sum(split[: rank + 1]))


def error(group: Any, name: str) -> str:
    """The text of the error that this rank raises; only rank 1 has made a mistake."""
    wrong = dist.get_rank(group) == 1
    z, y = rows(6), labels(6)
    accumulator = metrics.EffectiveRank(group=group)
    if name == "features on ranks":
        accumulator.update(rows(6, 4) if wrong else z)
    calls: dict[str, Any] = {
        "features": lambda: metrics.uniformity(rows(6, 4) if wrong else z, group=group),
        "option": lambda: metrics.alignment(z, z, 3.0 if wrong else 2.0, group=group),
        "dtype": lambda: metrics.effective_rank(z.float() if wrong else z, group=group),
        "own": lambda: metrics.neighborhood_accuracy(z, -y if wrong else y, 2, group=group),
        "isolated": lambda: metrics.lidar(z, views(5 if wrong else 6), group=group),
        "too few": lambda: metrics.uniformity(z[: int(wrong)], group=group),
        "no classes": lambda: metrics.lidar(z[:0], None, group=group),
        "k": lambda: metrics.neighborhood_accuracy(z, y, 12, group=group),
        "features on ranks": accumulator.compute,
        "no update": metrics.Alignment(group=group).compute,
        "group": lambda: metrics.alignment(z, z, group="ranks"),
    }
    try:
        calls[name]()
    except (ValueError, TypeError, RuntimeError) as found:
        return f"{type(found).__name__}: {found}"
    return "nothing"
