"""A pass that SSLSPEC_HOPPER asks for against the portable kernels, for gpu_stage.py."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import sslspec_fast.functional as F
from sslspec_fast import show_config

# by pass: what it computes, the largest relative difference, and
# rows, columns (0: the rows themselves), width, 1 / temperature (above 37 the range is wide)
PASSES: dict[str, tuple[str, float, tuple[tuple[int, int, int, float], ...]]] = {
    "chained": (
        "backward",
        1e-2,
        (
            (300, 0, 128, 2.0),
            (130, 257, 60, 2.0),
            (257, 130, 200, 100.0),
            (1000, 0, 256, 100.0),
            (32768, 0, 128, 2.0),
            (32768, 0, 256, 10.0),
            (16384, 16384, 64, 10.0),
            (8192, 0, 128, 2.0),
        ),
    ),
    "weights": (
        "backward",
        1e-2,
        (
            (300, 1100, 264, 10.0),
            (300, 1101, 264, 100.0),
            (1500, 0, 300, 10.0),
            (16384, 16384, 512, 10.0),
            (16384, 16384, 512, 100.0),
            (16384, 0, 512, 10.0),
        ),
    ),
    "sums": (
        "forward",
        1e-4,
        (
            (300, 290, 200, 10.0),
            (130, 1257, 60, 100.0),
            (257, 0, 500, 1000.0),
            (1, 1, 8, 2.0),
            (1100, 0, 96, 100.0),
            (32768, 0, 128, 2.0),
            (32768, 32768, 256, 10.0),
            (8192, 0, 128, 2.0),
            (1024, 0, 128, 2.0),
            (32768, 0, 512, 10.0),
            (32768, 32768, 256, 100.0),
            (4096, 4096, 256, 100.0),
        ),
    ),
    "statistics": (
        "forward",
        1e-4,
        (
            (300, 290, 264, 10.0),
            (257, 130, 520, 1000.0),
            (1100, 0, 600, 100.0),
            (32768, 32768, 512, 10.0),
            (32768, 32768, 512, 100.0),
            (32768, 0, 512, 10.0),
            (4096, 4096, 512, 100.0),
            (16384, 16384, 1024, 10.0),
            (16384, 16384, 1024, 100.0),
            (16384, 0, 1024, 10.0),
        ),
    ),
    "softplus": (
        "forward",
        1e-4,
        (
            (300, 290, 264, 10.0),
            (32768, 32768, 512, 10.0),
            (4096, 4096, 512, 10.0),
        ),
    ),
    "sigmoid": (
        "value and gradients",
        1e-2,
        (
            (1030, 1030, 20, 10.0),
            (1100, 1100, 264, 10.0),
            (4096, 4096, 512, 10.0),
            (32768, 32768, 512, 10.0),
        ),
    ),
    "strips": (  # the shapes of "sums" and "statistics", in which a super block has several tiles
        "forward",
        1e-4,
        (
            (5300, 5200, 72, 10.0),
            (5300, 0, 392, 10.0),
            (32768, 0, 128, 2.0),
            (32768, 32768, 256, 10.0),
            (8192, 0, 128, 2.0),
            (32768, 0, 512, 10.0),
            (32768, 32768, 512, 10.0),
            (32768, 32768, 256, 100.0),
        ),
    ),
    "kept": (  # CLIP, and NT-Xent of n / 2 samples
        "value and gradients",
        1e-2,
        (
            (4100, 4100, 208, 100.0),
            (4096, 4096, 512, 100.0),
            (8192, 8192, 256, 20.0),
            (8192, 8192, 512, 100.0),
            (11520, 11520, 512, 20.0),
            (4096, 0, 512, 10.0),
            (8192, 0, 512, 10.0),
            (11500, 0, 320, 100.0),
        ),
    ),
    "gradient": (  # VICReg, as below
        "value and gradients",
        1e-2,
        (
            (1352, 1352, 2808, 1.0),
            (256, 256, 8192, 1.0),
            (1024, 1024, 8192, 1.0),
            (2048, 2048, 8192, 1.0),
            (4096, 4096, 8192, 1.0),
            (4104, 4104, 2056, 1.0),
        ),
    ),
    "triangle": (  # VICReg, on the side of the rows and of the columns
        "value and gradients",
        1e-2,
        (
            (1352, 1352, 2808, 1.0),
            (2048, 2048, 8192, 1.0),
            (4096, 4096, 8192, 1.0),
            (4104, 4104, 2056, 1.0),
            (8192, 8192, 2048, 1.0),
        ),
    ),
}


def compare(name: str) -> int:
    """A pass that SSLSPEC_HOPPER asks for against the portable kernel: agreement, times, and the
    time of what runs by default.
    """
    what, tolerance, shapes = PASSES[name]
    hopper_pass = "statistics" if name == "softplus" else name
    found: dict[str, Any] = {"what": what, "agree": True, "shapes": {}}
    archs = ",".join(show_config()["cuda_architectures"])
    if torch.cuda.get_device_capability() != (9, 0) or "90a" not in archs:
        found["skipped"] = "needs compute capability 9.0 and a build with 90a"
        print(json.dumps(found), flush=True)
        return 0
    for n, m, d, scale in shapes:
        run = _case(name, what, n, m, d, scale)
        times, results = {}, {}
        for form in ("portable", "default", hopper_pass):
            os.environ["SSLSPEC_HOPPER"] = "" if form == "default" else form
            results[form] = run()
            torch.cuda.synchronize()
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            for _ in range(5):
                run()
            end.record()
            torch.cuda.synchronize()
            times[form] = start.elapsed_time(end) / 5
        error = max(
            float((x.float() - y.float()).norm() / y.float().norm().clamp_min(1e-30))
            for x, y in zip(results[hopper_pass], results["portable"], strict=True)
        )
        times[name] = times.pop(hopper_pass)
        key = f"{n}x{m or 'self'}x{d}, scale {scale:g}"
        found["shapes"][key] = {"ms": times, "difference": error}
        found["agree"] &= error <= tolerance
        found["seen"] = f"{key}: difference {error:.1e}, portable {times['portable']:.3g} ms"
        found["seen"] += f", Hopper {times[name]:.3g} ms"
        print(json.dumps(found), flush=True)
    return 0 if found["agree"] else 1


def _case(
    name: str, what: str, n: int, m: int, d: int, scale: float
) -> Callable[[], tuple[Tensor, ...]]:
    """Statistics of random unit rows (forward), gradients of their sum (backward), or a loss."""
    from sslspec_fast.primitives import pairwise

    generator = torch.Generator(device="cuda").manual_seed(n)

    def rows(count: int) -> Tensor:
        x = torch.randn(count, d, device="cuda", generator=generator)
        return torch.nn.functional.normalize(x, dim=1).bfloat16().requires_grad_()

    a, b = rows(n), rows(m) if m else None
    ids = torch.arange(n, dtype=torch.int32, device="cuda") % max(1, n // 2)
    others = None if m > 2000 else torch.arange(1, m + 1, dtype=torch.int32, device="cuda")
    c = torch.tensor(scale, device="cuda")

    def forward() -> tuple[Tensor, ...]:
        if name == "softplus" and b is not None:
            return (pairwise.softplus(a, b, c, -c, pairwise.LeftOut(self_pairs=True)),)
        if b is None:
            return (pairwise.lse_self(a, c, ids),)
        own = None if others is None else ids  # masks nearly everywhere in the small cases
        left_out = pairwise.LeftOut(own, others, self_pairs=n > 1)
        return pairwise.lse(a, b, c, left_out, cols=True)

    if what == "forward":
        return torch.no_grad()(forward)
    if name in {"sigmoid", "gradient", "triangle", "kept"}:
        leaves = [a, b]
        if b is None:
            leaves = [half.detach().requires_grad_() for half in a.chunk(2)]
        loss = {
            "sigmoid": lambda x, y: F.siglip(x, y, c, -c),
            "kept": lambda x, y: F.clip(x, y, c) if m else F.nt_xent(x, y, temperature=1 / c),
        }.get(name, F.vicreg)

        def step() -> tuple[Tensor, ...]:
            value = loss(*leaves)
            return value.detach(), *torch.autograd.grad(value, leaves)

        return step
    row, *col = forward()
    outputs, leaves = row.sum() + 0.5 * sum(x.sum() for x in col), [a] if b is None else [a, b]
    return lambda: torch.autograd.grad(outputs, leaves, retain_graph=True)
