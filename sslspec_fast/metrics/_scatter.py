"""Sums of which LiDAR and effective rank are made, for batches and ranks to add up."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Scatter", "perplexity"]


def perplexity(values: Tensor, eps: float) -> Tensor:
    """exp of the entropy of values over their sum."""
    p = values / values.sum().clamp_min(torch.finfo(values.dtype).tiny) + eps
    return torch.exp(-torch.xlogy(p, p).sum())


@dataclass
class Scatter:
    """Of `classes` classes, in float64: the mean of their means (d,), the sum of squares of the
    means around it (d, d), and the sum of their within-class covariances (d, d).
    """

    classes: int
    mean: Tensor
    between: Tensor
    within: Tensor

    @classmethod
    def of(cls, x: Tensor, label: Tensor, size: Tensor) -> Scatter:
        """Rows x (n, d), the class of each and the rows of every class."""
        x, count = x.double(), len(size)
        means = x.new_zeros(count, x.shape[1]).index_add(0, label, x) / size[:, None]
        within = (x - means[label]) / (size - 1).to(x.dtype).sqrt()[label, None]
        mean = means.mean(0) if count else x.new_zeros(x.shape[1])
        apart = means - mean
        return cls(count, mean, apart.T @ apart, within.T @ within)

    @classmethod
    def of_views(cls, views: Tensor) -> Scatter:
        """views (q, n, d): the q views of a sample are its class."""
        x = views.double()
        means = x.mean(0)
        within = ((x - means) / (len(x) - 1) ** 0.5).flatten(0, 1)
        mean = means.mean(0)
        apart = means - mean
        return cls(len(means), mean, apart.T @ apart, within.T @ within)

    def packed(self) -> Tensor:
        """(2 d + 2, d): `between`, `within`, `mean`, and the number of classes in every column."""
        count = self.mean.new_full((1, len(self.mean)), float(self.classes))
        return torch.cat([self.between, self.within, self.mean[None], count])

    @classmethod
    def unpacked(cls, packed: Tensor) -> Scatter:
        d = packed.shape[1]
        return cls(int(packed[-1, 0]), packed[2 * d], packed[:d], packed[d : 2 * d])

    @classmethod
    def nothing(cls, d: int, device: torch.device) -> Scatter:
        zeros = torch.zeros(d, d, dtype=torch.float64, device=device)
        return cls(0, zeros.sum(0), zeros, zeros)

    def around(self, mean: Tensor) -> Tensor:
        """The sum of squares of the means around another mean."""
        apart = self.mean - mean
        return self.between + self.classes * torch.outer(apart, apart)

    def __add__(self, other: Scatter) -> Scatter:
        """Chan, Golub and LeVeque 1983: squares are kept around the mean, and shifted."""
        classes = self.classes + other.classes
        mean = self.mean + (other.mean - self.mean) * (other.classes / max(classes, 1))
        between = self.around(mean) + other.around(mean)
        return Scatter(classes, mean, between, self.within + other.within)

    def to(self, device: torch.device) -> Scatter:
        moved = (t.to(device) for t in (self.mean, self.between, self.within))
        return Scatter(self.classes, *moved)

    def lidar(self, delta: float, eps: float) -> Tensor:
        """The effective rank of the between-class covariance, whitened by the within-class one."""
        values, vectors = torch.linalg.eigh(self.within / self.classes)
        whiten = vectors * (values.clamp(min=0) + delta).rsqrt()
        inside = whiten.T @ (self.between / (self.classes - 1)) @ whiten
        return perplexity(torch.linalg.eigvalsh(inside).clamp(min=0), eps)
