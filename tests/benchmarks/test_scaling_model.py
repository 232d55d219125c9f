"""The model of losses over ranks on GPU nodes: its table stands in the results, its bytes are those
that the losses send.
"""

from __future__ import annotations

import pytest

from benchmarks import scaling_model as model

from ..support.source_files import ROOT


def test_the_table_of_the_results_is_what_the_command_prints() -> None:
    page = (ROOT / "benchmarks" / "results" / "distributed.md").read_text("utf-8")
    assert model.table() in page


def test_seconds_are_bytes_and_operations_over_speeds() -> None:
    n, d = 32768, 1024
    products, communication = model.seconds(model.COSTS["CLIP"], n, d, 8)
    assert products == pytest.approx(8 * n * n * d / 8 / 400e12)
    assert communication == pytest.approx((6 * n * d + 12 * n) * 7 / 8 / 360e9 + 4 * 40e-6)
    assert model.seconds(model.COSTS["CLIP"], n, d, 1)[1] == 0


@pytest.mark.parametrize("name", ["NT-Xent", "CLIP", "SigLIP", "VICReg, rows"])
def test_communication_hides_from_as_many_samples_whatever_the_ranks(name: str) -> None:
    cost, d = model.COSTS[name], 1024
    least = model.hidden_from(cost, d, model.OVER_NODES)
    for ranks in (16, 64, 1024):
        products, _ = model.seconds(cost, least * ranks, d, ranks)
        sent = cost.sent(least * ranks, d) / model.OVER_NODES
        assert products == pytest.approx(sent, rel=1e-3)
