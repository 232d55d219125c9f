"""MoCo: golden values, false negatives, the queue as it is and when it changes, bad arguments."""

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import _C

from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
# solo-learn's mocov2plus_loss_func and sslsv's MoCoLoss at temperature 0.2 in fp64: loss and |dz1|,
# without labels and with those of `golden_ids`
GOLDEN = {
    (8, 5): ((1.12999208542, 0.282963594702), (0.879749139009, 0.247405476327)),
    (6, 16): ((0.109103639719, 0.0508852170076), (0.0841096987704, 0.0399862522818)),
}


def golden_queue(d):
    k = torch.arange(12 * d, dtype=torch.float64).view(12, d)
    return unit(torch.sin(0.37 * k + 0.5))


def golden_ids(n):
    return {"ids": torch.arange(n) % 3, "queue_ids": torch.arange(12) % 4}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    z1, z2 = golden_rows(*shape)
    z1 = z1.requires_grad_()
    for options, (value, norm) in zip(({}, golden_ids(shape[0])), GOLDEN[shape], strict=True):
        loss = F.moco(z1, z2.detach(), golden_queue(shape[1]), impl=impl, **options)
        (grad,) = torch.autograd.grad(loss, z1)
        assert abs(loss.item() - value) <= 1e-10
        assert abs(grad.norm().item() - norm) <= 1e-10


def logits_of(q, k, queue, temperature):
    positive = (unit(q) * unit(k)).sum(1, keepdim=True)
    return torch.cat([positive, unit(q) @ queue.T], 1) / temperature


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_margin_and_threshold(impl):
    q, k = pair_rows(9, 4)
    queue, bound = unit(pair_rows(30, 4, 1)[0]), torch.linspace(-0.5, 0.9, 9, dtype=torch.float64)
    logits = logits_of(q, k, queue, 0.3)
    logits[:, 0] -= 0.2 / 0.3
    logits[:, 1:][logits[:, 1:] > bound[:, None] / 0.3] = -torch.inf
    expected = logits.logsumexp(1) - logits[:, 0]
    options = {"temperature": 0.3, "margin": 0.2, "threshold": bound, "impl": impl}
    torch.testing.assert_close(F.moco(q, k, queue, reduction="none", **options), expected)
    loss, terms = F.moco(q, k, queue, return_terms=True, **options)
    torch.testing.assert_close(loss, expected.mean())
    torch.testing.assert_close(terms["alignment"], -logits[:, 0].mean())
    everything = F.moco(q, k, queue, temperature=0.3, threshold=-1.0, impl=impl)
    torch.testing.assert_close(everything, torch.zeros_like(everything))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_an_empty_queue_has_nothing_to_tell_apart(impl):
    q, k = (z.requires_grad_() for z in pair_rows(5, 3))
    loss = F.moco(q, k, torch.zeros(0, 3, dtype=torch.float64), impl=impl)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, q)[0].abs().max() == 0


def test_the_queue_is_not_copied():
    """Autograd sees a change of the very rows; half-precision queries take a wide queue."""
    q, k = (z.bfloat16().requires_grad_() for z in pair_rows(4, 8))
    queue = unit(pair_rows(100, 8, 1)[0]).float()
    wide = F.moco(q.float(), k.float(), queue)
    rounding = 2**-9 if _C.bf16_products() else 1e-6
    torch.testing.assert_close(F.moco(q, k, queue), wide, rtol=rounding, atol=rounding)
    loss = F.moco(q, k, queue)
    queue[0] = queue[1]
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_training_with_a_bank_is_training_with_a_list():
    """Ids and rows arrive first in, first out, across the end of the store."""
    bank, kept = sf.MemoryBank(7, 4, ids=True, dtype=torch.float64), []
    for step in range(6):
        q, k = pair_rows(3, 4, step)
        ids = torch.arange(3) + step
        q.requires_grad_()
        rows = torch.stack([row for row, _ in kept]) if kept else torch.zeros(0, 4).double()
        numbers = torch.tensor([i for _, i in kept], dtype=torch.int64)
        want = F.moco(q, k, rows, ids=ids, queue_ids=numbers)
        loss = F.moco(q, k, bank.rows, ids=ids, queue_ids=bank.ids)
        torch.testing.assert_close(loss, want)
        loss.backward()
        bank.update(k, ids)
        kept = (kept + list(zip(unit(k), ids.tolist(), strict=True)))[-7:]
        assert len(bank) == len(kept)
        assert sorted(bank.ids.tolist()) == sorted(i for _, i in kept)


