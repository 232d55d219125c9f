"""NT-Xent: golden values, temperatures, reductions, weights, smoothing, debiasing, module."""

import math

import pytest
import torch
import torch._dynamo.testing

import sslspec_fast.functional as F
from sslspec_fast.graph import PairGraph
from sslspec_fast.losses import NTXentLoss

from ..support.golden import assert_golden
from ..support.inputs import golden_rows, pair_rows, unit

IMPLEMENTATIONS = ("fused", "torch")


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.07])
def test_golden(temperature, impl):
    def loss(z1, z2):
        return F.nt_xent(z1, z2, temperature=temperature, impl=impl)

    assert_golden(f"nt_xent {temperature}", loss)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_simclr_tf2_is_twice_the_loss(impl):
    assert_golden("simclr tf2", lambda a, b: 2 * F.nt_xent(a, b, temperature=1.0, impl=impl))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize(("shape", "slope"), [((8, 5), 1.375785833565), ((6, 16), 1.541316319964)])
def test_temperature_gradient(shape, slope, impl):
    t = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    F.nt_xent(*golden_rows(*shape), temperature=t, impl=impl).backward()
    assert abs(t.grad.item() - slope) <= 1e-10


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_temperature_of_another_dtype_keeps_its_dtype(impl):
    t = torch.tensor(0.5, requires_grad=True)
    F.nt_xent(*golden_rows(8, 5), temperature=t, impl=impl).backward()
    assert t.grad.dtype == torch.float32
    assert abs(t.grad.item() - 1.375785833565) <= 1e-6


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_row_temperatures_in_both_layouts(impl):
    z1, z2 = pair_rows(9, 4)
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64, requires_grad=True)
    rows = F.nt_xent(z1, z2, temperature=t, reduction="none", impl=impl)
    both = F.nt_xent(z1, z2, temperature=t.repeat(2), reduction="none", impl=impl)
    torch.testing.assert_close(rows, both)
    for i in (0, 4, 8):
        alone = F.nt_xent(z1, z2, temperature=t[i].item(), reduction="none", impl=impl)
        torch.testing.assert_close(rows[[i, i + 9]], alone[[i, i + 9]])
    (grad,) = torch.autograd.grad(rows.sum(), t)
    for i in (0, 8):
        single = t[i].detach().clone().requires_grad_()
        alone = F.nt_xent(z1, z2, temperature=single, reduction="none", impl=impl)
        alone[[i, i + 9]].sum().backward()
        torch.testing.assert_close(grad[i], single.grad)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_reductions_are_view_major(impl):
    z1, z2 = pair_rows(7, 5)
    rows = F.nt_xent(z1, z2, reduction="none", impl=impl)
    assert rows.shape == (14,)
    u = unit(torch.cat([z1, z2]))
    s = (u @ u.T / 0.5).fill_diagonal_(-math.inf)
    for i in (0, 6, 7, 13):
        expected = torch.logsumexp(s[i], 0) - s[i, (i + 7) % 14]
        torch.testing.assert_close(rows[i], expected)
    mean = F.nt_xent(z1, z2, impl=impl)
    torch.testing.assert_close(mean, rows.mean())
    torch.testing.assert_close(F.nt_xent(z1, z2, reduction="sum", impl=impl), rows.sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_sample_weight_is_per_pair(impl):
    z1, z2 = pair_rows(5, 4)
    w = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5])
    rows = F.nt_xent(z1, z2, reduction="none", impl=impl)
    both = w.double().repeat(2)

    def loss(reduction):
        return F.nt_xent(z1, z2, sample_weight=w, reduction=reduction, impl=impl)

    torch.testing.assert_close(loss("none"), rows * both)
    torch.testing.assert_close(loss("sum"), (rows * both).sum())
    torch.testing.assert_close(loss("mean"), (rows * both).sum() / both.sum())


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_terms_add_up(impl):
    z1, z2 = pair_rows(6, 4)
    for reduction in ("mean", "sum", "none"):
        loss, terms = F.nt_xent(z1, z2, reduction=reduction, return_terms=True, impl=impl)
        assert set(terms) == {"alignment", "uniformity"}
        torch.testing.assert_close(terms["alignment"] + terms["uniformity"], loss)
        assert not any(t.requires_grad for t in terms.values())
    cosine = (unit(z1) * unit(z2)).sum(1).mean()
    _, terms = F.nt_xent(z1, z2, return_terms=True, impl=impl)
    torch.testing.assert_close(terms["alignment"], -cosine / 0.5)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_label_smoothing_is_cross_entropys(impl):
    z1, z2 = pair_rows(6, 4)
    u = unit(torch.cat([z1, z2]))
    keep = ~torch.eye(12, dtype=torch.bool)
    logits = (u @ u.T / 0.2)[keep].view(12, 11)
    i = torch.arange(12)
    target = torch.where(i < 6, i + 5, i - 6)
    expected = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1)
    loss = F.nt_xent(z1, z2, temperature=0.2, label_smoothing=0.1, impl=impl)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("tau_plus", [0.05, 0.3])
