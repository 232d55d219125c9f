"""KoLeo: golden values, neighbours by groups and ids, duplicates, the simplex bound, arguments."""

import math

import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.primitives.pairwise import nearest as module
from sslspec_fast.primitives.pairwise.nearest import nearest

from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")
# lightly's and dinov2's KoLeoLoss in fp64 (loss, |dz|), then dinov3's with topk=3, whose distances
# are float32
GOLDEN = {
    (8, 5): ((0.416179345661, 0.509290132291), (0.128586754203, 0.132477209961)),
    (6, 16): ((0.197424643492, 0.205255043273), (-0.0792573168874, 0.0855164185178)),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    for k, (value, norm), error in zip((1, 3), GOLDEN[shape], (1e-10, 2e-7), strict=True):
        z = golden_rows(*shape)[0].requires_grad_()
        loss = F.koleo(z, k=k, impl=impl)
        (grad,) = torch.autograd.grad(loss, z)
        assert abs(loss.item() - value) <= error
        assert abs(grad.norm().item() - norm) <= error


def test_module_is_lightlys():
    z = pair_rows(9, 4)[0]
    assert torch.equal(sf.KoLeoLoss()(z), F.koleo(z))
    assert torch.equal(sf.KoLeoLoss(p=2, eps=1e-3)(z), F.koleo(z, eps=1e-3))
    assert repr(sf.KoLeoLoss()) == "KoLeoLoss(p=2, eps=1e-08)"
    with pytest.raises(ValueError, match="KoLeoLoss: p must be 2, the Euclidean distance, got 1"):
        sf.KoLeoLoss(p=1)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_groups_are_losses_of_their_own(impl):
    z = pair_rows(12, 4)[0].requires_grad_()
    whole = F.koleo(z, k=2, group_size=4, impl=impl)
    parts = torch.stack([F.koleo(part, k=2, impl=impl) for part in z.split(4)]).mean()
    torch.testing.assert_close(whole, parts)
    ours, wanted = (torch.autograd.grad(x, z)[0] for x in (whole, parts))
    torch.testing.assert_close(ours, wanted)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_crops_of_one_image_are_no_neighbours(impl):
    """Rows of id 0 see only the others; the pairs of one image, closest of all, do not count."""
    z = pair_rows(6, 4)[0]
    both, ids = torch.cat([z, z + 1e-3]), torch.arange(6).repeat(2)
    u = unit(both)
    distance = torch.cdist(u, u).masked_fill(ids[:, None] == ids, math.inf)
    rows = F.koleo(both, ids=ids, reduction="none", impl=impl)
    torch.testing.assert_close(rows, -distance.min(1).values.log(), rtol=1e-6, atol=1e-6)
    lonely = torch.tensor([0, 0, 0, 0, 0, 1])  # the last is the only neighbour of the others
    rows = F.koleo(z, k=3, ids=lonely, reduction="none", impl=impl)
    torch.testing.assert_close(
        rows[:5], -(unit(z)[:5] - unit(z)[5]).norm(dim=1).log(), rtol=1e-6, atol=1e-6
    )
    none = torch.zeros(6, dtype=torch.int64)
    assert F.koleo(z, ids=none, impl=impl) == 0
    torch.testing.assert_close(F.koleo(z, k=3, ids=lonely, reduction="sum", impl=impl), rows.sum())


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
def test_equal_rows_are_finite(dtype):
    """Every pair at the distance eps sqrt(d): about 17.5 a row."""
    z = torch.ones(5, 8, dtype=dtype, requires_grad=True)
    loss = F.koleo(z)
    assert abs(loss.item() + math.log(1e-8 * (math.sqrt(8) + 1))) <= 1e-5
    assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


@pytest.mark.parametrize(("n", "d"), [(4, 3), (5, 8)])
def test_the_simplex_is_the_minimum(n, d):
    bound = -math.log(2 * n / (n - 1)) / 2
    simplex = torch.eye(n, dtype=torch.float64) - 1 / n
    assert abs(F.koleo(simplex).item() - bound) <= 1e-7  # eps is 1e-8
    best = math.inf
    for seed in range(4):
        z = pair_rows(n, d, seed)[0].requires_grad_()
        optimizer = torch.optim.Adam([z], lr=0.05)
        schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.99)
        for _ in range(1200):
            optimizer.zero_grad()
            loss = F.koleo(z)
            loss.backward()
            optimizer.step()
            schedule.step()
            best = min(best, loss.item())
    assert bound - 1e-7 <= best <= bound + 1e-3


def test_neighbours_in_blocks(monkeypatch):
    u = unit(pair_rows(30, 5)[0])
    whole = nearest(u, 3)
    products = (u @ u.T).fill_diagonal_(-2)
    assert torch.equal(whole, products.topk(3, 1).indices)
    ids = torch.arange(30) % 4
    grouped = nearest(u, 2, ids=ids, group=10)
    monkeypatch.setattr(module, "_BLOCK_ELEMENTS", 70)
    assert torch.equal(nearest(u, 3), whole)
    assert torch.equal(nearest(u, 2, ids=ids, group=10), grouped)
    assert torch.equal(nearest(torch.ones(3, 2), 1)[:, 0], torch.tensor([1, 0, 0]))  # lowest index
    torch.library.opcheck(torch.ops.sslspec_fast.pairwise_nearest.default, (u, ids, 2, 10, 5, 20))


Z = torch.eye(4)


@pytest.mark.parametrize(
    ("z", "options", "error", "message"),
    [
        (Z[:1], {}, ValueError, r"z needs at least 2 rows and 1 column, got \(1, 4\)"),
        (Z, {"k": 0}, ValueError, "k must be at least 1, got 0"),
        (Z, {"k": 4}, ValueError, "k must be less than the 4 rows of a group, got 4"),
        (Z, {"group_size": 3}, ValueError, "group_size must divide the 4 rows of z, got 3"),
        (Z, {"group_size": 2, "k": 2}, ValueError, "less than the 2 rows of a group, got 2"),
        (Z, {"ids": [1, 2]}, ValueError, r"ids must have one value per row \(4,\), got \(2,\)"),
        (Z, {"eps": 0.0}, ValueError, "eps must be finite and > 0, got 0.0"),
        (Z, {"impl": "c"}, ValueError, "impl must be one of 'fused', 'torch', got 'c'"),
    ],
)
def test_bad_arguments(z, options, error, message):
    with pytest.raises(error, match=f"koleo: .*{message}|koleo: {message}"):
        F.koleo(z, **options)
