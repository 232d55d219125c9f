"""ReSSL: golden values, reductions, the queue, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.inputs import pair_rows, unit
from ..support.prototypes import assert_values, golden

IMPLEMENTATIONS = ("fused", "torch")
# solo-learn's ressl_loss_func(u1, u2, queue, 0.1, 0.04) in fp64
GOLDEN = {(8, 5): (0.636572434488, 0.250145732067), (6, 16): (1.53329212061, 0.379302920422)}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g = golden(*shape)
    queue = unit(g.w.detach())
    assert_values(F.ressl(g.z1, g.z2, queue, impl=impl), [g.z1], *GOLDEN[shape])


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_reductions_and_weights(reduction, impl):
    (query, key), queue = pair_rows(6, 4), unit(pair_rows(11, 4, 1)[0])
    t, other = torch.linspace(0.2, 0.3, 6).double(), torch.linspace(0.05, 0.1, 6).double()
    q = (unit(key) @ queue.T / other[:, None]).softmax(1)
    rows = -(q * (unit(query) @ queue.T / t[:, None]).log_softmax(1)).sum(1)
    weight = torch.linspace(0.5, 2, 6).double()
    how = {"temperature": t, "key_temperature": other, "reduction": reduction, "impl": impl}
    for given in (None, weight):
        each = rows if given is None else given * rows
        total = 6 if given is None else weight.sum()
        want = {"none": each, "sum": each.sum(), "mean": each.sum() / total}[reduction]
        loss, terms = F.ressl(query, key, queue, sample_weight=given, return_terms=True, **how)
        torch.testing.assert_close(loss, want)
        torch.testing.assert_close(terms["entropy"] + terms["divergence"], loss)


def test_keys_and_queue_have_no_gradient():
    query, key = (x.requires_grad_() for x in pair_rows(6, 4))
    queue = unit(pair_rows(11, 4, 1)[0])
    loss = F.ressl(query, key, queue)
    assert torch.autograd.grad(loss, key, allow_unused=True, retain_graph=True) == (None,)
    assert torch.autograd.grad(loss, query)[0].abs().max() > 0


def test_a_memory_bank_is_a_queue():
    (query, key), earlier = pair_rows(6, 4), pair_rows(11, 4, 1)[0]
    bank = sf.MemoryBank(8, 4, dtype=torch.float64)
    bank.update(earlier)
    want = F.ressl(query, key, unit(earlier[3:]))
    torch.testing.assert_close(F.ressl(query, key, bank.rows), want)
    half = F.ressl(query.bfloat16(), key.bfloat16(), bank.rows.float())
    torch.testing.assert_close(half, want.float(), rtol=0.05, atol=0.05)


Z, Q = torch.eye(4), torch.eye(6, 4)[:4]
BAD = [
    ((Z, Z[:2], Q), {}, ValueError, r"key must match query \(4, 4\), got \(2, 4\)"),
    ((Z, Z, 2 * Q), {}, ValueError, "queue must have rows of unit length, got 2"),
    ((Z, Z, Q[:, :3]), {}, ValueError, "the features of query"),
    ((Z, Z, Q[:0]), {}, ValueError, "prototypes needs at least 1 row|queue needs at least 1 row"),
    ((Z, Z, Q.double()), {}, TypeError, "queue must have the dtype of query, torch.float32"),
    ((Z, Z, Q), {"temperature": -1.0}, ValueError, "temperature must be finite and > 0, got -1"),
    ((Z, Z, Q), {"key_temperature": 0}, ValueError, "key_temperature must be finite and > 0"),
    ((Z, Z, Q), {"sample_weight": Z}, ValueError, r"one value per sample \(4,\)"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=f"ressl: .*{message}|ressl: {message}"):
        F.ressl(*arguments, **options)
