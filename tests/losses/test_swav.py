"""SwAV: golden values, balanced codes of each large crop, gradients, the module, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# lightly 1.6.0 in fp64: two large crops and a small one, without and with a queue
GOLDEN = {
    (8, 5): ((5.63600344275, 0.0828552895935), (5.40793747408, 0.382747916085)),
    (6, 16): ((6.01734957228, 0.514214991929), (6.38421230797, 0.76650852934)),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g, (alone, queued) = golden(*shape), GOLDEN[shape]
    high, low, queue = [g.z1, g.z2], [g.z3], [g.t1, g.t2]
    assert_values(F.swav(high, low, impl=impl), [g.z1], *alone)
    assert_values(F.swav(high, low, queue=queue, impl=impl), [g.z1], *queued)
    if impl == "fused":
        assert_values(sf.SwaVLoss()(high, low), [g.z1], *alone)
        assert_values(sf.SwaVLoss()(high, low, queue), [g.z1], *queued)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("iterations", [0, 1, 4])
def test_definition(iterations, impl):
    """Codes from Sinkhorn and Knopp on the matrix of a crop and its queue; without rounds the
    softmax.
    """
    high, low = torch.stack(pair_rows(6, 4)), torch.stack(pair_rows(6, 4, 1))
    queue, w = torch.stack(pair_rows(5, 4, 2)), pair_rows(9, 4, 3)[0]
    losses = []
    for i in range(2):
        q = (unit(torch.cat([high[i], queue[i]])) @ unit(w).T / 0.06).exp()
        for _ in range(iterations):
            q = q / q.sum(0)
            q = q / q.sum(1, keepdim=True)
        q = (q / q.sum(1, keepdim=True))[:6]
        for other in (high[1 - i], low[0], low[1]):
            log_p = (unit(other) @ unit(w).T / 0.2).log_softmax(1)
            losses.append(-(q * log_p).sum(1).mean())
    how = {"temperature": 0.2, "sinkhorn_temperature": 0.06, "iterations": iterations}
    loss, terms = F.swav(high, low, w, queue=queue, impl=impl, return_terms=True, **how)
    torch.testing.assert_close(loss, torch.stack(losses).mean())
    torch.testing.assert_close(terms["entropy"] + terms["divergence"], loss)


@pytest.mark.parametrize("normalize", [True, False])
def test_gradients_are_those_of_the_reference(normalize):
    """Codes have none, though they are of the same rows and prototypes."""
    leaves = [*pair_rows(6, 4), pair_rows(6, 4, 1)[0], pair_rows(9, 4, 3)[0]]
    leaves = [x.requires_grad_() for x in leaves]
    found = []
    for impl in IMPLEMENTATIONS:
        how = {"temperature": 0.2, "normalize": normalize, "impl": impl}
        loss = F.swav(leaves[:2], leaves[2:3], leaves[3], **how)
        found.append(torch.autograd.grad(loss, leaves))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs)
        assert theirs.abs().max() > 1e-3


def test_the_module_with_its_last_layer():
    high, low, w = list(pair_rows(6, 4)), list(pair_rows(6, 4, 1)), pair_rows(9, 4, 3)[0]
    scores = [[unit(x) @ unit(w).T for x in views] for views in (high, low)]
    module = sf.SwaVLoss(0.2, 2, 0.1)
    torch.testing.assert_close(module(high, low, prototypes=w), module(*scores))
    want = F.swav(high, None, w, temperature=0.2, iterations=2, sinkhorn_temperature=0.1)
    torch.testing.assert_close(module(high, [], prototypes=w), want)
    assert "sinkhorn_epsilon=0.1" in repr(module)
    assert sf.SwaVLoss(sinkhorn_gather_distributed=True)(*scores) == sf.SwaVLoss()(*scores)


VIEWS, W = list(pair_rows(6, 4)), torch.eye(5, 4).double()
BAD = [
    ((3,), {}, TypeError, "high_views must be a tensor or a list of tensors, got int"),
    ((VIEWS[:1],), {}, ValueError, "high_views and low_views must be at least 2 in all, got 1"),
    ((VIEWS, [VIEWS[0][:2]]), {}, ValueError, "low_views must match the first of high_views"),
    ((VIEWS, None, W[:, :3]), {}, ValueError, "prototypes must have the 4 features of high_views"),
    ((VIEWS,), {"queue": VIEWS[:1]}, ValueError, "queue must have rows for each of the 2 high_vi"),
    ((VIEWS,), {"queue": [W[:, :3]] * 2}, ValueError, "queue must have the 4 features of high_v"),
    ((VIEWS,), {"queue": [W, W[:3]]}, ValueError, "queue must match the first of queue"),
    ((VIEWS,), {"queue": [W.float()] * 2}, TypeError, "queue must have the dtype of high_views"),
    ((VIEWS,), {"temperature": 0.0}, ValueError, "temperature must be finite and > 0, got 0"),
    ((VIEWS,), {"sinkhorn_temperature": 0.0}, ValueError, "sinkhorn_temperature must be finite"),
    ((VIEWS,), {"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"swav: .*{message}|swav: {message}"):
        F.swav(*arguments, **options)
