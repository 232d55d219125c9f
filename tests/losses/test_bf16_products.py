"""Losses that multiply bfloat16 rows as such: errors below those of plain torch under autocast.

Autocast takes float32 leaves with the same values, normalises them in float32, rounds the rows for
the product, and rounds each logit; ours round the rows and W, and no logit. Where the CPU has no
such products the rows are multiplied in float32, which passes too.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast.reference.clip import clip as plain_clip
from sslspec_fast.reference.dcl import dcl as plain_dcl
from sslspec_fast.reference.graph_info_nce import graph_info_nce as plain_graph_info_nce
from sslspec_fast.reference.graph_siglip import graph_siglip as plain_graph_siglip
from sslspec_fast.reference.info_nce import info_nce as plain_info_nce
from sslspec_fast.reference.nt_xent import nt_xent as plain_nt_xent
from sslspec_fast.reference.siglip import siglip as plain_siglip
from sslspec_fast.reference.sup_con import sup_con as plain_sup_con

from ..support.cases import pair_rows, unit
from ..support.tolerance import relative_error, root_mean_square

N, D = 384, 96
LABELS = torch.arange(N) % 24
GRAPH = sf.PairGraph.from_labels(LABELS)
DENSE = ((LABELS[:, None] == LABELS) & ~torch.eye(N, dtype=torch.bool)).double()

Loss = Callable[..., Tensor]
# (ours of bfloat16 rows, the plain form) at a temperature; the rows of the last are of unit length
FORMS: dict[str, Callable[[float], tuple[Loss, Loss]]] = {
    "nt_xent": lambda t: (
        lambda a, b: F.nt_xent(a, b, temperature=t),
        lambda a, b: plain_nt_xent(a, b, temperature=t),
    ),
    "nt_xent none": lambda t: (
        lambda a, b: F.nt_xent(a, b, temperature=t, reduction="none").square().mean(),
        lambda a, b: plain_nt_xent(a, b, temperature=t, reduction="none").square().mean(),
    ),
    "dcl": lambda t: (
        lambda a, b: F.dcl(a, b, temperature=t),
        lambda a, b: plain_dcl(a, b, temperature=t),
    ),
    "info_nce": lambda t: (
        lambda a, b: F.info_nce(a, b, temperature=t),
        lambda a, b: plain_info_nce(a, b, temperature=t),
    ),
    "graph_info_nce": lambda t: (
        lambda a, b: F.graph_info_nce(a, GRAPH, temperature=t) + 0 * b.sum(),
        lambda a, b: plain_graph_info_nce(a, DENSE.to(a), temperature=t) + 0 * b.sum(),
    ),
    "sup_con of unit rows": lambda t: (
        lambda a, b: F.sup_con(a, LABELS, temperature=t) + 0 * b.sum(),
        lambda a, b: plain_sup_con(a, LABELS, temperature=t) + 0 * b.sum(),
    ),
    "SupConLoss of unit rows": lambda t: (
        lambda a, b: sf.SupConLoss(t, base_temperature=None)(torch.stack([a, b], 1), LABELS),
        lambda a, b: plain_sup_con(torch.cat([a, b]), LABELS.repeat(2), temperature=t),
    ),
    "graph_siglip of unit rows": lambda t: (
        lambda a, b: F.graph_siglip(a, b, GRAPH, 1 / t, -2.0),
        lambda a, b: plain_graph_siglip(a, b, DENSE.to(a), 1 / t, -2.0),
    ),
    "siglip of unit rows": lambda t: (
        lambda a, b: F.siglip(a, b, 1 / t, -2.0),
        lambda a, b: plain_siglip(a, b, 1 / t, -2.0),
    ),
    "clip of unit rows": lambda t: (
        lambda a, b: F.clip(a, b, 1 / t),
        lambda a, b: plain_clip(a, b, 1 / t),
    ),
}


@pytest.mark.parametrize("temperature", [0.5, 0.1, 0.05, 0.01])
@pytest.mark.parametrize("form", FORMS)
def test_errors_below_autocast(form: str, temperature: float) -> None:
    mine, plain = FORMS[form](temperature)
    ours: list[tuple[float, float]] = []
    theirs: list[tuple[float, float]] = []
    for seed in range(4):  # one value may be right by luck
        clean, noisy = pair_rows(N, D, seed)
        rows = [clean, 3 * noisy - 2 * clean]
        rows = [(unit(x) if form.endswith("unit rows") else x).bfloat16() for x in rows]
        exact, half, wide = (
            [x.to(dtype).requires_grad_() for x in rows]
            for dtype in (torch.float64, torch.bfloat16, torch.float32)
        )
        expected = plain(*exact)
        wanted = torch.cat(torch.autograd.grad(expected, exact))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = plain(*wide)
        for errors, value, leaves in ((ours, mine(*half), half), (theirs, rounded, wide)):
            grads = torch.cat(torch.autograd.grad(value, leaves)).bfloat16()
            of_value = relative_error(value.detach(), expected.detach())
            errors.append((of_value, relative_error(grads, wanted)))
    value, grad = map(root_mean_square, zip(*ours, strict=True))
    value_limit, grad_limit = map(root_mean_square, zip(*theirs, strict=True))
    assert value <= max(value_limit, 2e-5)  # sums of many logits, whose errors average out
    assert grad <= grad_limit
