"""Bad arguments: the type of the error, and a message with argument, rule and both values."""

import inspect

import numpy as np
import pytest
import torch

import sslspec_fast as sf
import sslspec_fast.functional as F
from sslspec_fast import losses
from sslspec_fast.losses._catalogue import CATALOGUE, GRAPH

from ..support.cases import CASES, TWO_VIEWS
from ..support.inputs import pair_rows, unit, weighted_graph

QUEUE = {None: torch.eye(3, 4), torch.float64: torch.eye(3, 4, dtype=torch.float64)}
PAIRS = {
    **TWO_VIEWS,
    "moco": lambda a, b, **k: F.moco(a, b, QUEUE.get(a.dtype, QUEUE[None]), **k),
}
WEIGHTED = [name for name in PAIRS if "sample_weight" in CATALOGUE[name].keywords]
GRAPHS = {name: row.function for name, row in CATALOGUE.items() if row.inputs == GRAPH}


@pytest.mark.parametrize("op", PAIRS)
def test_pairs(op):
    first, second, *_ = inspect.signature(getattr(F, op)).parameters
    loss = PAIRS[op]
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
    for rows in ((a.to_sparse(), b), (a, b.to_sparse())):
        with pytest.raises(TypeError, match=rf"{op}: \w+ must be a dense tensor, got layout"):
            loss(*rows)


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


@pytest.mark.parametrize("op", [*PAIRS, *GRAPHS])
def test_impl_and_group(op):
    if op in PAIRS:
        loss, arguments = PAIRS[op], pair_rows(6, 4)
    else:
        loss, arguments = GRAPHS[op], (pair_rows(6, 4)[0], weighted_graph(6))
    with pytest.raises(
        ValueError, match=rf"{op}: impl must be one of 'fused', 'torch', got 'cuda'"
    ):
        loss(*arguments, impl="cuda")
    assert loss(*arguments, group=None) is not None


@pytest.mark.parametrize("op", WEIGHTED)
def test_reductions_and_weights(op):
    loss = PAIRS[op]
    a, b = (unit(x) for x in pair_rows(6, 4))
    with pytest.raises(ValueError, match=rf"{op}: reduction must be one of .* got 'median'"):
        loss(a, b, reduction="median")
    with pytest.raises(ValueError, match=rf"{op}: sample_weight .* per sample \(6,\), got \(5,\)"):
        loss(a, b, sample_weight=torch.ones(5))
    with pytest.raises(TypeError, match=rf"{op}: sample_weight must be a torch.Tensor, got list"):
        loss(a, b, sample_weight=[1.0] * 6)
    with pytest.raises(TypeError, match=f"{op}: sample_weight must be a dense tensor, got layout"):
        loss(a, b, sample_weight=torch.ones(6).to_sparse())
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


@pytest.mark.parametrize("module", ["NTXentLoss", "VICRegLoss", "BarlowTwinsLoss", "DCLLoss"])
def test_gather_distributed_without_process_groups_is_one_process(module):
    make = getattr(losses, module)
    a, b = pair_rows(6, 4)
    torch.testing.assert_close(make(gather_distributed=True)(a, b), make()(a, b))


def test_numpy_numbers_are_numbers():
    a, b = pair_rows(6, 4)
    assert torch.equal(
        F.nt_xent(a, b, temperature=np.float32(0.5)), F.nt_xent(a, b, temperature=0.5)
    )
    assert torch.equal(F.vicreg(a, b, invariance=np.int64(2)), F.vicreg(a, b, invariance=2))
    smooth = F.info_nce(a, b, label_smoothing=np.float32(0.25))
    assert torch.equal(smooth, F.info_nce(a, b, label_smoothing=0.25))
    dims = np.array([2, 4])
    assert torch.equal(
        F.matryoshka("nt_xent", a, b, dims=dims), F.matryoshka("nt_xent", a, b, dims=[2, 4])
    )


@pytest.mark.parametrize("name", [*WEIGHTED, "sup_con"])
def test_weights_that_leave_no_mean(name):
    (z, *rest), loss = CASES[name].make(8, 4)
    weight = torch.zeros(8, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"{name}: sample_weight must have a positive sum for"):
        loss(z, *rest, sample_weight=weight)
    assert loss(z, *rest, sample_weight=weight, reduction="sum") == 0


