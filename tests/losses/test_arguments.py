"""Bad arguments: the type of the error, and a message with argument, rule and both values."""

import numpy as np
import pytest
import torch

import sslspec_fast.functional as F
from sslspec_fast import losses

from ..cases import pair_rows, unit, weighted_graph

TWO_VIEWS = {
    "nt_xent": ("z1", "z2", F.nt_xent),
    "dcl": ("z1", "z2", F.dcl),
    "vicreg": ("z1", "z2", F.vicreg),
    "barlow_twins": ("z1", "z2", F.barlow_twins),
    "spectral_contrastive": ("z1", "z2", F.spectral_contrastive),
    "info_nce": ("query", "key", F.info_nce),
    "clip": ("image", "text", lambda a, b, **k: F.clip(a, b, 10.0, **k)),
    "siglip": ("image", "text", lambda a, b, **k: F.siglip(a, b, 10.0, -10.0, **k)),
    "falcon": ("h1", "h2", F.falcon),
}
GRAPHS = {
    "graph_info_nce": F.graph_info_nce,
    "graph_vicreg": F.graph_vicreg,
    "graph_barlow_twins": F.graph_barlow_twins,
    "graph_spectral_contrastive": F.graph_spectral_contrastive,
    "ls_simclr": F.ls_simclr,
    "dirichlet_energy": F.dirichlet_energy,
    "graph_covariance": F.graph_covariance,
}


@pytest.mark.parametrize("op", TWO_VIEWS)
def test_pairs(op):
    first, second, loss = TWO_VIEWS[op]
    a, b = torch.zeros(6, 4), torch.zeros(6, 4)
    with pytest.raises(
        ValueError, match=rf"{op}: {second} must match {first} \(6, 4\), got \(6, 3"
    ):
        loss(a, b[:, :3])
    with pytest.raises(
        ValueError, match=rf"{op}: {second} must match {first} \(6, 4\), got \(5, 4"
    ):
        loss(a, b[:5])
    with pytest.raises(ValueError, match=rf"{op}: {first} must have 2 dimensions .* \(6, 4, 1\)"):
        loss(a[..., None], b[..., None])
    with pytest.raises(ValueError, match=rf"{op}: {first} needs at least \d rows? .* got \(0, 4\)"):
        loss(a[:0], b[:0])
    with pytest.raises(ValueError, match=rf"{op}: {first} needs at least .* got \(6, 0\)"):
        loss(a[:, :0], b[:, :0])
    with pytest.raises(
        TypeError, match=rf"{op}: {second} must have the dtype of {first}, torch.float32, got"
    ):
        loss(a, b.double())
    with pytest.raises(TypeError, match=rf"{op}: {first} must be a floating-point tensor, got"):
        loss(a.long(), b.long())
    with pytest.raises(TypeError, match=rf"{op}: {first} must be a torch.Tensor, got ndarray"):
        loss(np.zeros((6, 4)), b)
    with pytest.raises(TypeError, match=rf"{op}: {second} must be a torch.Tensor, got list"):
        loss(a, [[0.0] * 4] * 6)
    with pytest.raises(
        ValueError, match=rf"{op}: {second} must be on the device of {first}, cpu, got meta"
    ):
        loss(a, b.to("meta"))


@pytest.mark.parametrize("op", GRAPHS)
def test_graphs(op):
    loss, z = GRAPHS[op], torch.zeros(6, 4)
    graph = weighted_graph(6)
    with pytest.raises(ValueError, match=rf"{op}: graph.n must match the 7 rows of z, got 6"):
        loss(torch.zeros(7, 4), graph)
    with pytest.raises(TypeError, match=rf"{op}: graph must be a PairGraph, got coo_array"):
        loss(z, graph.to_scipy().tocoo())
    with pytest.raises(ValueError, match=rf"{op}: graph must have at least one edge, got nnz = 0"):
        loss(z, 0.0 * graph)
    with pytest.raises(ValueError, match=rf"{op}: z must have 2 dimensions .* got shape \(6,\)"):
        loss(z[:, 0], graph)
    with pytest.raises(TypeError, match=rf"{op}: z must be a torch.Tensor, got ndarray"):
        loss(z.numpy(), graph)
    with pytest.raises(ValueError, match=rf"{op}: graph must be on the device of z, meta, got cpu"):
        loss(z.to("meta"), graph)


@pytest.mark.parametrize("op", [*TWO_VIEWS, *GRAPHS])
def test_impl_and_group(op):
    if op in TWO_VIEWS:
        loss, arguments = TWO_VIEWS[op][2], pair_rows(6, 4)
    else:
        loss, arguments = GRAPHS[op], (pair_rows(6, 4)[0], weighted_graph(6))
    with pytest.raises(
        ValueError, match=rf"{op}: impl must be one of 'fused', 'torch', got 'cuda'"
    ):
        loss(*arguments, impl="cuda")
    assert loss(*arguments, group=None) is not None


