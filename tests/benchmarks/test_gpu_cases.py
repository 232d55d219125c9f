"""The cases of the GPU check: our form in bfloat16 stands beside plain torch under autocast."""

from __future__ import annotations

from types import SimpleNamespace
from unittest import mock

import pytest
import torch

from benchmarks import gpu_cases, peers
from sslspec_fast.bench import cases, graph_cases
from sslspec_fast.bench.case import Case

SMALL = [
    cases.nt_xent(16, 8),
    cases.vicreg(16, 8),
    cases.moco(8, 16, 32),
    cases.prototypes(8, 16, 32),
    cases.dino(4, 16, 32),
    cases.swav(4, 16, 8),
    cases.x_clr(16, 8),
    cases.gram_anchor(2, 8, 4),
    graph_cases.graph_siglip(16, 8),
]


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.family)
def test_both_forms_compute_one_loss(case: Case) -> None:
    """Within what bfloat16 inputs may differ. Autocast of a GPU does nothing here."""
    case = gpu_cases._gpu(case)
    assert {"fused", "fused fp32", "amp"} <= set(case.variants)
    assert "amp" in case.compiled
    leaves = case.inputs("cpu", torch.float32)
    exact = case.variants["amp"](*leaves)
    torch.testing.assert_close(case.variants["fused fp32"](*leaves), exact, rtol=1e-4, atol=1e-5)
    half = case.variants["fused"](*leaves)
    torch.testing.assert_close(half.float(), exact, rtol=5e-2, atol=5e-2)
    grads = torch.autograd.grad(half, [x for x in leaves if x.requires_grad])
    assert all(bool(grad.isfinite().all()) for grad in grads)


@pytest.mark.filterwarnings("ignore:.*CUDA is not available")
def test_the_way_of_fewer_rows_stands_beside_that_of_many() -> None:
    thresholds, found = SimpleNamespace(fewest=4096), []

    def loss(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        found.append(thresholds.fewest)
        return (a * b).sum()

    case = gpu_cases._beside(cases.nt_xent(16, 8), loss, "other", thresholds, "fewest")
    case.variants["fused, other"](torch.ones(2, 2), torch.ones(2, 2))
    assert found == [1 << 62]
    assert thresholds.fewest == 4096


def test_every_family_of_the_catalogue_has_a_case() -> None:
    families = {case.family for case in gpu_cases.all_cases()}
    assert families >= {case.family for case in SMALL} | {
        *("clip", "siglip", "info_nce", "barlow", "spectral", "graph_covariance", "sigreg", "gist")
    }


def test_peers_join_by_name_and_a_missing_one_is_noted() -> None:
    class Peer(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return (a * b).sum()

    def absent(case: Case) -> dict[str, gpu_cases.Variant]:
        raise ImportError("no such library")

    with (
        mock.patch.dict(peers.PEERS, lightly=lambda case: {"lightly": Peer()}),
        mock.patch.dict(peers.PEERS, open_clip_torch=absent),
        mock.patch.object(torch.nn.Module, "cuda", lambda module: module),
    ):
        case, notes = gpu_cases.with_peers(SMALL[0])
    assert "lightly" in case.variants
    assert "open_clip_torch: ImportError: no such library" in notes
