"""Every loss under torch.compile(fullgraph=True): no graph break, same value and gradient."""

import pytest
import torch
import torch._dynamo.testing

import sslspec_fast.functional as F
from sslspec_fast import PairGraph

from ..support.cases import CASES
from ..support.inputs import graphs, pair_rows, unit, weighted_graph
from ..support.versions import TORCH, traces_graphs

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


OF_STORED_GRAPHS = (
    "graph_info_nce_labels",
    "graph_info_nce_directed",
    "ls_simclr",
    "ls_simclr_centred",
    "graph_covariance_directed",
    "graph_siglip",
    "graph_siglip_labels",
    "ls_simclr_nested",
)


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def assert_same_compiled(function, *leaves):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    ours, expected = compiled(*leaves), function(*leaves)
    torch.testing.assert_close(ours, expected)
    grads, wanted = (torch.autograd.grad(v.sum(), leaves) for v in (ours, expected))
    torch.testing.assert_close(grads, wanted)


@pytest.mark.parametrize("impl", ["fused", "torch"])
@pytest.mark.parametrize("name", CASES)
def test_fullgraph(name, impl):
    case = CASES[name]
    if TORCH < (2, 5) and impl == "fused" and name in OF_STORED_GRAPHS:
        pytest.skip("torch 2.4 does not trace through objects as arguments or attributes")
    if TORCH < (2, 5) and (name, impl) == ("ibot", "torch"):
        pytest.skip("torch 2.4 does not trace through sizes that depend on values")
    inputs, loss = case.make(max(10, case.min_rows), 4)
    leaves = [x.requires_grad_() for x in inputs]
    assert_same_compiled(lambda *x: loss(*x, impl=impl), *leaves)


def test_learnable_temperature_and_scale():
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    t = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    bias = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    assert_same_compiled(lambda a, b, t: F.nt_xent(a, b, temperature=t), a, b, t)
    assert_same_compiled(lambda a, b, t: F.clip(unit(a), unit(b), 1 / t), a, b, t)
    assert_same_compiled(
        lambda a, b, t, bias: F.siglip(unit(a), unit(b), 1 / t, bias), a, b, t, bias
    )


@pytest.mark.parametrize("keywords", [{"label_smoothing": 0.1}, {"tau_plus": 0.1}], ids=str)
def test_softmax_options(keywords):
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    assert_same_compiled(lambda a, b: F.nt_xent(a, b, reduction="none", **keywords), a, b)


OPTIONS = {
    "others": {},
    "non_positive": {"negatives": "non_positive"},
    "ids": {"ids": torch.arange(24) % 5},
    "tau_plus": {"tau_plus": 0.1},
}


@traces_graphs
@pytest.mark.parametrize("keywords", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("name", graphs(24))
def test_info_nce_on_graphs_that_nobody_has_materialised(name, keywords):
    graph, z = graphs(24)[name], pair_rows(24, 4)[0].requires_grad_()
    compiled = torch.compile(
        lambda z: F.graph_info_nce(z, graph, **keywords), fullgraph=True, backend="aot_eager"
    )
    expected = F.graph_info_nce(z, graphs(24)[name], **keywords)
    for value in (compiled(z), compiled(z)):
        torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(z), z), torch.autograd.grad(expected, z)
    )


@traces_graphs
def test_one_compiled_loss_on_a_new_label_graph_every_step():
    """A graph that torch.compile can trace is an input, not a constant."""
    recompiled = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(
        lambda z, graph: F.graph_info_nce(z, graph, negatives="non_positive"),
        fullgraph=True,
        backend=recompiled,
    )
    z = pair_rows(24, 4)[0]
    for shift in range(5):
        graph = PairGraph.from_labels((torch.arange(24) + shift) % 6 // 2)
        torch.testing.assert_close(
            compiled(z, graph), F.graph_info_nce(z, graph, negatives="non_positive")
        )
    assert recompiled.frame_count <= 2


FRESH = {
    "sum of views and labels": lambda k: (
        PairGraph.from_views(12) + PairGraph.from_labels((torch.arange(24) + k) % 7)
    ),
    "sum with edges": lambda k: PairGraph.from_views(12) + 0.5 * weighted_graph(24, seed=k),
    "class means with self loops": lambda k: PairGraph.from_labels(
        (torch.arange(24) + k) % (4 + k % 2), weight="class_size", self_loops=True
    ),
    "edges": lambda k: weighted_graph(24, seed=k),
    "multiple": lambda k: (1.0 + k) * PairGraph.from_labels((torch.arange(24) * (k + 1)) % 7),
}


@pytest.mark.parametrize(
    ("impl", "materialised"), [("fused", False), ("fused", True), ("torch", False)]
)
@traces_graphs
@pytest.mark.parametrize("keywords", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("make", FRESH.values(), ids=FRESH)
def test_a_new_graph_never_meets_the_entries_of_an_earlier_one(make, keywords, impl, materialised):
    compiled = torch.compile(F.graph_info_nce, backend="eager", fullgraph=True)
    z = pair_rows(24, 4)[0]
    for k in range(3):
        graph = make(k)
        if materialised:
            graph.csr()
        expected = F.graph_info_nce(z, make(k), **keywords)
        torch.testing.assert_close(compiled(z, graph, impl=impl, **keywords), expected)


@traces_graphs
@pytest.mark.parametrize("make", FRESH.values(), ids=FRESH)
@pytest.mark.parametrize(
    "loss",
    [
        F.graph_vicreg,
        F.graph_barlow_twins,
        F.graph_spectral_contrastive,
        F.ls_simclr,
        F.dirichlet_energy,
        F.graph_covariance,
    ],
)
def test_other_losses_on_a_new_graph_every_step(loss, make):
    compiled = torch.compile(loss, backend="eager", fullgraph=True)
    z = pair_rows(24, 4)[0]
    for k in range(3):
        torch.testing.assert_close(compiled(z, make(k)), loss(z, make(k)))


@pytest.mark.parametrize(
    "name", ["nt_xent", "info_nce", "dcl", "vicreg", "barlow_twins", "spectral_contrastive"]
)
def test_one_program_for_every_number_of_rows(name):
    counter = torch._dynamo.testing.CompileCounterWithBackend("eager")
    compiled = torch.compile(getattr(F, name), fullgraph=True, dynamic=True, backend=counter)
    for n in range(8, 20):  # on one side of d: losses choose the cheaper side by shape
        a, b = pair_rows(n, 6)
        torch.testing.assert_close(compiled(a, b), getattr(F, name)(a, b))
    assert counter.frame_count <= 2


def test_matryoshka():
    a, b = (x.requires_grad_() for x in pair_rows(8, 4))
    assert_same_compiled(lambda a, b: F.matryoshka("nt_xent", a, b, dims=[2, 4]), a, b)


def test_dynamic_rows():
    """One compiled function, batches of several sizes."""
    compiled = torch.compile(F.nt_xent, fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (5, 9, 17):
        a, b = pair_rows(n, 4)
        torch.testing.assert_close(compiled(a, b), F.nt_xent(a, b))
