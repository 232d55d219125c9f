"""Centering and Sinkhorn's iteration: golden codes, marginals, large logits, bad arguments."""

import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast.losses import _sinkhorn as sinkhorn

from ..support.inputs import pair_rows, unit
from ..support.prototypes import golden

IMPLEMENTATIONS = ("fused", "torch")
# |Q| and Q[0, 0] in fp64: dinov2's sinkhorn_knopp_teacher at 0.07 and lightly's sinkhorn at 0.05
GOLDEN = {
    (8, 5): ((3.35780523247, 0.569826323609), (2.57952519697, 2.17795509437e-06)),
    (6, 16): ((2.19716747316, 0.389486570133), (1.46763668003, 0.000357881836089)),
}


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("shape", GOLDEN)
def test_golden(shape, impl):
    g = golden(*shape)
    teachers = torch.cat([g.t1, g.t2])
    cases = ((teachers, 0.07), (g.z2, 0.05))
    for (logits, temperature), (norm, corner) in zip(cases, GOLDEN[shape], strict=True):
        bias = F.sinkhorn_bias(logits, temperature=temperature, impl=impl)
        codes = (logits / temperature + bias).softmax(1)
        assert abs(codes.norm().item() - norm) <= 1e-10
        assert abs(codes[0, 0].item() - corner) <= 1e-10


def knopp(logits, iterations, weight):
    """Sinkhorn and Knopp on the matrix itself."""
    q = logits.exp()
    for _ in range(iterations):
        q = q / (q * weight[:, None]).sum(0)
        q = q / q.sum(1, keepdim=True)
    return q


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("start", ["zero", "rows"])
def test_definition(start, kept, impl, monkeypatch):
    if not kept:
        monkeypatch.setattr(sinkhorn, "_KEPT", 0)
    rows, prototypes = pair_rows(13, 4)[0], pair_rows(60, 4, 1)[0]
    weight = torch.linspace(0.1, 2, 13, dtype=torch.float64)
    for normalize in (True, False):
        x, w = (unit(rows), unit(prototypes)) if normalize else (rows, prototypes)
        logits = x @ w.T / 0.3
        for iterations, factors in ((0, None), (1, None), (3, weight), (5, None)):
            own = torch.ones_like(weight) if factors is None else factors
            bias = F.sinkhorn_bias(
                rows,
                prototypes,
                temperature=0.3,
                iterations=iterations,
                start=start,
                normalize=normalize,
                sample_weight=factors,
                impl=impl,
            )
            first = logits.softmax(1) if start == "rows" else logits.exp()
            wanted = knopp(first.log(), iterations, own)
            codes = (logits + bias).softmax(1)
            torch.testing.assert_close(codes, wanted / wanted.sum(1, keepdim=True))


def test_many_rounds_balance_the_columns():
    rows, prototypes = pair_rows(64, 5)[0], pair_rows(16, 5, 1)[0]
    bias = F.sinkhorn_bias(rows, prototypes, temperature=0.1, iterations=300)
    codes = (unit(rows) @ unit(prototypes).T / 0.1 + bias).softmax(1)
    torch.testing.assert_close(codes.sum(0), torch.full((16,), 4.0, dtype=torch.float64))


@pytest.mark.parametrize("kept", [True, False])
def test_large_logits(kept, monkeypatch):
    """Logits of +-1086, whose exponentials overflow even in float64: finite, and those of fp64."""
    if not kept:
        monkeypatch.setattr(sinkhorn, "_KEPT", 0)
    rows, prototypes = pair_rows(40, 8)[0], pair_rows(300, 8, 1)[0]
    logits = rows @ prototypes.T
    temperature = float(logits.abs().max()) / 1086
    how = {"temperature": temperature, "normalize": False}
    exact = F.sinkhorn_bias(rows, prototypes, impl="torch", **how)
    torch.testing.assert_close(F.sinkhorn_bias(rows, prototypes, **how), exact)
    single = F.sinkhorn_bias(rows.float(), prototypes.float(), **how)
    assert single.isfinite().all()
    # logits of 1086 in float32 are known to 1e-4
    torch.testing.assert_close(single.double(), exact, rtol=0, atol=5e-4)
    codes = [(logits / temperature + bias.double()).softmax(1) for bias in (single, exact)]
    torch.testing.assert_close(*codes, rtol=0, atol=1e-4)


