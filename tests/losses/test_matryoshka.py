"""Matryoshka: prefixes, weights, re-normalisation, every loss it takes."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.losses import MatryoshkaLoss

from ..cases import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("loss", ["nt_xent", "info_nce", "dcl", "vicreg", "barlow_twins"])
def test_is_the_sum_over_prefixes(loss, impl):
    a, b = pair_rows(10, 8)
    function = getattr(F, loss)
    expected = sum(w * function(a[:, :m], b[:, :m]) for m, w in ((2, 0.5), (5, 1.0), (8, 2.0)))
    ours = F.matryoshka(loss, a, b, dims=[2, 5, 8], weights=[0.5, 1.0, 2.0], impl=impl)
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_prefixes_are_renormalised(impl):
    a, b = (unit(z) for z in pair_rows(10, 8))
    clip = sum(F.clip(unit(a[:, :m]), unit(b[:, :m]), 10.0) for m in (3, 8))
    ours = F.matryoshka("clip", a, b, dims=[3, 8], logit_scale=10.0, impl=impl)
    torch.testing.assert_close(ours, clip)
    siglip = sum(F.siglip(unit(a[:, :m]), unit(b[:, :m]), 10.0, -5.0) for m in (3, 8))
    ours = F.matryoshka("siglip", a, b, dims=(3, 8), logit_scale=10.0, logit_bias=-5.0, impl=impl)
    torch.testing.assert_close(ours, siglip)


def test_negatives_terms_and_reduction():
    a, b = pair_rows(6, 8)
    extra = pair_rows(4, 8, seed=1)[0]
    rows, terms = F.matryoshka(
        "info_nce",
        a,
        b,
        dims=[4, 8],
        weights=[2, 1],
        negatives=extra,
        reduction="none",
        return_terms=True,
    )
    four = F.info_nce(a[:, :4], b[:, :4], negatives=extra[:, :4], reduction="none")
    eight = F.info_nce(a, b, negatives=extra, reduction="none")
    torch.testing.assert_close(rows, 2 * four + eight)
    torch.testing.assert_close(terms, {"dim_4": four, "dim_8": eight})


def test_scale_gets_the_gradient_of_all_prefixes():
    a, b = pair_rows(6, 8)
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    loss = F.matryoshka("nt_xent", a, b, dims=[4, 8], temperature=t)
    (grad,) = torch.autograd.grad(loss, t)
    parts = [F.nt_xent(a[:, :m], b[:, :m], temperature=t) for m in (4, 8)]
    torch.testing.assert_close(grad, sum(torch.autograd.grad(p, t)[0] for p in parts))


def test_module():
    a, b = pair_rows(6, 8)
    module = MatryoshkaLoss("nt_xent", [4, 8], temperature=0.2)
    torch.testing.assert_close(
        module(a, b), F.matryoshka("nt_xent", a, b, dims=[4, 8], temperature=0.2)
    )


def test_errors():
    a, b = pair_rows(4, 3)
    with pytest.raises(ValueError, match=r"loss must be one of .* got 'sup_con'"):
        F.matryoshka("sup_con", a, b, dims=[2])
    with pytest.raises(ValueError, match=r"dims needs at least one prefix length"):
        F.matryoshka("nt_xent", a, b, dims=[])
    with pytest.raises(ValueError, match=r"dims must be in 1 ... 3, the features of z1, got 4"):
        F.matryoshka("nt_xent", a, b, dims=[2, 4])
    with pytest.raises(TypeError, match=r"dims must be integers, got float"):
        F.matryoshka("nt_xent", a, b, dims=[2.0])
    with pytest.raises(ValueError, match=r"one number per prefix \(2\), got 1"):
        F.matryoshka("nt_xent", a, b, dims=[2, 3], weights=[1.0])
    with pytest.raises(ValueError, match=r"weights must be finite and >= 0, got -1"):
        F.matryoshka("nt_xent", a, b, dims=[2], weights=[-1])