def test_debiased_is_the_papers(tau_plus, impl):
    z1, z2 = pair_rows(6, 4)
    t = 0.5
    u = unit(torch.cat([z1, z2]))
    e = torch.exp(u @ u.T / t)
    pos = torch.exp((unit(z1) * unit(z2)).sum(1) / t).repeat(2)
    neg = e.sum(1) - e.diagonal() - pos
    m = 10
    estimate = (neg - tau_plus * m * pos) / (1 - tau_plus)
    estimate = estimate.clamp(min=m * math.exp(-1 / t))
    expected = -torch.log(pos / (pos + estimate)).mean()
    loss = F.nt_xent(z1, z2, temperature=t, tau_plus=tau_plus, impl=impl)
    torch.testing.assert_close(loss, expected)


def test_equals_the_paper_form_on_the_view_graph():
    z1, z2 = pair_rows(8, 3)
    graph = PairGraph.from_views(8)
    paper = F.graph_info_nce(torch.cat([z1, z2]), graph, temperature=0.3, reduction="sum")
    torch.testing.assert_close(F.nt_xent(z1, z2, temperature=0.3), paper / 16)


def test_simplex_optimum():
    """n views collapsed onto a simplex: the exact minimum for K >= n - 1."""
    n, t = 6, 0.5
    corners = torch.eye(n, dtype=torch.float64) - 1 / n
    value = -1 / t + math.log(math.exp(1 / t) + (2 * n - 2) * math.exp(-1 / ((n - 1) * t)))
    assert abs(F.nt_xent(corners, corners, temperature=t).item() - value) <= 1e-12


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_one_pair_has_no_negative(impl):
    z1, z2 = (z.requires_grad_() for z in pair_rows(1, 4))
    loss = F.nt_xent(z1, z2, impl=impl)
    loss.backward()
    assert loss.item() == 0
    assert z1.grad.abs().max() == 0
    assert z2.grad.abs().max() == 0


def test_module_is_lightlys():
    assert_golden("nt_xent 0.5", NTXentLoss())
    assert_golden("nt_xent 0.1", NTXentLoss(temperature=0.1))


def test_module_with_a_bank():
    torch.manual_seed(0)
    z1, z2 = (z.float() for z in pair_rows(3, 4))
    module = NTXentLoss(temperature=0.2, memory_bank_size=(5, 4))
    before = module.bank.clone()
    loss = module(z1.requires_grad_(), z2)
    u, v = unit(z1), unit(z2)
    logits = torch.cat([(u * v).sum(1, keepdim=True), u @ before.T], 1) / 0.2
    expected = torch.nn.functional.cross_entropy(logits, torch.zeros(3, dtype=torch.long))
    torch.testing.assert_close(loss, expected)
    loss.backward()
    torch.testing.assert_close(module.bank[:3], v)
    torch.testing.assert_close(module.bank[3:], before[3:])
    module(z1, z2)  # five rows: the two that fit are written, then it starts again at the top
    torch.testing.assert_close(module.bank[3:], v[:2])
    module(z1, 2 * z2.roll(1, 0))
    torch.testing.assert_close(module.bank[:3], v.roll(1, 0))


def test_module_bank_is_not_updated_without_gradients():
    module = NTXentLoss(memory_bank_size=4)
    z1, z2 = pair_rows(2, 3)
    module(z1, z2)
    assert module.bank.shape == (4, 3)
    before = module.bank.clone()
    module(z1, z2)
    assert torch.equal(module.bank, before)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("size", [8, (8, 5)], ids=["made by the first step", "made at once"])
def test_module_with_a_bank_compiles_once(size):
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    plain, module = NTXentLoss(0.2, memory_bank_size=size), NTXentLoss(0.2, memory_bank_size=size)
    z1, z2 = pair_rows(3, 5)
    z1 = z1.clone().requires_grad_()
    for one in (plain, module):
        one(z1, z2)
    module.bank.copy_(plain.bank)
    compiled = torch.compile(module, backend=counter, fullgraph=True)
    for step in range(12):  # the bank is written from its end to its beginning several times
        torch.testing.assert_close(compiled(z1, z2.roll(step, 0)), plain(z1, z2.roll(step, 0)))
        torch.testing.assert_close(module.bank, plain.bank)
    assert counter.frame_count == 1


@pytest.mark.parametrize("size", [8, (8, 5)], ids=["made by the first step", "made at once"])
def test_module_with_a_bank_trains_after_a_step_under_inference_mode(size):
    with torch.inference_mode():
        module = NTXentLoss(memory_bank_size=size)
        module(*pair_rows(3, 5))
    z1, z2 = (z.requires_grad_() for z in pair_rows(3, 5))
    module(z1, z2).backward()
    torch.testing.assert_close(module.bank[:3], unit(z2).detach().to(module.bank))


def test_module_rejects_bad_banks():
    with pytest.raises(ValueError, match=r"memory_bank_size must be at least 0, got -1"):
        NTXentLoss(memory_bank_size=-1)
    module = NTXentLoss(memory_bank_size=(4, 3))
    with pytest.raises(ValueError, match=r"bank must have the 5 features of out0 \(2, 5\)"):
        module(*pair_rows(2, 5))
