"""Second derivatives of every loss against finite differences of the first, in float64."""

from functools import partial

import pytest
import torch

import sslspec_fast.functional as F

from ..support.cases import CASES, TWO_VIEWS
from ..support.inputs import pair_rows, unit

# pen'' of a hinge jumps; away from the kink it is the same code as the penalties that are here
SMOOTH = [name for name in CASES if "hinge" not in name]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradgradcheck(name):
    case = CASES[name]
    inputs, loss = case.make(max(6, case.min_rows), 3, seed=1)
    leaves = [x.requires_grad_() for x in inputs]
    check = partial(torch.autograd.gradgradcheck, eps=1e-6, atol=1e-5, rtol=1e-4)
    if not case.softmax:
        assert check(loss, leaves)
        return
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    assert check(lambda *x: loss(*x[:-1], temperature=x[-1]), [*leaves, t])


def test_second_derivatives_in_a_bias():
    a, b = (x.requires_grad_() for x in pair_rows(5, 3))
    t = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-0.3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(
        lambda a, b, t, c: F.siglip(unit(a), unit(b), 1 / t, c), (a, b, t, bias)
    )


@pytest.mark.parametrize("name", ["nt_xent", "clip", "vicreg", "barlow_twins"])
def test_gradient_penalty_is_the_references(name):
    """A loss plus the squared norm of its own gradient, as in adversarial training."""
    case = CASES[name]
    inputs, loss = case.make(12, 4)
    leaves = [x.requires_grad_() for x in inputs]
    results = []
    for impl in ("fused", "torch"):
        grads = torch.autograd.grad(loss(*leaves, impl=impl), leaves, create_graph=True)
        penalty = sum(g.square().sum() for g in grads)
        results.append(torch.autograd.grad(penalty, leaves))
    torch.testing.assert_close(*results, rtol=1e-8, atol=1e-10)


VIEWS = {
    **TWO_VIEWS,
    "matryoshka": lambda a, b, **kw: F.matryoshka("nt_xent", a, b, dims=(3, 6), **kw),
}


@pytest.mark.parametrize("predictor", [lambda z: z, lambda z: torch.tanh(z) + z.roll(1, 0)])
@pytest.mark.parametrize("name", VIEWS)
def test_a_view_that_is_a_function_of_the_other(name, predictor):
    """The first gradient under create_graph is a partial one: autograd adds the other path."""
    z = torch.randn(9, 6, dtype=torch.float64, requires_grad=True)
    loss = VIEWS[name]
    (expected,) = torch.autograd.grad(loss(z, predictor(z), impl="torch"), z)
    for create_graph in (False, True):
        (grad,) = torch.autograd.grad(loss(z, predictor(z)), z, create_graph=create_graph)
        torch.testing.assert_close(grad.detach(), expected, rtol=1e-9, atol=1e-12)
