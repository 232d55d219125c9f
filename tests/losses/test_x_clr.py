"""X-CLR: its definition, its limits, the optimum where it is exact, bad arguments."""

import math

import pytest
import torch

import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_definition(reduction, impl):
    z, targets = pair_rows(7, 4)[0].requires_grad_(), pair_rows(7, 5, 1)[0]
    t = torch.linspace(0.1, 0.3, 7).double()
    weight = torch.linspace(0.5, 2, 7).double()
    s, own = unit(z) @ unit(z).T / t[:, None], unit(targets) @ unit(targets).T / 0.2
    rows = []
    for i in range(7):
        others = [j for j in range(7) if j != i]
        q, log_p = own[i, others].softmax(0), s[i, others].log_softmax(0)
        rows.append(-(q * log_p).sum())
    rows = torch.stack(rows)
    how = {"temperature": t, "target_temperature": 0.2, "reduction": reduction, "impl": impl}
    for given in (None, weight):
        each = rows if given is None else given * rows
        total = 7 if given is None else weight.sum()
        want = {"none": each, "sum": each.sum(), "mean": each.sum() / total}[reduction]
        loss, terms = F.x_clr(z, targets, sample_weight=given, return_terms=True, **how)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(terms["entropy"] + terms["divergence"], loss.detach())
        ours, theirs = (torch.autograd.grad(x.sum(), z, retain_graph=True) for x in (loss, want))
        torch.testing.assert_close(ours, theirs)


def test_sharp_targets_are_those_of_nt_xent():
    """Two views of a sample have the same target: at a small temperature it is the only one."""
    a, b = pair_rows(6, 4)
    targets = torch.eye(6).double().repeat(2, 1)
    loss = F.x_clr(torch.cat([a, b]), targets, temperature=0.2, target_temperature=1e-3)
    torch.testing.assert_close(loss, F.nt_xent(a, b, temperature=0.2))


def test_equal_rows_and_targets_attain_the_entropy():
    targets = pair_rows(9, 4)[0]
    loss, terms = F.x_clr(targets, targets, return_terms=True)
    torch.testing.assert_close(loss, terms["entropy"])
    assert terms["divergence"].abs() < 1e-13
    z = pair_rows(9, 4, 1)[0]
    assert F.x_clr(z, targets, return_terms=True)[1]["divergence"] > 0.1
    assert F.x_clr(torch.eye(2).double(), torch.eye(2).double()).abs() < 1e-13  # one other


def test_orthogonal_targets_are_uniform():
    z = torch.eye(5).double()
    assert F.x_clr(z, z).item() == pytest.approx(math.log(4), abs=1e-13)


Z = torch.eye(4)
BAD = [
    ((Z[:1], Z[:1]), {}, ValueError, r"z needs at least 2 rows and 1 column, got \(1, 4\)"),
    ((Z, Z[:3]), {}, ValueError, r"targets must have the 4 rows of z, got \(3, 4\)"),
    ((Z, 3.0), {}, TypeError, "targets must be a torch.Tensor, got float"),
    ((Z, Z.to("meta")), {}, ValueError, "targets must be on the device of z, cpu, got meta"),
    ((Z, Z), {"temperature": 0.0}, ValueError, "temperature must be finite and > 0, got 0.0"),
    ((Z, Z), {"target_temperature": 0.0}, ValueError, "target_temperature must be finite and > 0"),
    ((Z, Z), {"reduction": "max"}, ValueError, "reduction must be one of"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"x_clr: .*{message}|x_clr: {message}"):
        F.x_clr(*arguments, **options)
