"""The losses as people write them in plain PyTorch, and the smartest plain form we know of each.

``eager`` forms store the n x n logits or the d x d covariance. ``smart`` forms use the algebra that
the fused kernels use too (the Gram side that is cheaper, chunked cross-entropy, the O(n d^2)
spectral loss), so that a ratio against them is the merit of the kernel and not of the algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor

_nn: Any = torch.nn  # the chunked cross-entropy is younger than the oldest torch we support


def nt_xent_eager(z1: Tensor, z2: Tensor, temperature: float = 0.5) -> Tensor:
    """Cross-entropy on the (2n, 2n) cosine logits with the diagonal masked."""
    n = z1.shape[0]
    u = nnf.normalize(torch.cat([z1, z2]), dim=1)
    logits = u @ u.T / temperature
    mask = torch.eye(2 * n, dtype=torch.bool, device=u.device)
    logits = logits.masked_fill(mask, float("-inf"))
    target = (torch.arange(2 * n, device=u.device) + n) % (2 * n)
    return nnf.cross_entropy(logits, target)


def matryoshka_eager(z1: Tensor, z2: Tensor, dims: tuple[int, ...]) -> Tensor:
    """NT-Xent of every prefix; each builds its own logits."""
    return torch.stack([nt_xent_eager(z1[:, :m], z2[:, :m]) for m in dims]).sum()


def clip_eager(image: Tensor, text: Tensor, scale: float = 100.0) -> Tensor:
    """open_clip's symmetric cross-entropy on the (n, n) logits; rows are unit already."""
    logits = scale * image @ text.T
    target = torch.arange(image.shape[0], device=image.device)
    return (nnf.cross_entropy(logits, target) + nnf.cross_entropy(logits.T, target)) / 2


def clip_chunked(image: Tensor, text: Tensor, scale: float = 100.0) -> Tensor:
    """Two calls of torch's own chunked linear cross-entropy (torch >= 2.13)."""
    target = torch.arange(image.shape[0], device=image.device)
    options = _nn.LinearCrossEntropyOptions()
    rows: Tensor = _nn.functional.linear_cross_entropy(image * scale, text, target, options=options)
    columns: Tensor = _nn.functional.linear_cross_entropy(
        text * scale, image, target, options=options
    )
    return (rows + columns) / 2


def info_nce_eager(query: Tensor, key: Tensor, temperature: float = 0.05) -> Tensor:
    """One direction on cosines, as MultipleNegativesRankingLoss of sentence-transformers has it."""
    logits = nnf.normalize(query, dim=1) @ nnf.normalize(key, dim=1).T / temperature
    return nnf.cross_entropy(logits, torch.arange(query.shape[0], device=query.device))


def gist_eager(query: Tensor, key: Tensor, by_query: Tensor, by_key: Tensor) -> Tensor:
    """GISTEmbedLoss of sentence-transformers: each matrix of cosines from n x n x d products."""

    def cosines(x: Tensor, y: Tensor) -> Tensor:
        return nnf.cosine_similarity(x[:, None], y[None], dim=-1)

    return _gist(query, key, by_query, by_key, cosines)


def gist_smart(query: Tensor, key: Tensor, by_query: Tensor, by_key: Tensor) -> Tensor:
    """The same with products of unit rows."""
    u, v, g, h = (nnf.normalize(x, dim=1) for x in (query, key, by_query, by_key))
    return _gist(u, v, g, h, lambda x, y: x @ y.T)