def test_weights_of_isolated_rows_alone_leave_no_mean():
    z, graph = pair_rows(8, 4)[0], weighted_graph(8)  # the last row has no edge
    weight = torch.zeros(8, dtype=torch.float64)
    weight[-1] = 1.0
    with pytest.raises(ValueError, match="positive sum over the rows with an edge"):
        F.graph_info_nce(z, graph, sample_weight=weight)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda a, b: F.nt_xent(a.to_sparse(), b), TypeError, "z1 must be a dense tensor, got lay"),
        (
            lambda a, b: F.vicreg(a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn)),
            TypeError,
            "z1 must be float64, float32, bfloat16 or float16, got torch.float8",
        ),
        (lambda a, b: F.sup_con(a, None), TypeError, "labels must be integers, got NoneType"),
        (lambda a, b: F.sup_con(a, "abcdef"), TypeError, "labels must be integers, got str"),
        (lambda a, b: F.nt_xent(a, b, group="g"), TypeError, "group must be a torch.distributed"),
        (
            lambda a, b: F.siglip(a, b, 1.0, torch.tensor(float("nan"))),
            ValueError,
            "logit_bias must be finite, got nan",
        ),
        (lambda a, b: F.matryoshka("nt_xent", a, b, dims=4), TypeError, "dims must be a sequence"),
        (
            lambda a, b: F.matryoshka("nt_xent", a, b, dims=[4], weights=1.0),
            TypeError,
            "weights must be a sequence of numbers, got float",
        ),
        (
            lambda a, b: F.matryoshka("info_nce", a, b, dims=[4], negatives=a[0]),
            ValueError,
            "negatives must have 2 dimensions",
        ),
        (
            lambda a, b: F.matryoshka("clip", a, b, dims=[4], negatives=a),
            TypeError,
            "negatives are for loss='info_nce', got loss='clip'",
        ),
        (lambda a, b: F.falcon(a, b, n_codes=-1), ValueError, "n_codes must be at least 1, got -1"),
        (lambda a, b: F.falcon(a, b, seed=None), TypeError, "seed must be an integer, got None"),
        (lambda a, b: F.dcl(a, b, weight_fn="x"), TypeError, "weight_fn must be callable, got str"),
        (lambda a, b: sf.NTXentLoss(memory_bank_size=None), TypeError, "memory_bank_size must be"),
        (lambda a, b: sf.SupConLoss(base_temperature=0), ValueError, "base_temperature must be"),
        (lambda a, b: sf.SupConLoss()(a.view(3, 2, 4), mask=[[1]]), TypeError, "mask must be a t"),
        (lambda a, b: sf.SupConLoss()(a.view(6, 1, 4)[:0]), ValueError, "features must not be em"),
        (lambda a, b: sf.CLIPLoss(world_size=2), ValueError, "world_size must be 1 before .* 2"),
        (lambda a, b: sf.SigLIPLoss(world_size=2), ValueError, "world_size must be 1 before .* 2"),
        (lambda a, b: sf.CLIPLoss(world_size=0), ValueError, "world_size must be at least 1"),
        (lambda a, b: sf.CLIPLoss(world_size=2, use_horovod=True), ValueError, "use_horovod must"),
    ],
)
def test_what_once_failed_inside_torch(call, error, message):
    with pytest.raises(error, match=message):
        call(*pair_rows(6, 4))


def test_modules_show_their_settings():
    assert repr(sf.NTXentLoss(0.2)).startswith("NTXentLoss(temperature=0.2, memory_bank_size=0")
    assert repr(sf.CLIPLoss(local_loss=True, world_size=1)) == "CLIPLoss()"
    z = pair_rows(6, 4)[0].view(3, 2, 4)
    mask = torch.eye(3)
    with_ratio = sf.SupConLoss(0.1, base_temperature=0.05)(z, mask=mask)
    torch.testing.assert_close(
        with_ratio, 2 * sf.SupConLoss(0.1, base_temperature=None)(z, mask=mask)
    )
