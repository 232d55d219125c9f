"""Modules take what their functions take: at construction, or with a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F

from ..support.versions import traces_graphs

N, D = 9, 5


def rows(normalized: bool = False) -> tuple[Tensor, Tensor]:
    a, b = torch.randn(2, N, D, dtype=torch.float64)
    return tuple(torch.nn.functional.normalize(x) if normalized else x for x in (a, b))


WEIGHT = torch.linspace(0.5, 2.0, N, dtype=torch.float64)
ROWS = {"reduction": "none"}
TERMS = {"return_terms": True}

# module, what it is called with, the function of the same, and options
CASES: dict[str, tuple[Any, Any, Any, list[dict[str, Any]]]] = {
    "NTXentLoss": (
        lambda **o: sf.NTXentLoss(0.3, **o),
        rows,
        lambda a, b, **o: F.nt_xent(a, b, temperature=0.3, **o),
        [ROWS, TERMS, {"label_smoothing": 0.1}, {"tau_plus": 0.05, "impl": "torch"}],
    ),
    "InfoNCELoss": (
        lambda **o: sf.InfoNCELoss(0.3, **o),
        rows,
        lambda a, b, **o: F.info_nce(a, b, temperature=0.3, **o),
        [ROWS, TERMS, {"margin": 0.1}, {"threshold": 0.5}],
    ),
    "CLIPLoss": (
        lambda **o: sf.CLIPLoss(**o),
        lambda: (*rows(True), 4.0),
        F.clip,
        [ROWS, TERMS, {"label_smoothing": 0.1}],
    ),
    "SigLIPLoss": (
        lambda **o: sf.SigLIPLoss(**o),
        lambda: (*rows(True), 4.0, -3.0),
        F.siglip,
        [ROWS, TERMS],
    ),
    "DCLLoss": (
        lambda **o: sf.DCLLoss(0.3, **o),
        rows,
        lambda a, b, **o: F.dcl(a, b, temperature=0.3, **o),
        [ROWS, TERMS],
    ),
    "SpectralContrastiveLoss": (
        lambda **o: sf.SpectralContrastiveLoss(2.0, **o),
        rows,
        lambda a, b, **o: F.spectral_contrastive(a, b, mu=2.0, **o),
        [ROWS, TERMS],
    ),
    "VICRegLoss": (lambda **o: sf.VICRegLoss(**o), rows, F.vicreg, [TERMS, {"impl": "torch"}]),
    "BarlowTwinsLoss": (
        lambda **o: sf.BarlowTwinsLoss(**o),
        rows,
        F.barlow_twins,
        [TERMS, {"eps": 1e-3}],
    ),
    "KoLeoLoss": (
        lambda **o: sf.KoLeoLoss(**o),
        lambda: rows()[:1],
        F.koleo,
        [ROWS, {"k": 2}],
    ),
    "DINOLoss": (
        lambda **o: sf.DINOLoss(D, **o).double(),
        lambda: (rows(), rows()),
        lambda t, s, **o: F.dino(s, t, **o),
        [TERMS, {"impl": "torch"}],
    ),
    "IBOTPatchLoss": (
        lambda **o: sf.IBOTPatchLoss(D, **o).double(),
        lambda: (*rows(), torch.ones(3, 3, dtype=torch.bool)),
        lambda t, s, mask, **o: F.ibot(s, t, mask, **o),
        [TERMS, {"impl": "torch"}],
    ),
    "SwaVLoss": (
        lambda **o: sf.SwaVLoss(**o),
        lambda: (rows(), rows()),
        F.swav,
        [TERMS, {"impl": "torch"}],
    ),
    "CAPILoss": (
        lambda **o: sf.CAPILoss(**o),
        lambda: tuple(x[None] for x in rows()),
        lambda t, s, **o: F.capi(s, t, **o),
        [TERMS, {"impl": "torch"}],
    ),
    "MSNLoss": (
        lambda **o: sf.MSNLoss(**o),
        lambda: (*rows(), torch.eye(D, dtype=torch.float64)),
        F.msn,
        [TERMS, {"normalize": False}],
    ),
    "PMSNLoss": (
        lambda **o: sf.PMSNLoss(**o),
        lambda: (*rows(), torch.eye(D, dtype=torch.float64)),
        lambda a, t, w, **o: F.msn(a, t, w, prior=0.25, **o),
        [TERMS, {"impl": "torch"}],
    ),
    "SIGReg": (
        lambda **o: sf.SIGReg(num_vectors=None, **o),
        lambda: rows()[:1],
        lambda a, **o: F.sigreg(a, slices=None, **o),
        [{"reduction": "sum"}, {"impl": "torch"}],
    ),
    "FalconLoss": (
        lambda **o: sf.FalconLoss(D, **o).double(),
        rows,
        lambda a, b, **o: F.falcon(a, b, n_codes=8 * D, **o),
        [TERMS, {"impl": "torch"}],
    ),
}
WEIGHTED = ["NTXentLoss", "InfoNCELoss", "CLIPLoss", "SigLIPLoss", "DCLLoss"]
WEIGHTED.append("SpectralContrastiveLoss")


@pytest.mark.parametrize(
    ("name", "options"), [(name, o) for name, case in CASES.items() for o in case[3]]
)
def test_options(name: str, options: dict[str, Any]) -> None:
    module, make, function, _ = CASES[name]
    inputs = make()
    loss = module(**options)
    got, want = loss(*inputs), function(*inputs, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    assert isinstance(got, tuple) == ("return_terms" in options)
    for key, value in options.items():
        assert f"{key}={value!r}" in repr(loss)


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("name", WEIGHTED)
def test_sample_weight_comes_with_the_batch(name: str, reduction: str) -> None:
    module, make, function, _ = CASES[name]
    inputs, how = make(), {"reduction": reduction}
    got = module(**how)(*inputs, sample_weight=WEIGHT)
    torch.testing.assert_close(got, function(*inputs, sample_weight=WEIGHT, **how))
    assert not torch.allclose(got, module(**how)(*inputs))


@pytest.mark.parametrize("options", [ROWS, TERMS, {"label_smoothing": 0.1}])
def test_sup_con(options: dict[str, Any]) -> None:
    """The weight of a sample is that of all its views."""
    z = torch.nn.functional.normalize(torch.randn(N, 2, D, dtype=torch.float64), dim=2)
    y = torch.arange(N) % 3
    loss = sf.SupConLoss(temperature=0.3, base_temperature=None, **options)
    got = loss(z, y, sample_weight=WEIGHT)
    stack, twice = z.transpose(0, 1).reshape(2 * N, D), WEIGHT.repeat(2)
    want = F.sup_con(stack, y.repeat(2), temperature=0.3, sample_weight=twice, **options)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-13)
    with pytest.raises(ValueError, match=r"mask must be None with .*sample_weight"):
        loss(z, mask=torch.eye(N), sample_weight=WEIGHT)
    with pytest.raises(ValueError, match=r"contrast_mode must be 'all' with .*, got 'one'"):
        sf.SupConLoss(contrast_mode="one", **options)
    with pytest.raises(ValueError, match="contrast_mode must be 'all' with sample_weight"):
        sf.SupConLoss(contrast_mode="one")(z, y, sample_weight=WEIGHT)


def test_false_negatives_by_id() -> None:
    a, b = rows()
    ids = torch.arange(N) % 4
    want = F.info_nce(a, b, temperature=0.3, ids=ids)
    torch.testing.assert_close(sf.InfoNCELoss(0.3)(a, b, ids=ids), want)
    torch.testing.assert_close(sf.KoLeoLoss()(a, ids=ids), F.koleo(a, ids=ids))


@traces_graphs
def test_one_compiled_graph() -> None:
    a, b = rows()
    loss = sf.VICRegLoss(return_terms=True)
    got = torch.compile(loss, fullgraph=True, backend="aot_eager")(a, b)
    torch.testing.assert_close(got, loss(a, b))


def test_errors() -> None:
    with pytest.raises(TypeError, match=r"VICRegLoss: has no keyword 'reduction', only return_t"):
        sf.VICRegLoss(reduction="none")
    with pytest.raises(TypeError, match="VICRegLoss: has no keyword 'invariance'"):
        sf.VICRegLoss(invariance=1.0)
    with pytest.raises(ValueError, match=r"NTXentLoss: reduction must be one of .*, got 'men'"):
        sf.NTXentLoss(reduction="men")
    with pytest.raises(ValueError, match="memory_bank_size must be 0 with reduction, got 16"):
        sf.NTXentLoss(memory_bank_size=16, reduction="sum")
    with pytest.raises(ValueError, match="sample_weight must be None with a memory bank"):
        sf.NTXentLoss(memory_bank_size=16)(*rows(), sample_weight=WEIGHT)
    with pytest.raises(ValueError, match="output_dict must be False with return_terms"):
        sf.CLIPLoss(return_terms=True)(*rows(True), 4.0, output_dict=True)
    assert "sigma=0.7" in repr(sf.DCLWLoss(sigma=0.7))


@pytest.mark.parametrize(
    ("kind", "keyword"),
    [
        *((name, "gather_distributed") for name in ("NTXentLoss", "DCLWLoss", "VICRegLoss")),
        *((name, "gather_distributed") for name in ("BarlowTwinsLoss", "MSNLoss", "PMSNLoss")),
        *((name, "gather_distributed") for name in ("SIGReg", "LeJEPALoss")),
        ("SwaVLoss", "sinkhorn_gather_distributed"),
    ],
)
def test_gathering_needs_a_torch_that_can(
    kind: str, keyword: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lightly's classes raise it too; one process alone would have another loss."""
    assert f"{keyword}=True" in repr(getattr(sf, kind)(**{keyword: True}))
    monkeypatch.setattr(torch.distributed, "is_available", lambda: False)
    getattr(sf, kind)()
    with pytest.raises(ValueError, match=f"{kind}: gather_distributed must be False .* got True"):
        getattr(sf, kind)(**{keyword: True})