def _gist(
    query: Tensor,
    key: Tensor,
    by_query: Tensor,
    by_key: Tensor,
    cosines: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    guided = cosines(by_query, by_key)
    bound, diagonal = guided.diagonal()[:, None], torch.eye(len(query), dtype=torch.bool)
    scores = [
        cosines(query, key).masked_fill(
            (guided > bound) & ~diagonal.to(query.device), float("-inf")
        )
    ]
    for x, by in ((query, by_query), (key, by_key)):
        scores.append(cosines(x, x).masked_fill(cosines(by, by) > bound, float("-inf")))
    target = torch.arange(len(query), device=query.device)
    return nnf.cross_entropy(torch.cat(scores, 1) / 0.05, target)


def graph_siglip_eager(image: Tensor, text: Tensor, ids: Tensor) -> Tensor:
    """SigLIP with a dense mask of equal ids, open_clip's form with more ones."""
    logits = 10.0 * image @ text.T - 10.0
    sign = 2.0 * (ids[:, None] == ids).to(logits.dtype) - 1
    return -nnf.logsigmoid(sign * logits).sum() / len(image)


def per_positive_eager(z: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """pytorch-metric-learning's NTXentLoss: a matrix of positive pairs x negative pairs."""
    u = nnf.normalize(z, dim=1)
    s, other = u @ u.T / temperature, labels[:, None] != labels
    a, p = (~other).fill_diagonal_(False).nonzero().T
    b, q = other.nonzero().T
    positive, own = s[a, p][:, None], a[:, None] == b
    negative = s[b, q].expand(len(a), -1).masked_fill(~own, float("-inf"))
    return (torch.cat([positive, negative], 1).logsumexp(1) - positive[:, 0]).mean()


def per_positive_smart(z: Tensor, labels: Tensor, temperature: float = 0.1) -> Tensor:
    """The same with one log-sum-exp over the negatives of a row."""
    u = nnf.normalize(z, dim=1)
    s, other = u @ u.T / temperature, labels[:, None] != labels
    negative = s.masked_fill(~other, float("-inf")).logsumexp(1, keepdim=True)
    positive = ~other & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    return -(nnf.logsigmoid(s - negative) * positive).sum() / positive.sum()


def gram_anchor_eager(student: Tensor, teacher: Tensor) -> Tensor:
    """DINOv3's Gram loss per image, with its matrices of cosines."""
    u, v = nnf.normalize(student, dim=2), nnf.normalize(teacher, dim=2)
    return nnf.mse_loss(u @ u.mT, v @ v.mT)


def moco_eager(query: Tensor, key: Tensor, queue: Tensor, temperature: float = 0.2) -> Tensor:
    """MoCo as solo-learn and the authors write it; the queue has unit rows."""
    u, v = nnf.normalize(query, dim=1), nnf.normalize(key, dim=1)
    logits = torch.cat([(u * v).sum(1, keepdim=True), u @ queue.T], dim=1) / temperature
    return nnf.cross_entropy(logits, torch.zeros(len(u), dtype=torch.int64, device=u.device))


def prototypes_eager(
    student: Tensor, prototypes: Tensor, teacher: Tensor, own: Tensor, center: Tensor
) -> Tensor:
    """iBOT's patch loss with the last layers, as DINOv2 writes it: centering, logits stored."""
    with torch.no_grad():
        logits = nnf.normalize(teacher, dim=1) @ nnf.normalize(own, dim=1).T
        target = ((logits - center) / 0.04).softmax(1)
    logits = nnf.normalize(student, dim=1) @ nnf.normalize(prototypes, dim=1).T
    return -(target * nnf.log_softmax(logits / 0.1, dim=1)).sum(1).mean()


def dino_eager(
    student: Tensor, prototypes: Tensor, teacher: Tensor, own: Tensor, center: Tensor
) -> Tensor:
    """DINO with the last layers: all logits, their softmax once, and a product for every pair."""
    with torch.no_grad():
        logits = nnf.normalize(teacher, dim=-1) @ nnf.normalize(own, dim=1).T
        q = ((logits - center) / 0.04).softmax(-1)
    logits = nnf.normalize(student, dim=-1) @ nnf.normalize(prototypes, dim=1).T
    log_p = nnf.log_softmax(logits / 0.1, dim=-1)
    pairs = [(s, t) for s in range(len(log_p)) for t in range(len(q)) if s != t]
    return -torch.stack([(q[t] * log_p[s]).sum(-1).mean() for s, t in pairs]).mean()


def swav_eager(high: Tensor, prototypes: Tensor, low: Tensor) -> Tensor:
    """SwAV with its last layer, as its authors write it: Sinkhorn on the exponentials of each large
    crop, a cross-entropy for every pair.
    """
    w = nnf.normalize(prototypes, dim=1)
    scores = [nnf.normalize(x, dim=1) @ w.T for x in (*high, *low)]
    losses = []
    for i in range(len(high)):
        with torch.no_grad():
            q = (scores[i] / 0.05).exp()
            for _ in range(3):
                q = q / q.sum(0)
                q = q / q.sum(1, keepdim=True)
        for v, other in enumerate(scores):
            if v != i:
                losses.append(-(q * nnf.log_softmax(other / 0.1, dim=1)).sum(1).mean())
    return torch.stack(losses).mean()


def x_clr_eager(z: Tensor, targets: Tensor, temperature: float = 0.1) -> Tensor:
    """Cross-entropy of the softmax of both (n, n) similarities, diagonals masked."""
    own = torch.eye(len(z), dtype=torch.bool, device=z.device)
    t, u = nnf.normalize(targets, dim=1), nnf.normalize(z, dim=1)
    with torch.no_grad():
        q = (t @ t.T / temperature).masked_fill(own, float("-inf")).softmax(1)
    log_p = nnf.log_softmax((u @ u.T / temperature).masked_fill(own, float("-inf")), dim=1)
    return -(q * log_p.masked_fill(own, 0.0)).sum(1).mean()


def info_nce_chunked(query: Tensor, key: Tensor, temperature: float = 0.05) -> Tensor:
    """The same through torch's chunked linear cross-entropy (torch >= 2.13)."""
    target = torch.arange(query.shape[0], device=query.device)
    q, k = nnf.normalize(query, dim=1) / temperature, nnf.normalize(key, dim=1)
    options = _nn.LinearCrossEntropyOptions()
    loss: Tensor = _nn.functional.linear_cross_entropy(q, k, target, options=options)
    return loss


def siglip_eager(image: Tensor, text: Tensor, scale: float = 10.0, bias: float = -10.0) -> Tensor:
    """Sum of -log sigmoid over all pairs, over n."""
    logits = scale * image @ text.T + bias
    sign = 2 * torch.eye(image.shape[0], device=image.device, dtype=image.dtype) - 1
    return -nnf.logsigmoid(sign * logits).sum() / image.shape[0]


def _off_diagonal_square(c: Tensor) -> Tensor:
    return c.square().sum() - c.diagonal().square().sum()


def vicreg_eager(z1: Tensor, z2: Tensor) -> Tensor:
    """The original VICReg: (d, d) covariances, weights 25, 25, 1."""
    n, d = z1.shape
    loss = 25.0 * nnf.mse_loss(z1, z2)
    for z in (z1, z2):
        x = z - z.mean(0)
        std = (x.var(0) + 1e-4).sqrt()
        covariance = x.T @ x / (n - 1)
        loss = loss + 12.5 * nnf.relu(1 - std).mean() + _off_diagonal_square(covariance) / d
    return loss


def vicreg_smart(z1: Tensor, z2: Tensor) -> Tensor:
    """VICReg with ||X^T X||_F = ||X X^T||_F: the (n, n) Gram instead of the (d, d) covariance."""
    n, d = z1.shape
    loss = 25.0 * nnf.mse_loss(z1, z2)
    for z in (z1, z2):
        x = z - z.mean(0)
        variance = x.square().sum(0) / (n - 1)
        gram = (x @ x.T).square().sum() / (n - 1) ** 2
        loss = loss + 12.5 * nnf.relu(1 - (variance + 1e-4).sqrt()).mean()
        loss = loss + (gram - variance.square().sum()) / d
    return loss


def _standardised(z: Tensor) -> Tensor:
    x = z - z.mean(0)
    return x * (x.square().mean(0) + 1e-5).rsqrt()


def barlow_eager(z1: Tensor, z2: Tensor, off_diagonal: float = 5e-3) -> Tensor:
    """The original Barlow Twins: (d, d) cross-correlation of batch-normalised columns."""
    c = _standardised(z1).T @ _standardised(z2) / z1.shape[0]
    on = (c.diagonal() - 1).square().sum()
    return on + off_diagonal * _off_diagonal_square(c)


def barlow_smart(z1: Tensor, z2: Tensor, off_diagonal: float = 5e-3) -> Tensor:
    """Barlow Twins with ||A^T B||_F^2 = <A A^T, B B^T>: two (n, n) Grams."""
    n = z1.shape[0]
    a, b = _standardised(z1), _standardised(z2)
    diagonal = (a * b).sum(0) / n
    total = ((a @ a.T) * (b @ b.T)).sum() / n**2
    return (1 - diagonal).square().sum() + off_diagonal * (total - diagonal.square().sum())


def _clipped(z: Tensor) -> Tensor:
    return z / z.norm(dim=1, keepdim=True).clamp_min(1.0)


def spectral_eager(z1: Tensor, z2: Tensor) -> Tensor:
    """HaoChen et al. (2021): -2/n sum of positives + mean square of the off-diagonal products."""
    n = z1.shape[0]
    a, b = _clipped(z1), _clipped(z2)
    return -2 * (a * b).sum() / n + _off_diagonal_square(a @ b.T) / (n * (n - 1))


def spectral_smart(z1: Tensor, z2: Tensor) -> Tensor:
    """The same in O(n d^2): ||A B^T||_F^2 = <A^T A, B^T B>."""
    n = z1.shape[0]
    a, b = _clipped(z1), _clipped(z2)
    positive = (a * b).sum(1)
    pairs = ((a.T @ a) * (b.T @ b)).sum() - positive.square().sum()
    return -2 * positive.sum() / n + pairs / (n * (n - 1))


def sigreg_eager(z: Tensor, directions: Tensor, knots: int = 17, t_max: float = 3.0) -> Tensor:
    """SIGReg of each view along given directions, with the (views, n, S, knots) angles."""
    t = torch.linspace(0, t_max, knots, device=z.device, dtype=z.dtype)
    phi = torch.exp(-t.square() / 2)
    weight = torch.full_like(t, 2 * t_max / (knots - 1)) * phi
    weight[[0, -1]] = weight[[0, -1]] / 2
    angle = (z @ directions)[..., None] * t
    gap = (angle.cos().mean(-3) - phi).square() + angle.sin().mean(-3).square()
    return z.shape[-2] * (gap @ weight).mean()
