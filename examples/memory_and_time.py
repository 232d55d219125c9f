"""
Memory and time of a loss against the batch
===========================================

NT-Xent of n pairs compares 2n x 2n embeddings. Plain PyTorch stores that matrix, and its softmax
and gradient too; the fused loss computes it by tiles and keeps none. Both compute the same numbers.
"""

import ctypes
import platform
import time

import torch

import sslspec_fast.functional as F
from sslspec_fast.bench.memory import available, peak_mib, reset_peak

try:
    import matplotlib.pyplot as plt
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

if not available():
    raise SystemExit("the peak of a process's memory is read from /proc, which Linux has")

# %%
# One step, measured
# ------------------
# glibc keeps freed memory for later, where it would hide what the next step needs: it is returned
# to the system first.


def step(n: int, impl: str) -> tuple[float, float]:
    """(seconds, MiB beyond the embeddings and their gradients) of the loss and its gradient."""
    z1, z2 = (torch.randn(n, 128, requires_grad=True) for _ in range(2))
    F.nt_xent(z1[:8], z2[:8], impl=impl).backward()  # makes the gradients' buffers
    z1.grad.zero_()
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    before = reset_peak()
    start = time.perf_counter()
    F.nt_xent(z1, z2, temperature=0.2, impl=impl).backward()
    return time.perf_counter() - start, peak_mib() - before


# %%
# Batches that double
# -------------------
# "torch" is the plain form, readable in ``sslspec_fast.reference``; it stops where its matrices
# would need gigabytes.

sizes = {"fused": [256, 512, 1024, 2048, 4096, 8192], "torch": [256, 512, 1024, 2048, 4096]}
torch.manual_seed(0)
measured = {}
for impl, rows in sizes.items():
    step(256, impl)
    measured[impl] = [step(n, impl) for n in rows]
print(f"{'pairs':>6} {'fused':>20} {'plain torch':>20}")
for i, n in enumerate(sizes["fused"]):
    cells = [
        f"{1e3 * measured[impl][i][0]:8.1f} ms {measured[impl][i][1]:6.0f} MiB"
        if i < len(measured[impl])
        else ""
        for impl in sizes
    ]
    print(f"{n:6d} {cells[0]:>20} {cells[1]:>20}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for impl, rows in sizes.items():
    seconds, mib = zip(*measured[impl], strict=True)
    axes[0].loglog(rows, [max(m, 0.1) for m in mib], "o-", label=impl)
    axes[1].loglog(rows, [1e3 * s for s in seconds], "o-", label=impl)
axes[0].set(title="peak memory of one step", ylabel="MiB", xlabel="pairs in the batch")
axes[1].set(title="time of one step", ylabel="milliseconds", xlabel="pairs in the batch")
for axis in axes:
    axis.set_xscale("log", base=2)
    axis.legend(frameon=False)
plt.show()
