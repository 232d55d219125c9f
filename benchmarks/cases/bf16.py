"""bfloat16 rows against float32 rows, and against the plain form under autocast, on a CPU.

    python -m benchmarks.cases.bf16 [part of a name ...] [--turns 7] [--threads 1]

A line is one forward and backward: median milliseconds of CPU time with float32 and with bfloat16
leaves, how many times faster the second is, and how many times longer the plain form takes with
float32 leaves under ``torch.autocast(dtype=torch.bfloat16)``. The forms take turns. CPU time of one
thread is what a busy machine changes least; with more threads it counts all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast.bench import machine, measure
from sslspec_fast.reference.barlow_twins import barlow_twins
from sslspec_fast.reference.clip import clip
from sslspec_fast.reference.info_nce import info_nce
from sslspec_fast.reference.matryoshka import matryoshka
from sslspec_fast.reference.nt_xent import nt_xent
from sslspec_fast.reference.siglip import siglip
from sslspec_fast.reference.spectral_contrastive import spectral_contrastive
from sslspec_fast.reference.vicreg import vicreg

__all__ = ["CASES", "line", "main"]

Loss = Callable[[Tensor, Tensor], Tensor]
VICREG = {"invariance": 25.0, "variance": 25.0, "covariance": 1.0, "eps": 1e-4}
DIMS = (64, 128, 256, 512)
# name -> the loss, its plain form, rows, columns
CASES: dict[str, tuple[Loss, Loss, int, int]] = {
    "nt_xent": (
        lambda a, b: F.nt_xent(a, b, temperature=0.2),
        lambda a, b: nt_xent(a, b, temperature=0.2),
        1024,
        128,
    ),
    "matryoshka": (
        lambda a, b: F.matryoshka("nt_xent", a, b, dims=DIMS, temperature=0.2),
        lambda a, b: matryoshka(
            nt_xent, a, b, dims=DIMS, weights=[1.0] * 4, renormalize=False, temperature=0.2
        ),
        4096,
        512,
    ),
    "info_nce": (
        lambda a, b: F.info_nce(a, b, temperature=0.2),
        lambda a, b: info_nce(a, b, temperature=0.2),
        2048,
        512,
    ),
    "clip": (lambda a, b: F.clip(a, b, 10.0), lambda a, b: clip(a, b, 10.0), 2048, 512),
    "siglip": (
        lambda a, b: F.siglip(a, b, 10.0, -10.0),
        lambda a, b: siglip(a, b, 10.0, -10.0),
        2048,
        512,
    ),
    "vicreg": (F.vicreg, lambda a, b: vicreg(a, b, **VICREG), 1024, 4096),
    "vicreg, many rows": (F.vicreg, lambda a, b: vicreg(a, b, **VICREG), 2048, 512),
    "barlow_twins": (
        F.barlow_twins,
        lambda a, b: barlow_twins(a, b, off_diagonal=5e-3, eps=1e-5),
        1024,
        4096,
    ),
    "spectral_contrastive": (F.spectral_contrastive, spectral_contrastive, 4096, 512),
    "spectral_contrastive, narrow": (F.spectral_contrastive, spectral_contrastive, 8192, 128),
}


def line(name: str, turns: int) -> str:
    loss, plain, n, d = CASES[name]
    g = torch.Generator().manual_seed(0)
    a = torch.randn(n, d, generator=g)
    b = a + 0.3 * torch.randn(n, d, generator=g)
    wide, half = (
        [x.to(dtype).requires_grad_() for x in (a, b)] for dtype in (torch.float32, torch.bfloat16)
    )

    def autocast(a: Tensor, b: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return plain(a, b)

    forms = {"fp32": (loss, wide), "bf16": (loss, half), "autocast": (autocast, wide)}
    times: dict[str, list[float]] = {form: [] for form in forms}
    for turn in range(turns + 1):
        for form, (f, leaves) in forms.items():
            start = time.process_time()
            measure.forward_backward(f, leaves)
            if turn:  # the first of each allocates
                times[form].append(1e3 * (time.process_time() - start))
    fp32, bf16, plainly = (median(times[form]) for form in forms)
    return (
        f"{f'{name} {n}x{d}':39s} {fp32:8.2f} {bf16:8.2f}   x{fp32 / bf16:.2f}"
        f"   autocast x{plainly / bf16:.1f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="cases whose name contains one of these")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for key, fact in machine.describe().items():
        print(f"{key}: {fact}")
    for name in CASES:
        if not options.names or any(part in name for part in options.names):
            print(line(name, options.turns), flush=True)


if __name__ == "__main__":
    main()
