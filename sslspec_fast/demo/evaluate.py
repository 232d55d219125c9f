"""How good are features on held-out images: k nearest neighbours and a linear probe."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as nnf
from torch import Tensor


def features(encode: Callable[[Tensor], Tensor], images: Tensor, batch: int = 1000) -> Tensor:
    """``encode`` applied to all images without gradients, in batches. Returns (n, d)."""
    with torch.no_grad():
        return torch.cat([encode(chunk) for chunk in images.split(batch)])


def knn_accuracy(
    train: Tensor, train_labels: Tensor, test: Tensor, test_labels: Tensor, k: int = 5
) -> float:
    """Share of test rows whose k nearest training rows by cosine, weighted by it, vote right."""
    similarity = nnf.normalize(test, dim=1) @ nnf.normalize(train, dim=1).T
    weight, index = similarity.topk(min(k, train.shape[0]), dim=1)
    votes = torch.zeros(test.shape[0], int(train_labels.max()) + 1)
    votes.scatter_add_(1, train_labels[index], (weight * 10).exp())
    return (votes.argmax(1) == test_labels).float().mean().item()


def probe_accuracy(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    penalties: tuple[float, ...] = (1e-3, 1e-2),
) -> float:
    """Test accuracy of multinomial logistic regression on standardised features.

    The L2 penalty is the one that does best on a fifth of the *training* rows held back, so that
    raw pixels and learned features each get the penalty that suits them. Solved by L-BFGS.
    """
    mean, std = train.mean(0), train.std(0).clamp_min(1e-3 * float(train.std()))
    x, x_test = (train - mean) / std, (test - mean) / std
    held = torch.arange(x.shape[0]) % 5 == 0

    def accuracy(penalty: float, rows: Tensor, x_eval: Tensor, y_eval: Tensor) -> float:
        weight, bias = _logistic(x[rows], train_labels[rows], penalty)
        return ((x_eval @ weight + bias).argmax(1) == y_eval).float().mean().item()

    best = max(penalties, key=lambda p: accuracy(p, ~held, x[held], train_labels[held]))
    return accuracy(best, torch.ones_like(held), x_test, test_labels)


def _logistic(x: Tensor, labels: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    classes = int(labels.max()) + 1
    weight = torch.zeros(x.shape[1], classes, requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS([weight, bias], max_iter=40, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = nnf.cross_entropy(x @ weight + bias, labels) + penalty * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach(), bias.detach()
