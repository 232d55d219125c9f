"""Peak memory and time of a step of `sf.GradCache` at 16 times the batch of a plain one.

    python -m benchmarks.grad_cache
    python -m benchmarks.grad_cache --rows 256 --times 64 --layers 12 --width 384  # on a GPU

NT-Xent of two views of a Transformer encoder. Each line is a fresh process: it makes the model and
the inputs, takes a step on two rows, then resets the mark of peak memory and takes one step. MiB
are those beyond the weights, their gradients and the inputs: resident memory on a CPU, the caching
allocator's on a GPU.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor, nn

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.bench.memory import MIB, resident


class Encoder(nn.Module):
    """The mean over positions of a Transformer's outputs."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            width, 4, 4 * width, dropout=0.1, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x).mean(1)
        return out


def step(encode: nn.Module, x: Tensor) -> float:
    z1, z2 = encode(x).chunk(2)
    loss = F.nt_xent(z1, z2, temperature=0.2)
    loss.backward()
    return loss.item()


def measure(options: argparse.Namespace) -> dict[str, float]:
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    net = Encoder(options.width, options.layers).to(device)
    x = torch.randn(2 * options.rows, options.length, options.width, device=device)
    encode = sf.GradCache(net, options.chunk) if options.chunk else net
    step(encode, x[:4])
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated() / MIB
        torch.cuda.reset_peak_memory_stats()
    else:
        before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    start = time.perf_counter()
    loss = step(encode, x)
    seconds = time.perf_counter() - start
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated() / MIB
    else:
        peak = resident("VmHWM")
    return {"mib": peak - before, "seconds": seconds, "loss": loss}


def in_fresh_process(options: argparse.Namespace, rows: int, chunk: int) -> dict[str, float]:
    sizes = {"rows": rows, "chunk": chunk, "length": options.length, "width": options.width}
    sizes["layers"] = options.layers
    flags = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    # Large blocks go back to the system when freed, so that the mark shows what is in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.grad_cache", "--one", *flags],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    found: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=64, help="pairs of the plain step")
    parser.add_argument("--times", type=int, default=16, help="how many times as many")
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--chunk", type=int, default=0, help="with --one: rows of a chunk, or 0")
    parser.add_argument("--one", action="store_true", help="one measurement, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options)))
        return
    large = options.rows * options.times
    for name, rows, chunk in (
        ("plain", options.rows, 0),
        ("plain", large, 0),
        ("GradCache", large, 2 * options.rows),
    ):
        found = in_fresh_process(options, rows, chunk)
        chunks = f", chunks of {chunk}" if chunk else ""
        print(
            f"{name:9s} {rows:6d} pairs{chunks:16s} {found['mib']:8.0f} MiB "
            f"{found['seconds']:7.2f} s  loss {found['loss']:.4f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
