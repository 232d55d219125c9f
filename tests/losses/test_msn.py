"""MSN and PMSN: golden values, terms, priors, gradients, the modules, bad arguments."""

import math

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
OPTIONS = ({}, {"iterations": 0, "regularization": 0.0}, {"prior": 0.25})
# lightly 1.6.0 in fp64: MSNLoss, the same without Sinkhorn's iteration and regularisation, PMSNLoss
GOLDEN = {
    (8, 5): (
        (8.25329039422, 1.6135426642, 1.43523298728),
        (7.77600104915, 1.55308285897, 1.94032848755),
        (8.30750985146, 1.66510400886, 1.45499076269),
    ),
    (6, 16): (
        (3.46246290729, 1.50415403885, 1.28228625556),
        (3.5268342842, 1.50788368581, 1.36976900339),
        (3.48957008422, 1.53622096242, 1.25239824989),
    ),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g = golden(*shape)
    for options, values in zip(OPTIONS, GOLDEN[shape], strict=True):
        assert_values(F.msn(g.z1, g.t1, g.w, impl=impl, **options), [g.z1, g.w], *values)


@pytest.mark.parametrize("shape", GOLDEN)
def test_golden_modules(shape):
    g = golden(*shape)
    plain = sf.MSNLoss(sinkhorn_iterations=0, regularization_weight=0)
    for module, values in zip((sf.MSNLoss(), plain, sf.PMSNLoss()), GOLDEN[shape], strict=True):
        assert_values(module(g.z1, g.t1, g.w), [g.z1, g.w], *values)
    sharper = sf.MSNLoss(0.2)(g.z1, g.t1, g.w, target_sharpen_temperature=0.5)
    want = F.msn(g.z1, g.t1, g.w, temperature=0.2, sharpening=0.5)
    torch.testing.assert_close(sharper, want)
    assert "power_law_exponent=0.5" in repr(sf.PMSNLoss(power_law_exponent=0.5))
    gathered = sf.MSNLoss(gather_distributed=True)(g.z1, g.t1, g.w)
    torch.testing.assert_close(gathered, sf.MSNLoss()(g.z1, g.t1, g.w))


def inputs():
    """Three views of 6 samples, targets, prototypes."""
    anchors = torch.cat([*pair_rows(6, 4), pair_rows(6, 4, 1)[0]])
    return anchors, pair_rows(6, 4, 2)[0], pair_rows(9, 4, 3)[0]


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("prior", [None, 0.5, torch.linspace(1, 3, 9)])
def test_terms(prior, impl):
    anchors, targets, w = inputs()
    how = {"prior": prior, "regularization": 0.7, "iterations": 0, "impl": impl}
    loss, terms = F.msn(anchors, targets, w, return_terms=True, **how)
    log_p = (unit(anchors) @ unit(w).T / 0.1).log_softmax(1)
    q = (unit(targets) @ unit(w).T / 0.025).softmax(1)
    cross = -(q.repeat(3, 1) * log_p).sum(1).mean()
    mean = log_p.exp().mean(0)
    if prior is None:
        want = math.log(9) + (mean * mean.log()).sum()
    else:
        each = torch.arange(1, 10).double()
        law = prior.double() if isinstance(prior, torch.Tensor) else each**-prior
        law = law / law.sum()
        want = (law * (law / mean).log()).sum()
    torch.testing.assert_close(terms["regularization"], want)
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], cross)
    torch.testing.assert_close(loss, cross + 0.7 * want)


@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_are_those_of_the_reference(options):
    """Targets' codes have none, though they are of the same prototypes."""
    anchors, targets, w = inputs()
    leaves = [anchors.requires_grad_(), w.requires_grad_()]
    found = []
    for impl in IMPLEMENTATIONS:
        loss = F.msn(anchors, targets, w, impl=impl, **options)
        found.append(torch.autograd.grad(loss, leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_uniform_prior_is_drawn_the_other_way():
    """Both are 0 where the mean code is uniform, and differ elsewhere."""
    anchors, targets, w = inputs()
    how = {"return_terms": True}
    ours = F.msn(anchors, targets, w, **how)[1]["regularization"]
    other = F.msn(anchors, targets, w, prior=0.0, **how)[1]["regularization"]
    assert abs(ours - other) > 1e-4
    same, rows = torch.ones(9, 4).double(), torch.ones(6, 4).double()  # one code for all
    for prior in (None, 0.0):
        terms = F.msn(rows, rows, same, prior=prior, **how)[1]
        assert terms["regularization"].abs() < 1e-14


A, T, W = inputs()
BAD = [
    ((A, T, None), {}, TypeError, "prototypes must be a torch.Tensor, got NoneType"),
    ((A, T, W[:, :2]), {}, ValueError, "prototypes must have the 4 features of anchors"),
    ((A[:7], T, W), {}, ValueError, "anchors must be a multiple of the 6 rows of targets"),
    ((A, T, W), {"temperature": 0.0}, ValueError, "temperature must be finite and > 0, got 0.0"),
    ((A, T, W), {"sharpening": 2.0}, ValueError, r"sharpening must be in \(0, 1\], got 2.0"),
    ((A, T, W), {"iterations": 1.0}, TypeError, "iterations must be an integer, got float"),
    ((A, T, W), {"regularization": -1.0}, ValueError, "regularization must be finite and >= 0"),
    ((A, T, W), {"prior": -1.0}, ValueError, "prior must be finite and >= 0, got -1.0"),
    ((A, T, W), {"prior": W[0]}, ValueError, "prior must have a number for each of the 9 proto"),
    ((A, T, W), {"prior": torch.zeros(9)}, ValueError, "prior must be finite and > 0, got 0.0"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"msn: .*{message}|msn: {message}"):
        F.msn(*arguments, **options)
