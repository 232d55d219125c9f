"""SigLIP: golden values, scale and bias gradients, rows, extreme logits, module."""

import pytest
import torch
import torch.nn.functional as nnf

import sslspec_fast.functional as F
from sslspec_fast.losses import SigLIPLoss

from ..support.golden import assert_golden
from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


def by_definition(a, b, scale, bias):
    logits = a @ b.T * (scale[:, None] if scale.dim() else scale) + bias
    sign = 2 * torch.eye(len(a), dtype=a.dtype) - 1
    return -nnf.logsigmoid(sign * logits).sum(1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("siglip", lambda a, b: F.siglip(unit(a), unit(b), 10.0, -10.0, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("rows", [None, 6])
def test_gradients_of_scale_and_bias(rows, impl):
    a, b = (unit(z) for z in pair_rows(6, 4))
    shape = () if rows is None else (rows,)
    scale = torch.full(shape, 4.0, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    expected = by_definition(a, b, scale, bias).mean()
    loss = F.siglip(a, b, scale, bias, impl=impl)
    torch.testing.assert_close(loss, expected)
    ours = torch.autograd.grad(loss, (scale, bias))
    torch.testing.assert_close(ours, torch.autograd.grad(expected, (scale, bias)))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_rows_weights_and_terms(impl):
    a, b = (unit(z) for z in pair_rows(6, 4))
    w = torch.tensor([1.0, 0.0, 2.0, 1.0, 3.0, 0.5]).double()
    rows = by_definition(a, b, torch.tensor(5.0).double(), -2.0)
    torch.testing.assert_close(F.siglip(a, b, 5.0, -2.0, reduction="none", impl=impl), rows)
    torch.testing.assert_close(F.siglip(a, b, 5.0, -2.0, reduction="sum", impl=impl), rows.sum())
    loss, terms = F.siglip(a, b, 5.0, -2.0, sample_weight=w, return_terms=True, impl=impl)
    torch.testing.assert_close(loss, (w * rows).sum() / w.sum())
    torch.testing.assert_close(terms["positive"] + terms["negative"], loss)


def test_well_aligned_pairs_do_not_cancel():
    """Logits of 30 and -30: softplus(l) - l would lose everything below 1e-6 in float32."""
    x = torch.eye(64)
    loss = F.siglip(x, x, 60.0, -30.0)
    exact = F.siglip(x.double(), x.double(), 60.0, -30.0, impl="torch")
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_one_pair():
    a, b = (unit(z) for z in pair_rows(1, 4))
    expected = by_definition(a, b, torch.tensor(3.0).double(), 0.5)[0]
    torch.testing.assert_close(F.siglip(a, b, 3.0, 0.5), expected)


def test_module_is_open_clips():
    module = SigLIPLoss()
    scale, bias = torch.tensor(10.0).double(), torch.tensor(-10.0).double()
    assert_golden("siglip", lambda a, b: module(unit(a), unit(b), scale, bias))
    a, b = (unit(z) for z in pair_rows(4, 3))
    out = module(a, b, 3.0, output_dict=True)
    torch.testing.assert_close(out["contrastive_loss"], F.siglip(a, b, 3.0, 0.0))


def test_module_takes_open_clips_settings():
    a, b = (unit(z) for z in pair_rows(6, 3))
    for settings in ({"dist_impl": "gather"}, {"chunk_size": 2}, {"dist_impl": None}):
        torch.testing.assert_close(SigLIPLoss(**settings)(a, b, 3.0), SigLIPLoss()(a, b, 3.0))
    with pytest.raises(ValueError, match=r"dist_impl must be one of 'bidir', 'shift', 're"):
        SigLIPLoss(dist_impl="ring")
    with pytest.raises(ValueError, match=r"SigLIPLoss: chunk_size must be at least 1, got 0"):
        SigLIPLoss(chunk_size=0)


def test_bad_arguments():
    a, b = (unit(z) for z in pair_rows(4, 3))
    with pytest.raises(ValueError, match=r"siglip: logit_bias must be finite, got nan"):
        F.siglip(a, b, 1.0, float("nan"))
    with pytest.raises(ValueError, match=r"siglip: logit_scale must be finite and > 0, got 0"):
        F.siglip(a, b, 0.0, 1.0)
