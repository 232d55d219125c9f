"""LeJEPA: golden values, its terms, the view graph of its invariance, module, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.primitives.normality.sliced_ecf import directions

from ..support.inputs import pair_rows
from .test_sigreg import golden_directions, golden_views

IMPLEMENTATIONS = ("fused", "torch")
# lightly 1.6.0 in fp64, two global views and one local: loss and |dz1|, then of the invariance
GOLDEN = {
    (8, 5): ((0.425745306132, 0.0505659055795), (0.346376340423, 0.0534262390663)),
    (6, 16): ((0.426195382754, 0.0341192578679), (0.338326987543, 0.0339193316068)),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    z1, z2, z3 = golden_views(*shape)
    z1.requires_grad_()
    options = {"directions": golden_directions(shape[1], 32), "impl": impl}
    for weight, (value, norm) in zip((0.05, 0.0), GOLDEN[shape], strict=True):
        loss = F.lejepa([z1, z2], [z3], weight=weight, **options)
        (grad,) = torch.autograd.grad(loss, z1)
        assert abs(loss.item() - value) <= 1e-10
        assert abs(grad.norm().item() - norm) <= 1e-10


@pytest.mark.parametrize("slices", [20, None])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms(slices, impl):
    z = torch.stack([*pair_rows(9, 4), pair_rows(9, 4, 1)[0]])
    options = {"slices": slices, "seed": None if slices is None else 1, "impl": impl}
    loss, terms = F.lejepa(z[:2], z[2:], weight=0.3, return_terms=True, **options)
    torch.testing.assert_close(loss, 0.3 * terms["sigreg"] + 0.7 * terms["invariance"])
    torch.testing.assert_close(terms["sigreg"], F.sigreg(z, **options))
    torch.testing.assert_close(terms["invariance"], (z - z[:2].mean(0)).square().mean())
    assert not any(term.requires_grad for term in terms.values())


def test_tensors_and_lists_of_views_are_the_same():
    z = torch.stack([*pair_rows(9, 4), *pair_rows(9, 4, 1)])
    want = F.lejepa(z[:3], z[3:], slices=None)
    assert torch.equal(F.lejepa(list(z[:3]), tuple(z[3:]), slices=None), want)
    alone = F.lejepa(z[:3], slices=None)
    torch.testing.assert_close(alone, F.lejepa(list(z[:3]), None, slices=None))
    assert F.lejepa(z[:1], slices=None, weight=0.0) == 0  # one view is its own mean


@pytest.mark.parametrize(("views", "global_views"), [(2, 2), (5, 2), (3, 1)])
def test_invariance_is_the_energy_of_a_signed_view_graph(views, global_views):
    """Local - global edges of weight 1 / G, global - global of 2 / G - V / G^2."""
    n, d, g = 7, 3, global_views
    z = torch.randn(views, n, d, dtype=torch.float64)
    weight = torch.zeros(views, views, dtype=torch.float64)
    weight[:, :g] += 1 / g
    weight[:g] += 1 / g
    weight[:g, :g] -= views / g**2
    weight.fill_diagonal_(0)
    v, w = weight.nonzero(as_tuple=True)
    row = torch.arange(n)
    graph = sf.PairGraph.from_edges(
        (v[:, None] * n + row).flatten(),
        (w[:, None] * n + row).flatten(),
        weight[v, w].repeat_interleave(n),
        n=views * n,
    )
    energy = F.dirichlet_energy(z.flatten(0, 1), graph)
    loss = F.lejepa(z[:g], z[g:] if views > g else None, weight=0.0, slices=None)
    torch.testing.assert_close(loss, energy / (views * n * d))


def test_module_is_lightlys():
    z = torch.stack([*pair_rows(9, 4), pair_rows(9, 4, 1)[0]])
    torch.manual_seed(5)
    got = sf.LeJEPALoss(sigreg_num_vectors=33)(local_proj=z[2:], global_proj=z[:2])
    torch.manual_seed(5)
    a = directions(z, 33, None)
    assert torch.equal(got, F.lejepa(z[:2], z[2:], directions=a))
    other = sf.LeJEPALoss(0.2, sigreg_knots=9, sigreg_t_max=2.0, sigreg_num_vectors=None)
    want = F.lejepa(z[:2], weight=0.2, knots=9, t_max=2.0, slices=None)
    assert torch.equal(other(global_proj=z[:2]), want)
    with pytest.raises(TypeError, match="positional"):
        other(z[2:], z[:2])


Z = torch.zeros(2, 4, 3)


@pytest.mark.parametrize(
    ("first", "further", "options", "error", "message"),
    [
        (Z[0], None, {}, ValueError, r"global_views must be \(views, rows, features\) or a list"),
        ([], None, {}, TypeError, "global_views must be a tensor or a list of tensors, got an emp"),
        (None, None, {}, TypeError, "global_views must be a tensor or a list of tensors, got None"),
        (Z, "a", {}, TypeError, "local_views must be a tensor or a list of tensors, got str"),
        (Z, [Z], {}, ValueError, r"local_views must have 2 dimensions .*got shape \(2, 4, 3\)"),
        (Z, Z[:, :3], {}, ValueError, r"local_views must match the first of global_views \(4, 3\)"),
        ([Z[0], Z[0, :3]], None, {}, ValueError, r"global_views must match .* got \(3, 3\)"),
        (Z, Z.double(), {}, TypeError, "local_views must have the dtype of the first of global_vi"),
        (Z, None, {"weight": -0.1}, ValueError, "weight must be finite and >= 0, got -0.1"),
        (Z, None, {"weight": 1.1}, ValueError, r"weight must be in \[0, 1\], got 1.1"),
        (Z, None, {"slices": 0}, ValueError, "slices must be at least 1, got 0"),
        (Z, None, {"impl": "c"}, ValueError, "impl must be one of 'fused', 'torch', got 'c'"),
        (Z, None, {"directions": torch.eye(4)}, ValueError, "each of the 3 features of z"),
    ],
)
def test_bad_arguments(first, further, options, error, message):
    with pytest.raises(error, match=f"lejepa: {message}|lejepa: .*{message}"):
        F.lejepa(first, further, **options)
