"""Row GR: the gradient formulas of the paper's losses against autograd through the library."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F

SLOPES = {
    "hinge_std": lambda v: torch.where(v < 1, -0.5 * v.rsqrt(), 0.0),
    "ls_std": lambda v: 1 - v.rsqrt(),
    "ls_var": lambda v: 2 * (v - 1),
    "hinge_var": lambda v: torch.where(v < 1, -1.0, 0.0),
}


@pytest.fixture
def case(lab):
    w = lab.random_weights(12, 0.4)
    z = torch.randn(12, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = z * torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    return z.requires_grad_(), torch.from_numpy(w), lab.graph(w)


def check(loss, z, formula):
    (grad,) = torch.autograd.grad(loss, z)
    assert torch.allclose(grad, formula.detach(), atol=1e-10)


@pytest.mark.parametrize("penalty", list(SLOPES))
def test_vicreg(case, penalty):
    """(2/(N-1)) H Z T + (4 gamma/N)(d * Z - G Z), T_kk = alpha pen'(C_kk), T_kl = 2 beta C_kl."""
    z, w, graph = case
    alpha, beta, gamma, n = 1.3, 0.4, 0.3, len(w)
    x = z - z.mean(0)
    c = x.T @ x / (n - 1)
    t = 2 * beta * (c - c.diag().diag()) + alpha * SLOPES[penalty](c.diag()).diag()
    d = w.sum(1)
    formula = 2 / (n - 1) * x @ t + 4 * gamma / n * (d[:, None] * z - w @ z)
    loss = F.graph_vicreg(
        z, graph, variance=alpha, covariance=beta, invariance=gamma, penalty=penalty
    )
    check(loss, z, formula)


@pytest.mark.parametrize("negatives", ["others", "non_positive"])
def test_info_nce(case, negatives):
    """(1/tau) [B U - 2 G U], B_ij = M_ij e^{s_ij/tau - a_i} + its transpose, a = lse - log d."""
    z, w, graph = case
    tau, d = 0.4, w.sum(1)
    off = ~torch.eye(len(w), dtype=torch.bool)
    mask = off & (w == 0) if negatives == "non_positive" else off
    norm = z.norm(dim=1, keepdim=True)
    u = z / norm
    logits = (u @ u.T / tau).masked_fill(~mask, -torch.inf)
    half = torch.exp(logits - logits.logsumexp(1, keepdim=True)) * d[:, None]
    inner = ((half + half.T) @ u - 2 * w @ u) / tau
    formula = (inner - u * (u * inner).sum(1, keepdim=True)) / norm
    loss = F.graph_info_nce(z, graph, temperature=tau, negatives=negatives, reduction="sum")
    check(loss, z, formula)


def test_barlow_twins(case):
    """2 Ghat Z (E / pp^T) - 2 Dhat Z diag_k(sum_l E_kl C_kl / p_k^2)."""
    z, w, graph = case
    alpha, d = 0.3, w.sum(1)
    centre = torch.outer(d, d) / d.sum()
    g, m = w - centre, d.diag() - centre
    p = (z * (m @ z)).sum(0).sqrt()
    c = z.T @ g @ z / torch.outer(p, p)
    e = 2 * alpha * (c - c.diag().diag()) + 2 * (c.diag() - 1).diag()
    formula = 2 * g @ z @ (e / torch.outer(p, p)) - 2 * m @ z * (e * c).sum(1) / p**2
    check(F.graph_barlow_twins(z, graph, off_diagonal=alpha), z, formula)


@pytest.mark.parametrize("center", [False, True])
def test_least_squares(case, center):
    """4 Z Z^T Z - 4 G Z."""
    z, w, graph = case
    h = torch.from_numpy(np.eye(12) - center / 12)
    target = h @ w @ h
    check(F.ls_simclr(z, graph, center=center), z, 4 * z @ (z.T @ z) - 4 * target @ z)


def test_spectral_contrastive(case):
    """-(4/vol) G Z + 4 P Z (Z^T P Z), P = diag(d/vol)."""
    z, w, graph = case
    d = w.sum(1)
    pz = (d / d.sum())[:, None] * z
    formula = -4 / d.sum() * w @ z + 4 * pz @ (z.T @ pz)
    check(F.graph_spectral_contrastive(z, graph), z, formula)
