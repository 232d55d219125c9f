"""Optima on the sphere: X-CLR's (row XC) and KoLeo's (row KO) of docs/closed_forms.md."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import spectral


def targets(n=12, e=3, constant=False, seed=0):
    """(n, e) random rows; constant: unit rows below each other with a column of equal entries."""
    t = torch.randn(n, e, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    unit = torch.nn.functional.normalize(t)
    return torch.cat([unit, torch.ones(n, 1, dtype=torch.float64)], 1) if constant else t


def entropy(t, temperature):
    """Mean entropy of the targets, written out."""
    unit = torch.nn.functional.normalize(t)
    logits = (unit @ unit.T / temperature).fill_diagonal_(-math.inf)
    q = logits.softmax(1)
    return -float(torch.special.xlogy(q, q).sum(1).mean())


# ------------------------------------------------------------------------- X-CLR
@pytest.mark.parametrize(
    ("hyper", "constant", "rank"),
    [
        ({"temperature": 0.2, "target_temperature": 0.2}, False, 3),
        ({"temperature": 0.1, "target_temperature": 0.3}, False, 4),
        ({"temperature": 0.5, "target_temperature": 0.45}, True, 4),
    ],
)
def test_xc_the_similarities_of_the_targets_are_the_optimum(lab, hyper, constant, rank):
    """The loss is the entropy of the targets; descent from every start ends there or above."""
    t = targets(constant=constant)
    form = spectral.x_clr(t, 5, **hyper)
    tau, other = hyper["temperature"], hyper["target_temperature"]
    assert form.loss == pytest.approx(entropy(t, other), rel=1e-12)
    assert form.rank == rank
    assert form.embedding.norm(dim=1) == pytest.approx(torch.ones(12, dtype=torch.float64))
    unit = torch.nn.functional.normalize(t)
    gram = tau / other * unit @ unit.T + (1 - tau / other)
    torch.testing.assert_close(form.embedding @ form.embedding.T, gram)
    loss = lambda z: F.x_clr(z, t, **hyper)  # noqa: E731
    lab.agree(form, loss, rel=1e-12)
    assert lab.gradient(loss, form.embedding) < 1e-10
    _, z, values = lab.minimise(loss, (12, 5), starts=3, iterations=4000)
    assert (values >= form.loss * (1 - 1e-13)).all()
    assert values.min() <= form.loss * (1 + 1e-8)
    gap = spectral.optimality_gap("x_clr", z, t, **hyper)
    assert abs(gap.relative_gap) <= 1e-8
    assert gap.best_scale == 1
    assert gap.angle <= 1e-3
    zero = spectral.optimality_gap("x_clr", 0 * z, t, **hyper)
    assert zero.relative_gap == pytest.approx(1)
    assert zero.loss == pytest.approx(math.log(11))


def test_xc_dot_products_allow_any_temperatures():
    """Z Z^T = tau / tau' S attains the entropy for every pair of temperatures, S any PSD matrix."""
    t, tau, other = targets(e=7), 0.5, 0.2
    unit = torch.nn.functional.normalize(t)
    z = math.sqrt(tau / other) * unit
    q = (unit @ unit.T / other).fill_diagonal_(-math.inf).softmax(1)
    log_p = (z @ z.T / tau).fill_diagonal_(-math.inf).log_softmax(1)
    found = -(q * log_p.fill_diagonal_(0)).sum(1).mean()
    assert float(found) == pytest.approx(entropy(t, other), rel=1e-13)


def test_xcx_fewer_columns_than_the_rank_stay_above_the_entropy(lab):
    t = targets()
    best, _, _ = lab.minimise(lambda z: F.x_clr(z, t), (12, 2), starts=3)
    assert best > entropy(t, 0.1) * 1.01


