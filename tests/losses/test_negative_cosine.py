"""Negative cosine similarity: torch's cosine_similarity, the gradient, stop-gradient, arguments."""

import pytest
import torch
import torch.nn.functional as nnf

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", [(8, 5), (6, 16), (1, 1), (257, 130)])
def test_it_is_the_mean_of_torchs_cosine_similarity(shape, impl):
    # lightly's NegativeCosineSimilarity is this call.
    leaves = [x.requires_grad_() for x in golden_rows(*shape)]
    ours = F.negative_cosine(*leaves, impl=impl)
    theirs = -nnf.cosine_similarity(*leaves, dim=1, eps=1e-8).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(
        torch.autograd.grad(ours, leaves), torch.autograd.grad(theirs, leaves)
    )


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("shape", "value", "norm"),
    [((8, 5), -0.959873830295, 0.0627596132757), ((6, 16), -0.959360519993, 0.0409439963641)],
)
def test_golden(shape, value, norm, impl):
    """NegativeCosineSimilarity() of lightly 1.6.0 in float64."""
    z1, z2 = golden_rows(*shape)
    z1.requires_grad_()
    loss = F.negative_cosine(z1, z2, impl=impl)
    (grad,) = torch.autograd.grad(loss, z1)
    assert loss.item() == pytest.approx(value, abs=1e-10)
    assert grad.norm().item() == pytest.approx(norm, abs=1e-10)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_the_gradient_is_the_formula_of_the_page(impl):
    p, z = (x.requires_grad_() for x in pair_rows(9, 4))
    (grad,) = torch.autograd.grad(F.negative_cosine(p, z, impl=impl), p)
    u, v = unit(p), unit(z)
    s = (u * v).sum(1, keepdim=True)
    torch.testing.assert_close(grad, -(v - s * u) / (9 * p.norm(dim=1, keepdim=True)))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("eps", [1e-12, 1e-8, 0.5, 1e3])
def test_short_rows_have_the_length_eps(eps, dtype, impl):
    p, z = (x.to(dtype) for x in pair_rows(6, 3))
    p[0], p[1] = 0, 0.3 * eps * unit(p)[1]
    p.requires_grad_()
    rows = F.negative_cosine(p, z, eps=eps, reduction="none", impl=impl)
    shortened = p.detach().norm(dim=1).clamp_min(eps) * z.norm(dim=1).clamp_min(eps)
    torch.testing.assert_close(rows, -(p.detach() * z).sum(1) / shortened)
    (grad,) = torch.autograd.grad(rows.sum(), p)
    target = z / z.norm(dim=1, keepdim=True).clamp_min(eps)
    torch.testing.assert_close(grad[:2], -target[:2] / eps, rtol=1e-5, atol=0)


def test_weights_and_reductions():
    p, z = pair_rows(7, 4)
    w = torch.linspace(0, 2, 7, dtype=torch.float64)
    rows = F.negative_cosine(p, z, reduction="none")
    torch.testing.assert_close(F.negative_cosine(p, z, reduction="sum"), rows.sum())
    weighted = F.negative_cosine(p, z, sample_weight=w)
    torch.testing.assert_close(weighted, (w * rows).sum() / w.sum())
    total = F.negative_cosine(p, z, sample_weight=w, reduction="sum")
    torch.testing.assert_close(total, (w * rows).sum())


def test_simsiams_loss_has_no_gradient_of_the_targets():
    z1, z2 = (x.requires_grad_() for x in pair_rows(8, 4))
    p1, p2 = torch.tanh(z1), torch.tanh(z2)
    loss = 0.5 * F.negative_cosine(p1, z2.detach()) + 0.5 * F.negative_cosine(p2, z1.detach())
    grads = torch.autograd.grad(loss, (z1, z2))
    for grad, z, target in zip(grads, (z1, z2), (z2, z1), strict=True):
        alone = z.detach().requires_grad_()
        half = -0.5 * nnf.cosine_similarity(torch.tanh(alone), target.detach()).mean()
        torch.testing.assert_close(grad, *torch.autograd.grad(half, alone))


def test_module_is_lightlys():
    p, z = pair_rows(9, 4)
    assert torch.equal(sf.NegativeCosineSimilarity()(p, z), F.negative_cosine(p, z))
    p[0] *= 1e-4
    assert torch.equal(
        sf.NegativeCosineSimilarity(1, 1e-3)(p, z), F.negative_cosine(p, z, eps=1e-3)
    )
    assert repr(sf.NegativeCosineSimilarity()) == "NegativeCosineSimilarity(dim=1, eps=1e-08)"
    with pytest.raises(ValueError, match=r"Similarity: dim must be 1, the features, got 2"):
        sf.NegativeCosineSimilarity(dim=2)


def test_errors():
    p, z = pair_rows(4, 3)
    for bad in (0.0, -1.0, 1e-13, float("nan")):
        with pytest.raises(ValueError, match=rf"negative_cosine: eps must be .* 1e-12, got {bad}"):
            F.negative_cosine(p, z, eps=bad)
    with pytest.raises(TypeError, match="negative_cosine: eps must be a number, got str"):
        F.negative_cosine(p, z, eps="1")