def test_bank_keeps_the_last_rows_and_survives_a_checkpoint():
    bank = sf.MemoryBank(4, 3)
    bank.update(torch.arange(1.0, 31.0).view(10, 3))
    expected = unit(torch.arange(1.0, 31.0).view(10, 3))[6:]
    torch.testing.assert_close(bank.rows, expected)
    assert bank.ids is None
    other = sf.MemoryBank(4, 3)
    other.load_state_dict(bank.state_dict())
    for one in (bank, other):
        one.update(torch.eye(3)[:1])
    assert torch.equal(other.rows, bank.rows)
    torch.testing.assert_close(bank.rows[0], torch.eye(3)[0])  # the oldest made room
    nearest = bank.nearest(torch.tensor([[5.0, 0.1, 0.0], [1.0, 1.0, 1.1]]))
    torch.testing.assert_close(nearest[0], torch.eye(3)[0])
    torch.testing.assert_close(nearest[1], bank.rows[1:][0])
    assert repr(bank) == "MemoryBank(size=4, features=3, ids=False)"


@pytest.mark.parametrize("kind", ["float32", "float32 in autocast", "bfloat16"])
def test_the_nearest_row_is_not_a_matter_of_rounding(kind):
    """Many cosines near 1 are one number in bfloat16, of which the first would be taken."""
    bank, rows = sf.MemoryBank(200, 12), 1 + 0.1 * pair_rows(200, 12)[0].float()
    bank.update(rows)
    if kind == "bfloat16":
        bank.bfloat16()
    z = 1 + 0.1 * pair_rows(50, 12, seed=1)[0].to(bank.rows)
    with torch.autocast("cpu", torch.bfloat16, enabled=kind.endswith("autocast")):
        found = bank.nearest(z)
    assert torch.equal(found, bank.rows[(z.double() @ bank.rows.double().T).argmax(1)])


Z = torch.eye(4, 3) + 1.0
QUEUE = torch.eye(3)


@pytest.mark.parametrize(
    ("queue", "options", "error", "message"),
    [
        (
            torch.eye(4),
            {},
            ValueError,
            r"queue must be \(rows, 3\), the features of query \(4",
        ),
        (
            QUEUE.double(),
            {},
            TypeError,
            "queue must have the dtype of query, torch.float32, got torch.float64",
        ),
        (2 * QUEUE, {}, ValueError, "queue must have rows of unit length, got 2"),
        (QUEUE.to("meta"), {}, ValueError, "queue must be on the device of query, cpu, got meta"),
        ([1.0], {}, TypeError, "queue must be a torch.Tensor, got list"),
        (QUEUE, {"margin": -0.1}, ValueError, "margin must be finite and >= 0, got -0.1"),
        (QUEUE, {"ids": [1, 2, 3, 4]}, ValueError, "ids need queue_ids, got None"),
        (QUEUE, {"queue_ids": [1, 2, 3]}, ValueError, "queue_ids need ids, got None"),
        (
            QUEUE,
            {"ids": [1, 2, 3, 4], "queue_ids": [1, 2]},
            ValueError,
            r"queue_ids must have one value per row \(3,\), got \(2,\)",
        ),
        (QUEUE, {"threshold": "a"}, TypeError, "threshold must be a number, got str"),
        (QUEUE, {"threshold": float("nan")}, ValueError, "threshold must be finite, got nan"),
        (QUEUE, {"threshold": torch.zeros(3)}, ValueError, r"one value per row \(4,\), got shape"),
        (QUEUE, {"threshold": torch.ones(4).long()}, TypeError, "a floating-point tensor, got tor"),
    ],
)
def test_bad_arguments(queue, options, error, message):
    with pytest.raises(error, match=f"moco: .*{message}|moco: {message}"):
        F.moco(Z, Z, queue, **options)


def test_bad_calls_of_a_bank():
    with pytest.raises(ValueError, match="MemoryBank: size must be at least 1, got 0"):
        sf.MemoryBank(0, 3)
    with pytest.raises(TypeError, match="dtype must be float32 or float64, got torch"):
        sf.MemoryBank(2, 3, dtype=torch.bfloat16)
    bank = sf.MemoryBank(2, 3)
    with pytest.raises(ValueError, match=r"rows must have the 3 features of the bank, got \(4"):
        bank.update(torch.zeros(4, 2))
    with pytest.raises(ValueError, match="a bank made with ids=False takes no ids, got some"):
        bank.update(torch.zeros(1, 3), [1])
    with pytest.raises(ValueError, match="a bank made with ids=True needs ids, got none"):
        sf.MemoryBank(2, 3, ids=True).update(torch.zeros(1, 3))
    with pytest.raises(ValueError, match="the bank must hold at least 1 row, got 0"):
        bank.nearest(torch.zeros(1, 3))
    with pytest.raises(NotImplementedError, match="queue must not require grad"):
        F.moco(Z, Z, QUEUE.clone().requires_grad_())