def test_means_are_those_of_the_logits():
    rows, prototypes = pair_rows(9, 4)[0], pair_rows(20, 4, 1)[0]
    logits = unit(rows) @ unit(prototypes).T
    torch.testing.assert_close(F.column_mean(rows, prototypes), logits.mean(0))
    plain = F.column_mean(rows, prototypes, normalize=False)
    torch.testing.assert_close(plain, (rows @ prototypes.T).mean(0))
    torch.testing.assert_close(F.column_mean(rows), rows.mean(0))
    weight = torch.linspace(1, 2, 9, dtype=torch.float64)
    weighted = (weight[:, None] * logits).sum(0) / weight.sum()
    torch.testing.assert_close(F.column_mean(rows, prototypes, sample_weight=weight), weighted)


def test_centering_is_a_bias():
    rows, center = pair_rows(5, 7)[0], torch.linspace(-1, 1, 7, dtype=torch.float64)
    codes = ((rows - center) / 0.04).softmax(1)
    torch.testing.assert_close((rows / 0.04 + F.center_bias(center, 0.04)).softmax(1), codes)


def test_nothing_has_a_gradient_and_autocast_changes_nothing():
    rows, prototypes = (x.float().requires_grad_() for x in pair_rows(6, 4))
    how = {"temperature": 0.1}
    bias = F.sinkhorn_bias(rows, prototypes, **how)
    mean = F.column_mean(rows, prototypes)
    assert not bias.requires_grad
    assert not mean.requires_grad
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(F.sinkhorn_bias(rows, prototypes, **how), bias)
        assert torch.equal(F.column_mean(rows, prototypes), mean)
    half = F.sinkhorn_bias(rows.bfloat16(), prototypes.bfloat16(), **how)
    assert half.dtype == torch.float32


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("kept", [True, False])
def test_fullgraph(kept, monkeypatch):
    if not kept:
        monkeypatch.setattr(sinkhorn, "_KEPT", 0)
    torch._dynamo.reset()
    rows, prototypes = pair_rows(6, 4)[0], pair_rows(9, 4, 1)[0]

    def both(rows, prototypes):
        mean = F.column_mean(rows, prototypes)
        return F.sinkhorn_bias(rows, prototypes, temperature=0.1) + F.center_bias(mean, 0.1)

    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rows, prototypes), both(rows, prototypes))
    torch._dynamo.reset()


ROWS = torch.eye(4, 3)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"temperature": 0.0}, ValueError, "temperature must be finite and > 0, got 0.0"),
        ({"iterations": -1}, ValueError, "iterations must be at least 0, got -1"),
        ({"start": "columns"}, ValueError, "start must be one of 'zero', 'rows', got 'columns'"),
        ({"prototypes": torch.eye(4)}, ValueError, "prototypes must have the 3 features of"),
        ({"sample_weight": torch.zeros(4)}, ValueError, "must have a positive sum"),
        ({"group": 3}, TypeError, "group must be a torch.distributed.ProcessGroup"),
    ],
)
def test_bad_arguments(options, error, message):
    with pytest.raises(error, match=f"sinkhorn_bias: .*{message}"):
        F.sinkhorn_bias(ROWS, **{"temperature": 0.1, **options})


def test_bad_centers():
    with pytest.raises(ValueError, match=r"center_bias: center must be \(k,\), got \(4, 3\)"):
        F.center_bias(ROWS, 0.1)
    with pytest.raises(ValueError, match="center_bias: temperature must be finite and > 0, got 0"):
        F.center_bias(ROWS[0], 0)
    with pytest.raises(ValueError, match="column_mean: prototypes must have the 3 features"):
        F.column_mean(ROWS, torch.eye(4))