@pytest.mark.parametrize("op", ["nt_xent", "info_nce", "dcl", "spectral_contrastive", "siglip"])
def test_reductions_and_weights(op):
    loss = TWO_VIEWS[op][2]
    a, b = (unit(x) for x in pair_rows(6, 4))
    with pytest.raises(ValueError, match=rf"{op}: reduction must be one of .* got 'median'"):
        loss(a, b, reduction="median")
    with pytest.raises(ValueError, match=rf"{op}: sample_weight .* per sample \(6,\), got \(5,\)"):
        loss(a, b, sample_weight=torch.ones(5))
    with pytest.raises(TypeError, match=rf"{op}: sample_weight must be a torch.Tensor, got list"):
        loss(a, b, sample_weight=[1.0] * 6)
    for bad in (-1.0, float("nan"), float("inf")):
        weight = torch.ones(6)
        weight[3] = bad
        with pytest.raises(
            ValueError, match=rf"{op}: sample_weight must be finite and >= 0, got {bad}"
        ):
            loss(a, b, sample_weight=weight)


@pytest.mark.parametrize("op", ["nt_xent", "info_nce", "dcl", "sup_con", "graph_info_nce"])
def test_temperatures(op):
    a, b = pair_rows(6, 4)
    graph, labels = weighted_graph(6), torch.arange(6) % 2

    def loss(temperature):
        second = {"sup_con": labels, "graph_info_nce": graph}.get(op, b)
        return getattr(F, op)(a, second, temperature=temperature)

    for bad in (-0.1, 0.0, float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match=rf"{op}: temperature must be finite and > 0, got {bad}"
        ):
            loss(bad)
        with pytest.raises(ValueError, match=rf"{op}: temperature must be finite and > 0, got"):
            loss(torch.tensor(bad))
        with pytest.raises(ValueError, match=rf"{op}: temperature must be finite and > 0, got"):
            loss(torch.tensor([0.1] * 5 + [bad]))
    with pytest.raises(ValueError, match=rf"{op}: temperature .* per anchor row \(6,\).* \(4,\)"):
        loss(torch.ones(4))
    with pytest.raises(TypeError, match=rf"{op}: temperature must be a number, got bool"):
        loss(True)
    with pytest.raises(TypeError, match=rf"{op}: temperature must be a floating-point tensor"):
        loss(torch.tensor(1))


@pytest.mark.parametrize("op", ["nt_xent", "info_nce", "clip", "graph_info_nce", "sup_con"])
@pytest.mark.parametrize("bad", [-0.1, 1.0, float("nan")])
def test_label_smoothing(op, bad):
    a, b = (unit(x) for x in pair_rows(6, 4))
    second = {"sup_con": torch.arange(6) % 2, "graph_info_nce": weighted_graph(6)}.get(op, b)
    extra = (10.0,) if op == "clip" else ()
    with pytest.raises(ValueError, match=rf"{op}: label_smoothing must be .* got {bad}"):
        getattr(F, op)(a, second, *extra, label_smoothing=bad)
    if op != "sup_con":
        with pytest.raises(ValueError, match=rf"{op}: tau_plus must be .* got {bad}"):
            getattr(F, op)(a, second, *extra, tau_plus=bad)


class _Group:
    """What torch.distributed asks a group for."""

    def __init__(self, size):
        self.size = size


def test_groups_of_several_ranks_are_not_there_yet(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: group.size)
    a, b = pair_rows(6, 4)
    expected = F.nt_xent(a, b)
    torch.testing.assert_close(F.nt_xent(a, b, group=_Group(1)), expected)
    for loss in (F.nt_xent, F.vicreg):
        with pytest.raises(
            NotImplementedError, match="group must have world size 1 for now, got 4"
        ):
            loss(a, b, group=_Group(4))
    with pytest.raises(NotImplementedError, match="graph_vicreg: group must have world size 1"):
        F.graph_vicreg(a, weighted_graph(6), group=_Group(2))


@pytest.mark.parametrize("module", ["NTXentLoss", "VICRegLoss", "BarlowTwinsLoss", "DCLLoss"])
def test_gather_distributed(monkeypatch, module):
    make = getattr(losses, module)
    a, b = pair_rows(6, 4)
    torch.testing.assert_close(make(gather_distributed=True)(a, b), make()(a, b))
    alone = make(gather_distributed=True)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    message = f"{module}: gather_distributed must have world size 1 for now, got 2"
    with pytest.raises(NotImplementedError, match=message):
        make(gather_distributed=True)
    with pytest.raises(NotImplementedError, match=message):
        alone(a, b)
