"""What autograd keeps between the passes: hooks, checkpoints, kept graphs, edits, torch.vmap."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import sslspec_fast.functional as F

from ..support.cases import CASES
from ..support.inputs import pair_rows


def evaluated(name):
    inputs, loss = CASES[name].make(12, 5)
    return [x.requires_grad_() for x in inputs], lambda *x: loss(*x).square().sum()


@pytest.mark.parametrize("name", CASES)
def test_a_saved_tensor_is_unpacked_once(name):
    leaves, loss = evaluated(name)
    unpacked = []

    def pack(tensor):
        return tensor.clone(), len(unpacked)

    def unpack(packed):
        unpacked.append(id(packed))
        return packed[0]

    wanted = torch.autograd.grad(loss(*leaves), leaves)
    with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
        value = loss(*leaves)
    torch.testing.assert_close(torch.autograd.grad(value, leaves), wanted)
    assert unpacked
    assert len(set(unpacked)) == len(unpacked)


@pytest.mark.parametrize("name", CASES)
def test_checkpoints_without_reentrance(name):
    leaves, loss = evaluated(name)
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    got = torch.autograd.grad(checkpoint(loss, *leaves, use_reentrant=False), leaves)
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("name", CASES)
def test_an_edited_gradient_does_not_reach_a_second_backward(name):
    inputs, loss = CASES[name].make(12, 5)
    leaves = [x.requires_grad_() for x in inputs]
    value = loss(*leaves)
    ones = torch.ones_like(value)  # a factor of one is where a saved gradient could be handed out
    first = torch.autograd.grad(value, leaves, ones, retain_graph=True)
    kept = [g.clone() for g in first]
    for g in first:
        g.data.zero_()
    torch.testing.assert_close(list(torch.autograd.grad(value, leaves, ones)), kept)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        torch.autograd.grad(value, leaves, ones)


@pytest.mark.parametrize("name", CASES)
def test_an_input_that_changed_before_backward_changes_no_gradient(name):
    leaves, loss = evaluated(name)
    wanted = torch.autograd.grad(loss(*leaves), leaves)
    rows = [x * 1.0 for x in leaves]
    value = loss(*rows)
    rows[0].mul_(2)
    try:
        got = torch.autograd.grad(value, leaves, retain_graph=True)
    except RuntimeError:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            torch.autograd.grad(value, leaves)
    else:  # the loss has saved what it made of the rows, not the rows
        torch.testing.assert_close(got, wanted)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
@pytest.mark.parametrize(
    "loss",
    [
        F.nt_xent,
        F.info_nce,
        F.dcl,
        F.vicreg,
        F.barlow_twins,
        F.spectral_contrastive,
        lambda x, y: F.siglip(x, y, 3.0, -1.0),
        lambda x, y: F.clip(x, y, 3.0),
    ],
    ids=["nt_xent", "info_nce", "dcl", "vicreg", "barlow_twins", "spectral", "siglip", "clip"],
)
def test_gradient_through_vmap(loss):
    y = pair_rows(6, 5, 1)[0]
    x = torch.stack([pair_rows(6, 5, seed)[0] for seed in range(3)]).requires_grad_()
    (wanted,) = torch.autograd.grad(sum(loss(v, y) for v in x), x)
    (got,) = torch.autograd.grad(torch.vmap(lambda v: loss(v, y))(x).sum(), x)
    torch.testing.assert_close(got, wanted)
