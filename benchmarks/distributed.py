"""Losses over the ranks that torchrun starts: ``--check`` them, or time them.

    torchrun --nproc-per-node=8 -m benchmarks.distributed --check
    torchrun --nproc-per-node=8 -m benchmarks.distributed --pairs 32768 --columns 512 --peers
    torchrun --nproc-per-node=8 -m benchmarks.distributed --pairs-per-rank 2048 --columns 1024
    python -m benchmarks.distributed --model  # in one process: benchmarks/scaling_model.py

NCCL with a GPU for each rank, gloo otherwise. The check compares every loss, its gradients and the
bits of its value on all ranks with the plain loss of one process, for uneven and empty ranks. The
times are those of forward and backward, by the clock and of this process on the CPU, which counts
no wait for another one, beside "gathered": all rows gathered with a gradient, and the fused loss of
one process on them; bytes are those that a rank sends. --peers: lightly with gather_distributed,
open_clip's ClipLoss with local_loss and gather_with_grad, and its SigLipLoss (bidir), where they
are installed; --only takes names of losses. Peak memory is that of torch on a GPU, and on a CPU how
much the resident memory of the process grew over a step, which is a peak only with
MALLOC_MMAP_THRESHOLD_=65536 and MALLOC_TRIM_THRESHOLD_=0: freed memory then goes back.
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

import sslspec_fast as sf
import sslspec_fast.functional as F
from benchmarks import scaling_model
from benchmarks.peers import over_ranks
from sslspec_fast.bench.memory import available, peak_mib, reset_peak
from sslspec_fast.ranks import Ranks, bytes_sent, gather_rows

Loss = Callable[..., Tensor]
COLUMNS = ("ms", "ms of CPU", "MiB sent", "MiB peak")


def unit(z: Tensor) -> Tensor:
    return torch.nn.functional.normalize(z, dim=1)


def views(a: Tensor, keywords: dict[str, Any]) -> sf.PairGraph:
    return sf.PairGraph.from_views(len(a), device=a.device, group=keywords.get("group"))


def labels(a: Tensor, keywords: dict[str, Any]) -> sf.PairGraph:
    """Classes of the rows by their signs, which cross the ranks."""
    classes = (a.detach()[:, :2] > 0).long() @ torch.tensor([1, 2], device=a.device)
    return sf.PairGraph.from_labels(classes, group=keywords.get("group"))


def prototypes(a: Tensor, k: int = 48) -> Tensor:
    """(k, d), the same on every rank; a leaf with a gradient, which travels."""
    at = torch.arange(k * a.shape[1], device=a.device, dtype=torch.float64).view(k, -1)
    return torch.sin(at).to(a.dtype).requires_grad_()


LOSSES: dict[str, Loss] = {
    "nt_xent": lambda a, b, **k: F.nt_xent(a, b, temperature=0.2, **k),
    "dcl": lambda a, b, **k: F.dcl(a, b, **k),
    "info_nce": lambda a, b, **k: F.info_nce(a, b, **k),
    "info_nce, target": lambda a, b, **k: F.info_nce(
        a, torch.cat([a, b]), target=len(b) + torch.arange(len(b), device=a.device), **k
    ),
    "clip": lambda a, b, **k: F.clip(unit(a), unit(b), 20.0, **k),
    "siglip": lambda a, b, **k: F.siglip(unit(a), unit(b), 10.0, -10.0, **k),
    "sup_con": lambda a, b, **k: F.sup_con(
        unit(a), torch.zeros(len(a), dtype=torch.int64, device=a.device), **k
    ),
    "vicreg": lambda a, b, **k: F.vicreg(a, b, **k),
    "barlow_twins": lambda a, b, **k: F.barlow_twins(a, b, **k),
    "spectral_contrastive": lambda a, b, **k: F.spectral_contrastive(a, b, **k),
    "falcon": lambda a, b, **k: F.falcon(a, b, n_codes=32, **k),
    "sigreg": lambda a, b, **k: F.sigreg(torch.stack([a, b]), slices=256, seed=0, **k),
    "sigreg, pairs": lambda a, b, **k: F.sigreg(a, slices=None, **k),
    "lejepa": lambda a, b, **k: F.lejepa([a, b], slices=256, seed=0, **k),
    "koleo": lambda a, b, **k: F.koleo(a, k=2, **k),
    "moco": lambda a, b, **k: F.moco(
        a, b, torch.eye(a.shape[1], dtype=a.dtype, device=a.device), **k
    ),
    "gram_anchor": lambda a, b, **k: F.gram_anchor(
        torch.stack([a, b, a + b], 1), torch.stack([b, a, a - b], 1), **k
    ),
    "dino": lambda a, b, **k: F.dino([a, b], [a, b], prototypes(a), **k),
    "ibot": lambda a, b, **k: F.ibot(
        a, b, torch.ones(len(a), 1, dtype=torch.bool, device=a.device), prototypes(a), **k
    ),
    "capi": lambda a, b, **k: F.capi(a[:, None], b[:, None], prototypes(a), **k),
    "swav": lambda a, b, **k: F.swav([a, b], None, prototypes(a), **k),
    "msn": lambda a, b, **k: F.msn(a, b, prototypes(a), **k),
    "ressl": lambda a, b, **k: F.ressl(a, b, unit(prototypes(a)).detach(), **k),
    "x_clr": lambda a, b, **k: F.x_clr(a, b, **k),
    "proto_nce": lambda a, b, **k: F.proto_nce(
        a, prototypes(a), torch.zeros(len(a), dtype=torch.int64, device=a.device), **k
    ),
    "prototype_cross_entropy": lambda a, b, **k: F.prototype_cross_entropy(
        a, b, prototypes(a), mean_entropy=0.5, **k
    ),
    "graph_info_nce": lambda a, b, **k: F.graph_info_nce(torch.cat([a, b]), views(a, k), **k),
    "per_positive": lambda a, b, **k: F.graph_info_nce(
        a, labels(a, k), negatives="per_positive", **k
    ),
    "graph_siglip": lambda a, b, **k: F.graph_siglip(
        unit(a), unit(b), labels(a, k), 10.0, -10.0, **k
    ),
    "graph_vicreg": lambda a, b, **k: F.graph_vicreg(torch.cat([a, b]), views(a, k), **k),
    "graph_barlow_twins": lambda a, b, **k: F.graph_barlow_twins(a, labels(a, k), **k),
    "graph_spectral": lambda a, b, **k: F.graph_spectral_contrastive(a, labels(a, k), **k),
    "ls_simclr": lambda a, b, **k: F.ls_simclr(a, labels(a, k), **k),
    "dirichlet_energy": lambda a, b, **k: F.dirichlet_energy(a, labels(a, k), **k),
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
            print(f"{name:24} {worst:.1e} ({where})" + ("" if worst < 1e-11 else "  WRONG"))
    return good


def measured(
    step: Callable[[], None], repeats: int, device: torch.device, *, warm: bool = False
) -> tuple[float, float, float, float]:
    """Median milliseconds by the clock and of this process on the CPU, MiB sent by this rank in a
    step, and peak extra MiB. The first step is not counted, unless all is `warm`.
    """
    times, busy, sent, peak = [], [], 0, 0.0
    for k in range(int(warm), repeats + 1):
        dist.barrier()
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated() / 2**20
        else:
            before = reset_peak() if available() else 0.0
        begin, used, sent = time.perf_counter(), time.process_time(), bytes_sent()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
            now = torch.cuda.max_memory_allocated() / 2**20
        else:
            now = peak_mib() if available() else float("nan")
        elapsed, sent = 1e3 * (time.perf_counter() - begin), bytes_sent() - sent
        used = 1e3 * (time.process_time() - used)
        peak = max(peak, now - before) if k else 0.0  # the first one warms up
        times += [elapsed] if k else []
        busy += [used] if k else []
    return median(times), median(busy), sent / 2**20, peak


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
    peers = over_ranks(rank, size) if options.peers else {}

    def gathered(loss: Loss) -> Tensor:
        return loss(*(gather_rows(x, ranks) for x in own))

    if rank == 0:
        print(f"{options.pairs} pairs, {options.columns} columns, {options.dtype}, {size} ranks")
        groups = ("over ranks", *(() if options.no_gathered else ("gathered",)), "peer")
        print(f"{'':24}" + "".join(f"{x:>12}{'':>36}" for x in groups))
        print(f"{'':24}" + "".join(f"{x:>12}" for x in COLUMNS * len(groups)))
    for name, loss in LOSSES.items():
        if options.only and name not in options.only:
            continue
        peer, theirs = peers.get(name, ("", None))
        calls = [lambda f=loss: f(*own, group=group)]
        calls += [] if options.no_gathered else [lambda f=loss: gathered(f)]
        calls += [] if theirs is None else [lambda f=theirs: f(*own)]
        line: list[float] = []
        for call in calls:

            def step(call: Callable[[], Tensor] = call) -> None:
                for x in own:
                    x.grad = None
                call().backward()

            if options.once:
                loss(*(x.detach()[:16].requires_grad_() for x in own), group=group).backward()
                line += measured(step, 1, device, warm=True)
            else:
                line += measured(step, options.repeats, device)
        if rank == 0:
            print(f"{name:24}" + "".join(f"{x:12.2f}" for x in line) + f"  {peer}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--pairs", type=int, default=4096, help="of all ranks together")
    parser.add_argument("--pairs-per-rank", type=int, help="in place of --pairs: weak scaling")
    parser.add_argument("--columns", type=int, default=256)
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float64"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peers", action="store_true", help="lightly and open_clip beside ours")
    parser.add_argument(
        "--once", action="store_true", help="one step of each, after one of 16 pairs a rank"
    )
    parser.add_argument("--only", nargs="*", help="names of losses", choices=list(LOSSES))
    parser.add_argument("--no-gathered", action="store_true", help="without the gathered form")
    parser.add_argument("--model", action="store_true", help="print what H100 nodes should take")
    options = parser.parse_args()
    if options.model:
        print(scaling_model.table())
        return 0
    device = start()
    if options.pairs_per_rank is not None:
        options.pairs = options.pairs_per_rank * dist.get_world_size()
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
