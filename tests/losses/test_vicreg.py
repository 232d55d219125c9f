"""VICReg: golden values and components, duality, module, collapsed embeddings."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import VICRegLoss

from ..support.golden import assert_golden
from ..support.inputs import golden_rows, pair_rows
from ..support.tolerance import assert_no_worse

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_golden(impl):
    assert_golden("vicreg", lambda a, b: F.vicreg(a, b, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_solo_learn_is_twice_the_variance(impl):
    assert_golden("vicreg solo", lambda a, b: F.vicreg(a, b, variance=50.0, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("shape", "terms"),
    [
        ((8, 5), (0.04592771952, 0.24634036859, 0.23378368999, 0.52120037416, 0.54896505415)),
        ((6, 16), (0.04514160656, 0.24613406142, 0.21449680474, 2.30099927441, 2.43585072774)),
    ],
)
def test_components(shape, terms, impl):
    invariance, var_a, var_b, cov_a, cov_b = terms
    loss, got = F.vicreg(*golden_rows(*shape), return_terms=True, impl=impl)
    assert abs(got["invariance"].item() - invariance) <= 1e-10
    assert abs(got["variance"].item() - 0.5 * (var_a + var_b)) <= 1e-10
    assert abs(got["covariance"].item() - (cov_a + cov_b)) <= 1e-10
    total = 25 * got["invariance"] + 25 * got["variance"] + got["covariance"]
    torch.testing.assert_close(total, loss)


@pytest.mark.parametrize("shape", [(40, 7), (7, 40), (2, 300), (300, 2), (33, 1), (16, 32)])
def test_both_sides_of_the_duality(shape):
    a, b = pair_rows(*shape)
    fused, plain = F.vicreg(a, b), F.vicreg(a, b, impl="torch")
    torch.testing.assert_close(fused, plain, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_columns_of_unlike_size(dtype, size):
    """One column holds nearly all of ||C||^2, on its diagonal: what is left is not a difference."""
    if dtype == torch.float32 and size > 1e9:
        pytest.skip("squares beyond float32")
    views = [x.to(dtype) for x in pair_rows(40, 160)]
    for x in views:
        x[:, 3] *= size
    graph = PairGraph.from_views(40)
    functions = (
        lambda a, b, impl: F.vicreg(a, b, invariance=0.0, variance=0.0, impl=impl),
        lambda a, b, impl: F.graph_vicreg(
            torch.cat([a, b]), graph, invariance=0.0, variance=0.0, covariance=1.0, impl=impl
        ),
    )
    for function in functions:
        values, grads = [], []
        for impl, t in (("fused", dtype), ("torch", dtype), ("torch", torch.float64)):
            leaves = [x.to(t).requires_grad_() for x in views]
            value = function(*leaves, impl)
            values.append(value.detach())
            grads.append(torch.autograd.grad(value, leaves)[0])
        exact = 1e-13 if dtype == torch.float64 else 1e-6  # float64: nothing is more exact
        assert_no_worse(*([v] for v in values), floor=exact)
        assert_no_worse(*([g] for g in grads), floor=exact)


def test_invariance_is_the_edge_sum_of_the_view_graph():
    """The official term is sum_ij G_ij ||z_i - z_j||^2 / (K N) on two views."""
    a, b = pair_rows(11, 5)
    loss = F.vicreg(a, b, variance=0.0, covariance=0.0)
    graph = PairGraph.from_views(11)
    energy = 2 * F.dirichlet_energy(torch.cat([a, b]), graph)
    torch.testing.assert_close(loss, 25 / 5 / 22 * energy)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_collapsed_embedding(impl):
    z = torch.full((6, 4), 3.0, dtype=torch.float64, requires_grad=True)
    loss, terms = F.vicreg(z, z.detach(), return_terms=True, impl=impl)
    loss.backward()
    assert abs(loss.item() - 25 * 0.99) <= 1e-12
    assert terms["covariance"].item() == 0
    assert z.grad.abs().max() == 0


def test_shift_has_no_effect_on_the_regularisers():
    a, b = pair_rows(20, 6)
    shifted = F.vicreg(a + 1e3, b - 1e3, invariance=0.0)
    torch.testing.assert_close(shifted, F.vicreg(a, b, invariance=0.0), rtol=1e-9, atol=1e-9)


def test_module_is_lightlys():
    assert_golden("vicreg", VICRegLoss())
    solo = VICRegLoss(lambda_param=25, mu_param=50, nu_param=1, eps=1e-4)
    assert_golden("vicreg solo", solo)


def test_rows_have_no_loss_of_their_own():
    a, b = pair_rows(4, 3)
    with pytest.raises(TypeError, match="sample_weight"):
        F.vicreg(a, b, sample_weight=torch.ones(4))
    with pytest.raises(TypeError, match="reduction"):
        F.vicreg(a, b, reduction="none")


@pytest.mark.parametrize(
    ("hyper", "message"),
    [
        ({"invariance": -1.0}, r"vicreg: invariance must be finite and >= 0, got -1"),
        ({"variance": float("nan")}, r"vicreg: variance must be finite and >= 0, got nan"),
        ({"covariance": float("inf")}, r"vicreg: covariance must be finite and >= 0, got inf"),
        ({"eps": 0.0}, r"vicreg: eps must be finite and > 0, got 0"),
    ],
)
def test_bad_coefficients(hyper, message):
    with pytest.raises(ValueError, match=message):
        F.vicreg(*pair_rows(4, 3), **hyper)


def test_one_row_has_no_variance():
    with pytest.raises(ValueError, match=r"vicreg: z1 needs at least 2 rows .*\(1, 3\)"):
        F.vicreg(*pair_rows(1, 3))
