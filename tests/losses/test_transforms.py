"""Batched gradients of the fused losses, and torch.func over the references."""

import pytest
import torch

from ..support.cases import CASES
from ..support.versions import TORCH


@pytest.mark.parametrize("name", CASES)
def test_batched_gradients_are_those_of_a_loop(name):
    inputs, loss = CASES[name].make(12, 5)
    leaves = [x.requires_grad_() for x in inputs]
    value = loss(*leaves)
    value = value if value.dim() == 0 else value[:2, :2]
    seeds = torch.randn(3, *value.shape, dtype=value.dtype, generator=torch.manual_seed(0))
    batched = torch.autograd.grad(value, leaves, seeds, retain_graph=True, is_grads_batched=True)
    for i, seed in enumerate(seeds):
        alone = torch.autograd.grad(value, leaves, seed, retain_graph=True)
        for got, want in zip(batched, alone, strict=True):
            torch.testing.assert_close(got[i], want)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")
@pytest.mark.parametrize("name", CASES)
def test_derivatives_by_torch_func(name):
    # the references have them; the fused losses say that they have not, rather than drop tangents
    if TORCH < (2, 5) and name.startswith("graph_vicreg") and name.endswith(("uniform", "nested")):
        pytest.skip("torch 2.4 fails in the plain form")
    inputs, loss = CASES[name].make(12, 5)
    directions = [torch.randn_like(x) for x in inputs]
    every = tuple(range(len(inputs)))

    def reference(*tensors):
        return loss(*tensors, impl="torch").square().sum()

    leaves = [x.clone().requires_grad_() for x in inputs]
    want = torch.autograd.grad(reference(*leaves), leaves)
    for got, exact in zip(torch.func.grad(reference, every)(*inputs), want, strict=True):
        torch.testing.assert_close(got, exact)
    _, slope = torch.func.jvp(reference, tuple(inputs), tuple(directions))
    exact = sum((g * v).sum() for g, v in zip(want, directions, strict=True))
    torch.testing.assert_close(slope, exact)
    if name.startswith(("falcon", "koleo")):
        return  # torch's own operations but for normalised rows, or for which rows are neighbours
    with pytest.raises(NotImplementedError, match="forward-mode derivatives are"):
        torch.func.jvp(loss, tuple(inputs), tuple(directions))
    with pytest.raises(NotImplementedError, match=r"derivatives by torch\.func are"):
        torch.func.grad(lambda *x: loss(*x).sum(), every)(*inputs)
