"""ProtoNCE and the concentrations of clusters: definition, reductions, gradients, bad arguments."""

import math

import pytest
import torch

import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
CLUSTERS = torch.tensor([0, 1, 1, 0, 2, 1, 4])


def inputs():
    return pair_rows(7, 4)[0], pair_rows(5, 4, 1)[0], torch.linspace(0.1, 0.4, 5).double()


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_definition(reduction, impl):
    z, c, phi = (x.requires_grad_() for x in inputs())
    logits = unit(z) @ unit(c).T / phi
    rows = torch.stack([logits[i].logsumexp(0) - logits[i, k] for i, k in enumerate(CLUSTERS)])
    weight = torch.linspace(0.5, 2, 7).double()
    how = {"concentration": phi, "reduction": reduction, "impl": impl}
    for given in (None, weight):
        each = rows if given is None else given * rows
        total = 7 if given is None else weight.sum()
        want = {"none": each, "sum": each.sum(), "mean": each.sum() / total}[reduction]
        loss, terms = F.proto_nce(z, c, CLUSTERS, sample_weight=given, return_terms=True, **how)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss.detach())
        found = [torch.autograd.grad(x.sum(), (z, c, phi), retain_graph=True) for x in (loss, want)]
        torch.testing.assert_close(*found)


def test_equal_concentrations_are_a_temperature():
    z, c, _ = inputs()
    want = torch.nn.functional.cross_entropy(unit(z) @ unit(c).T / 0.2, CLUSTERS)
    for phi in (0.2, torch.tensor(0.2), torch.full((5,), 0.2)):
        torch.testing.assert_close(F.proto_nce(z, c, CLUSTERS, concentration=phi), want)
    torch.testing.assert_close(F.proto_nce(z, c, CLUSTERS.tolist()), want)


def test_concentrations():
    """Clusters 3 and 4 have no or one row, and get the largest of the others."""
    z, c, _ = inputs()
    own = torch.tensor([0, 1, 1, 0, 2, 2, 4])
    distance = (unit(z) - unit(c)[own]).norm(dim=1)
    phi = [distance[own == k].mean() / math.log(int((own == k).sum()) + 10) for k in (0, 1, 2)]
    phi = torch.stack([*phi, max(phi), max(phi)])
    phi = phi.clamp(phi.quantile(0.1), phi.quantile(0.9))
    got = F.concentration(z, c, own, temperature=0.3)
    torch.testing.assert_close(got, 0.3 * phi / phi.mean())
    assert got.mean().item() == pytest.approx(0.3)
    assert not F.concentration(z.requires_grad_(), c, own).requires_grad
    half = F.concentration(z.detach().bfloat16(), c.bfloat16(), own, temperature=0.3)
    torch.testing.assert_close(half, got.float(), rtol=0.02, atol=0)


def test_clusters_without_an_extent():
    z = torch.eye(3)
    for own in ([0, 1, 2], [0, 0, 0]):
        rows = z[torch.tensor(own)]
        torch.testing.assert_close(F.concentration(rows, z, own), torch.full((3,), 0.2))


Z, C = torch.eye(4), torch.eye(3, 4)
BAD = [
    ((Z, None, [0] * 4), {}, TypeError, "prototypes must be a torch.Tensor, got NoneType"),
    ((Z, C[:, :2], [0] * 4), {}, ValueError, "prototypes must have the 4 features of z"),
    ((Z, C, [0] * 3), {}, ValueError, r"assignment must have one value per row \(4,\), got \(3,\)"),
    ((Z, C, [0, 1, 2, 3]), {}, ValueError, r"assignment must lie in \[0, 3\), got 3"),
    ((Z, C, [0, 1, 2, -1]), {}, ValueError, r"assignment must lie in \[0, 3\), got -1"),
    ((Z, C, [0] * 4), {"concentration": 0.0}, ValueError, "concentration must be finite and > 0"),
    ((Z, C, [0] * 4), {"group": 3}, TypeError, "group must be a torch.distributed.ProcessGroup"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"proto_nce: .*{message}|proto_nce: {message}"):
        F.proto_nce(*arguments, **options)


def test_bad_concentrations():
    with pytest.raises(ValueError, match="concentration: temperature must be finite and > 0"):
        F.concentration(Z, C, [0] * 4, temperature=0.0)
    with pytest.raises(ValueError, match=r"concentration: assignment must lie in \[0, 3\), got 5"):
        F.concentration(Z, C, [0, 1, 2, 5])


def test_gradients_of_prototypes_have_the_same_bits_in_every_run():
    """Many rows add to one prototype, on several threads in a fixed order."""
    z = torch.randn(20_000, 64)
    w = torch.randn(7, 64, requires_grad=True)
    own = torch.randint(0, 7, (20_000,))
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        runs = [torch.autograd.grad(F.proto_nce(z, w, own), w)[0] for _ in range(8)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(run, runs[0]) for run in runs[1:])
