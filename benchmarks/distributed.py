"""Losses over the ranks that torchrun starts: ``--check`` them, or time them.

    torchrun --nproc-per-node=8 -m benchmarks.distributed --check
    torchrun --nproc-per-node=8 -m benchmarks.distributed --pairs 32768 --columns 512

NCCL with a GPU for each rank, gloo otherwise. The check compares every loss, its gradients and the
bits of its value on all ranks with the plain loss of one process, for uneven and empty ranks. The
times are those of forward and backward, beside "gathered": all rows gathered with a gradient, and
the fused loss of one process on them, as peers do; bytes are those that a rank sends.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.ranks import Ranks, bytes_sent, gather_rows

Loss = Callable[..., Tensor]


def unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)


LOSSES: dict[str, Loss] = {
    "nt_xent": lambda a, b, **k: F.nt_xent(a, b, temperature=0.2, **k),
    "dcl": lambda a, b, **k: F.dcl(a, b, **k),
    "info_nce": lambda a, b, **k: F.info_nce(a, b, **k),
    "clip": lambda a, b, **k: F.clip(unit(a), unit(b), 20.0, **k),
    "siglip": lambda a, b, **k: F.siglip(unit(a), unit(b), 10.0, -10.0, **k),
    "sup_con": lambda a, b, **k: F.sup_con(
        unit(a), torch.zeros(len(a), dtype=torch.int64, device=a.device), **k
    ),
    "vicreg": lambda a, b, **k: F.vicreg(a, b, **k),
    "barlow_twins": lambda a, b, **k: F.barlow_twins(a, b, **k),
    "spectral_contrastive": lambda a, b, **k: F.spectral_contrastive(a, b, **k),
    "falcon": lambda a, b, **k: F.falcon(a, b, n_codes=32, **k),
}


def start() -> torch.device:
    if torch.cuda.is_available():
        dist.init_process_group("nccl")
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
        return device
    dist.init_process_group("gloo")
    return torch.device("cpu")


def batch(n: int, d: int, dtype: torch.dtype, device: torch.device) -> list[Tensor]:
    """All rows: the same on every rank."""
    g = torch.Generator().manual_seed(0)
    first = torch.randn(n, d, generator=g, dtype=torch.float64)
    second = first + 0.5 * torch.randn(n, d, generator=g, dtype=torch.float64)
    return [x.to(device, dtype) for x in (first, second)]


def same_bits(value: Tensor) -> bool:
    every = [torch.empty_like(value) for _ in range(dist.get_world_size())]
    dist.all_gather(every, value)
    return all(torch.equal(every[0], other) for other in every)


def error(loss: Loss, counts: list[int], d: int, device: torch.device) -> float:
    """Of value and row gradients, relative, the largest on any rank; inf if bits differ."""
    rank, size = dist.get_rank(), dist.get_world_size()
    here = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    whole = batch(sum(counts), d, torch.float64, device)
    own = [x[here].clone().requires_grad_() for x in whole]
    for x in whole:
        x.requires_grad_()
    want, got = loss(*whole, impl="torch"), loss(*own, group=dist.group.WORLD)
    want.backward()
    got.backward()
    worst = float((got - want).detach().abs() / want.detach().abs().clamp_min(1.0))
    for x, y in zip(own, whole, strict=True):
        if y.grad is not None and len(x):
            off = (x.grad / size - y.grad[here]).abs().max() / y.grad.abs().max()
            worst = max(worst, float(off))
    if not same_bits(got.detach()):
        worst = float("inf")
    out = torch.tensor(worst, dtype=torch.float64, device=device)
    dist.all_reduce(out, dist.ReduceOp.MAX)
    return float(out)


def check(device: torch.device) -> bool:
    size = dist.get_world_size()
    rows = {
        "even": [6] * size,
        "uneven": [3 + (5 * r) % 7 for r in range(size)],
        "one empty": [0] + [6 + r for r in range(1, size)] if size > 1 else [6],
    }
    good = True
    for name, loss in LOSSES.items():
        found = {
            f"{kind}, d {d}": error(loss, counts, d, device)
            for kind, counts in rows.items()
            for d in (5, 24)
        }
        worst = max(found.values())
        good = good and worst < 1e-11
        if dist.get_rank() == 0:
            where = max(found, key=lambda key: found[key])
            print(f"{name:22} {worst:.1e} ({where})" + ("" if worst < 1e-11 else "  WRONG"))
    return good


def measured(
    step: Callable[[], None], repeats: int, device: torch.device
) -> tuple[float, float, float]:
    """Median milliseconds, bytes sent by this rank in a step, and peak extra MiB on a GPU."""
    times, sent, peak = [], 0, float("nan")
    for k in range(repeats + 1):
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        begin, sent = time.perf_counter(), bytes_sent()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
            peak = (torch.cuda.max_memory_allocated() - before) / 2**20
        sent = bytes_sent() - sent
        if k:  # the first one warms up
            times.append(1e3 * (time.perf_counter() - begin))
    return median(times), sent / 2**20, peak


def table(options: argparse.Namespace, device: torch.device) -> None:
    rank, size = dist.get_rank(), dist.get_world_size()
    counts = [options.pairs // size + (r < options.pairs % size) for r in range(size)]
    here = slice(sum(counts[:rank]), sum(counts[: rank + 1]))
    dtype = getattr(torch, options.dtype)
    own = [
        x[here].clone().requires_grad_() for x in batch(sum(counts), options.columns, dtype, device)
    ]
    group = dist.group.WORLD
    ranks = Ranks(group, rank, tuple(counts))

    def gathered(loss: Loss) -> Any:
        return loss(*(gather_rows(x, ranks) for x in own))

    if rank == 0:
        print(f"{options.pairs} pairs, {options.columns} columns, {options.dtype}, {size} ranks")
        for heads in (
            ("", "over ranks", "", "", "gathered"),
            ("", *("ms", "MiB sent", "MiB peak") * 2),
        ):
            print(f"{heads[0]:22}" + "".join(f"{x:>12}" for x in heads[1:]))
    for name, loss in LOSSES.items():
        line = []
        for call in (lambda f: f(*own, group=group), gathered):
            line += measured(lambda c=call, f=loss: c(f).backward(), options.repeats, device)
        if rank == 0:
            print(f"{name:22}" + "".join(f"{x:12.2f}" for x in line))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pairs", type=int, default=4096, help="of all ranks together")
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64"])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    device = start()
    good = True
    if options.check:
        good = check(device)
    else:
        table(options, device)
    dist.barrier()
    dist.destroy_process_group()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
