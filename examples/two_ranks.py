"""
Two processes equal one
=======================

With ``group=`` a loss is that of the global batch: the same value on every process, with the exact
gradient. So training on two processes takes the steps of one process with the whole batch, here to
the last digits of float64, and with batches that do not divide. The processes talk by gloo on the
CPU; on GPUs it is NCCL, and nothing else changes.
"""

import json
import os
import subprocess
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sslspec_fast as sf

try:
    import matplotlib.pyplot as plt
except ImportError as missing:
    raise SystemExit(f"{missing}: pip install 'sslspec-fast[examples]'") from None

STEPS, BATCH = 20, 101


def train(model: nn.Module, loss_of: nn.Module, rank: int, world: int) -> list[float]:
    """The loss of each step; every process takes its part of the same batch."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    draws = torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        x = torch.randn(BATCH, 20, generator=draws, dtype=torch.float64)
        noise = 0.3 * torch.randn(2, BATCH, 20, generator=draws, dtype=torch.float64)
        x1, x2 = (view.tensor_split(world)[rank] for view in x + noise)
        z1, z2 = model(torch.cat([x1, x2])).chunk(2)
        loss = loss_of(z1, z2)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def encoder() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 64), nn.Tanh(), nn.Linear(64, 16)).double()


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


# %%
# What each process runs
# ----------------------
# ``DistributedDataParallel`` averages the gradients of the processes; the loss takes that into
# account. Rank 0 gets 51 pairs, rank 1 gets 50.

if "RANK" in os.environ:
    dist.init_process_group("gloo")
    model = DistributedDataParallel(encoder())
    loss_of = sf.NTXentLoss(temperature=0.2, group=dist.group.WORLD)
    losses = train(model, loss_of, dist.get_rank(), dist.get_world_size())
    if dist.get_rank() == 0:
        print(json.dumps({"losses": losses, "weights": weights(model).tolist()}))
    dist.destroy_process_group()
    raise SystemExit

# %%
# Two processes, started by torchrun
# ----------------------------------

command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
environment = {**os.environ, "OMP_NUM_THREADS": "1"}
run = subprocess.run(
    [*command, sys.argv[0]], capture_output=True, text=True, check=False, env=environment
)
if run.returncode:
    raise SystemExit(run.stderr)
two = json.loads(run.stdout.splitlines()[-1])

# %%
# One process, with all pairs
# ---------------------------

alone = encoder()
losses = train(alone, sf.NTXentLoss(temperature=0.2), 0, 1)
for step in range(0, STEPS, 5):
    print(f"step {step:2d}: one process {losses[step]:.15f}, two {two['losses'][step]:.15f}")
apart = (weights(alone) - torch.tensor(two["weights"], dtype=torch.float64)).abs().max()
print(f"largest difference of a weight after {STEPS} steps: {apart:.1e}")

figure, axis = plt.subplots(figsize=(5, 3), layout="constrained")
axis.plot(losses, color="#bbbbbb", linewidth=6, label="one process, 101 pairs")
axis.plot(two["losses"], color="#1b6ca8", label="two processes, 51 and 50 pairs")
axis.set(xlabel="step", ylabel="loss", title="the loss of both runs")
axis.legend(frameon=False)
plt.show()