def test_x_clr_errors():
    t = targets()
    for arguments, hyper, error, message in (
        ((t, 2), {}, ValueError, r"k must be at least 3, the rank of r S .* got 2"),
        ((t, 5), {"temperature": 0.2}, ValueError, r"at most target_temperature = 0.1 .* got 0.2"),
        ((t, 5), {"temperature": 0}, ValueError, "temperature must be positive, got 0"),
        ((t[:1], 5), {}, ValueError, "targets must have at least 2 rows, got 1"),
        ((t * (torch.arange(12) > 1)[:, None], 5), {}, ValueError, "positive length, got 2 of"),
        ((t, 2.0), {}, TypeError, "x_clr: k must be an integer, got float"),
    ):
        with pytest.raises(error, match=message):
            spectral.x_clr(*arguments, **hyper)
    with pytest.raises(ValueError, match=r"shape \(12, k\) like the targets, got \(11, 5\)"):
        spectral.optimality_gap("x_clr", torch.zeros(11, 5), t)


def test_x_clr_returns_the_array_type_of_the_targets():
    t = targets()
    assert isinstance(spectral.x_clr(t.numpy(), 3).embedding, np.ndarray)
    assert isinstance(spectral.x_clr(t, 3).embedding, torch.Tensor)


# ------------------------------------------------------------------------- KoLeo
@pytest.mark.parametrize(
    ("n", "d", "value"), [(4, 3, -0.490415), (6, 5, -0.437734), (5, 8, -0.458145)]
)
def test_ko_the_simplex_is_the_optimum(lab, n, d, value):
    """L >= -log(2n / (n - 1)) / 2; no descent passes."""
    form = spectral.koleo(n, d, eps=1e-14)
    assert form.loss == pytest.approx(value, abs=5e-7)
    lab.agree(form, lambda z: F.koleo(z, eps=1e-14), rel=1e-12)
    assert form.info.lower_bound <= form.loss
    # The nearest row is a maximum of n - 1 cosines, equal at the optimum, where L-BFGS on the loss
    # itself stalls; with all neighbours the loss is smooth and has the same optimum.
    every = lambda z: F.koleo(z, k=n - 1, eps=1e-14)  # noqa: E731
    lab.agree(spectral.koleo(n, d, k=n - 1, eps=1e-14), every, rel=1e-12)
    _, z, values = lab.minimise(every, (n, d), starts=4, iterations=3000)
    assert (values >= form.info.lower_bound - 1e-12).all()
    assert values.max() - form.loss <= 1e-8 * abs(form.loss)
    gap = spectral.optimality_gap("koleo", z, None, k=n - 1, eps=1e-14)
    assert abs(gap.relative_gap) <= 1e-8
    assert gap.angle <= 1e-6
    nearest, _, _ = lab.minimise(lambda z: F.koleo(z, eps=1e-14), (n, d), starts=4)
    assert form.info.lower_bound - 1e-12 <= nearest <= form.loss + 0.02
    assert spectral.optimality_gap("koleo", 0 * z, None).relative_gap == pytest.approx(1)


def test_ko_groups_are_simplices_of_their_own(lab):
    form = spectral.koleo(12, 3, group_size=4, eps=1e-14)
    assert form.loss == spectral.koleo(4, 3).loss
    lab.agree(form, lambda z: F.koleo(z, group_size=4, eps=1e-14), rel=1e-12)


def test_ko_no_rows_beat_the_bound():
    """Random, clustered and equal rows, with and without room for a simplex."""
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        n, d = 3 + seed, 2 + seed % 5
        z = torch.randn(n, d, dtype=torch.float64, generator=generator)
        for k in (1, 2):
            assert float(F.koleo(z, k=k)) >= -0.5 * math.log(2 * n / (n - 1)) - 1e-7


def test_koleo_errors():
    for arguments, hyper, message in (
        ((1, 3), {}, "koleo: n must be at least 2, got 1"),
        ((6, 4), {}, "koleo: d must be at least 5 for a simplex of 6 rows, got 4"),
        ((6, 5), {"k": 6}, "koleo: k must be less than the 6 rows of a group, got 6"),
        ((6, 5), {"group_size": 4}, "koleo: group_size must divide n = 6, got 4"),
        ((6, 5), {"eps": -1}, "eps must be at least 0, got -1"),
    ):
        with pytest.raises(ValueError, match=message):
            spectral.koleo(*arguments, **hyper)
    with pytest.raises(TypeError, match="graph must be None for koleo, got Tensor"):
        spectral.optimality_gap("koleo", torch.eye(3), torch.eye(3))
