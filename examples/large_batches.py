"""
A batch larger than memory: GradCache
=====================================

Once the loss needs no memory, the activations of the encoder fill it. ``sf.GradCache`` encodes the
batch in chunks and holds the activations of one chunk at a time. The loss still sees all pairs at
once, and the gradients are those of the whole step: more negatives, on one GPU.
"""

import ctypes
import platform
import time

import torch
from torch import Tensor, nn

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.bench.memory import available, peak_mib, reset_peak

try:
    import matplotlib.pyplot as plt
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

if not available():
    raise SystemExit("the peak of a process's memory is read from /proc, which Linux has")

# %%
# An encoder
# ----------


class Encoder(nn.Module):
    """The mean over 16 positions of a Transformer with dropout."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(64, 4, 256, dropout=0.1, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).mean(1)


torch.manual_seed(0)
encoder = Encoder()
cached = sf.GradCache(encoder, chunk_size=64)  # the only line that changes

# %%
# The same gradients
# ------------------
# Compared without dropout, because chunks draw other numbers than the whole batch.


def step(encode: nn.Module, x: Tensor) -> float:
    """The loss of two views, and its gradient in the encoder."""
    encoder.zero_grad()
    z1, z2 = encode(x).chunk(2)
    loss = F.nt_xent(z1, z2, temperature=0.2)
    loss.backward()
    return loss.item()


x = torch.randn(2 * 256, 16, 64)
encoder.eval()
gradients = []
for encode in (encoder, cached):
    print(f"{type(encode).__name__:>9}: loss {step(encode, x):.6f}")
    gradients.append(torch.cat([p.grad.flatten() for p in encoder.parameters()]))
difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
print(f"relative difference of the gradients: {difference:.1e}")

# %%
# Memory
# ------
# With dropout, as in training. A chunk that is encoded again draws the same numbers.

encoder.train()
rows = [64, 128, 256, 512, 1024]
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for name, encode in {"whole batch": encoder, "GradCache, chunks of 64 rows": cached}.items():
    step(encode, x[:64])
    mib, seconds = [], []
    for n in rows:
        x = torch.randn(2 * n, 16, 64)
        if platform.libc_ver()[0] == "glibc":
            ctypes.CDLL(None).malloc_trim(0)  # freed memory is returned to the system
        before, start = reset_peak(), time.perf_counter()
        step(encode, x)
        seconds.append(time.perf_counter() - start)
        mib.append(peak_mib() - before)
    axis.loglog(rows, mib, "o-", label=name)
    print(f"{name}: {mib[-1]:.0f} MiB and {seconds[-1]:.2f} s for {rows[-1]} pairs")
axis.set_xscale("log", base=2)
axis.set(xlabel="pairs in the batch", ylabel="MiB", title="peak memory of one step")
axis.legend(frameon=False)
plt.show()
