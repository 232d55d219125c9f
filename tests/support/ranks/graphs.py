"""What the ranks do for test_graphs.py. Every function takes the group first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse
import torch
import torch.distributed as dist
from torch import Tensor

import sslspec_fast as sf
import sslspec_fast.functional as F

from .batch import N, Own, batch
from .cases import graph_of
from .work import relative

D = torch.float64
KINDS = ("labels", "loops", "edges", "weights", "directed", "sum")


def held(group: Any, split: tuple[int, ...]) -> Own:
    rank = dist.get_rank(group)
    start = sum(split[:rank])
    return Own(batch(5), slice(start, start + split[rank]), rank, len(split))


def facts(group: Any, kind: str, split: tuple[int, ...]) -> dict[str, Any]:
    """Every fact of a graph over ranks against that of the whole graph: what differs."""
    own = held(group, split)
    whole, over = graph_of(kind, Own(own.data)), graph_of(kind, own, group)
    wrong: dict[str, Any] = {}

    def compare(name: str, got: Any, want: Any) -> None:
        same = torch.allclose(got, want) if isinstance(want, Tensor) else got == want
        if not same:
            wrong[name] = (got, want)

    pairs = {"": (over, whole), "half of ": (0.5 * over, 0.5 * whole)}
    pairs["no diagonal of "] = over.without_diagonal(), whole.without_diagonal()
    for of, (g, h) in pairs.items():
        for name in ("kind", "nnz", "is_symmetric", "has_self_loops", "has_negative_weights"):
            compare(of + name, getattr(g, name), getattr(h, name))
        compare(of + "n", g.n, split[own.rank])
        compare(of + "volume", torch.tensor(g.volume), torch.tensor(h.volume))
        compare(of + "degree", g.degree, h.degree[own.rows])
        compare(of + "diagonal", g.diagonal(), h.diagonal()[own.rows])
        norms = torch.tensor(g.frobenius_sq()), torch.tensor(h.frobenius_sq())
        compare(of + "frobenius_sq", *norms)
        compare(of + "column_degree", g.column_degree, h.column_degree[own.rows])
        count, labels = h.connected_components()
        compare(of + "components", g.connected_components()[0], count)
        compare(of + "labels", g.connected_components()[1], labels[own.rows])
        alone = torch.zeros(N, dtype=torch.bool)
        alone[h.isolated] = True
        compare(of + "isolated", g.isolated, alone[own.rows].nonzero()[:, 0])
        rows = h.to_scipy()[own.rows].toarray()
        compare(of + "rows", torch.from_numpy(g.to_scipy().toarray()), torch.from_numpy(rows))
    compare("nothing", (0 * over).nnz, 0)
    both = over + graph_of("weights", own, group)
    rows = (whole + graph_of("weights", Own(own.data))).to_scipy()[own.rows].toarray()
    compare("a sum", torch.from_numpy(both.to_scipy().toarray()), torch.from_numpy(rows))
    return wrong


def norms_of_sums(group: Any, split: tuple[int, ...]) -> float:
    """Sums of views, which stay on a rank, with labels and edges, which do not. A norm does not
    depend on the order of rows, which is that of the ranks.
    """
    own, worst = held(group, split), 0.0
    for name, loops in (("labels", False), ("labels", True), ("weights", False)):

        def both(own: Own, name: str = name, loops: bool = loops, **keywords: Any) -> Any:
            views = sf.PairGraph.from_views(len(own["labels"]), **keywords)
            rows = torch.arange(N)[own.rows]
            if name == "labels":
                given = own["labels"].repeat(2)
                other = sf.PairGraph.from_labels(given, self_loops=loops, **keywords)
                more = sf.PairGraph.from_labels(rows.repeat(2) // 3, **keywords)
                return views + 0.5 * other + more
            count = len(rows)
            at = torch.arange(2 * count)
            first = 2 * int(rows[0]) if count else 0
            ring = torch.cat([at[count:], at[:count]]) + first  # the other view
            return 2 * views + sf.PairGraph.from_edges(at, ring, n=2 * count, **keywords)

        want, got = both(Own(own.data)).frobenius_sq(), both(own, group=group).frobenius_sq()
        worst = max(worst, abs(got - want) / want)
    return worst


def products(group: Any, kind: str, split: tuple[int, ...]) -> dict[str, float]:
    """Products and their gradients, for gradients from above that differ between ranks."""
    own = held(group, split)
    whole, over = graph_of(kind, Own(own.data)), graph_of(kind, own, group)
    g = torch.Generator().manual_seed(1)
    x, y = (torch.randn(N, 3, generator=g, dtype=D) for _ in "xy")
    factor = torch.randn(N, 3, generator=g, dtype=D)
    calls: dict[str, Callable[..., Tensor]] = {
        "matmul": lambda g, x, y: g @ x + 0 * y,
        "edge_dot": lambda g, x, y: g.edge_dot(x, y)[:, None],
        "edge_sqdist": lambda g, x, y: g.edge_sqdist(x)[:, None] + 0 * y[:, :1],
    }
    errors = {}
    for name, call in calls.items():
        leaves = [t.clone().requires_grad_() for t in (x, y)]
        mine = [t[own.rows].clone().requires_grad_() for t in (x, y)]
        want, got = call(whole, *leaves), call(over, *mine)
        want_grads = torch.autograd.grad((want * factor).sum(), leaves)
        got_grads = torch.autograd.grad((got * factor[own.rows]).sum(), mine)
        found = [(got.detach(), want.detach()[own.rows])]
        found += [(a, b[own.rows]) for a, b in zip(got_grads, want_grads, strict=True)]
        errors[name] = max(float((a - b).abs().max()) if len(a) else 0.0 for a, b in found)
    return errors


def covariance(group: Any, split: tuple[int, ...], impl: str) -> dict[str, float]:
    """A (d, d) matrix that every rank has, and the gradient of what is made of it."""
    own = held(group, split)
    whole, over = graph_of("weights", Own(own.data)), graph_of("weights", own, group)
    x = own.data["x1"].clone().requires_grad_()
    mine = x.detach()[own.rows].clone().requires_grad_()
    want, got = F.graph_covariance(x, whole), F.graph_covariance(mine, over, impl=impl)
    factor = torch.linspace(-1, 1, 36, dtype=D).view(6, 6)
    (want * factor).sum().backward()
    (got * factor).sum().backward()
    return {
        "value": relative(got.detach(), want.detach()),
        "rows": float((mine.grad - len(split) * x.grad[own.rows]).abs().sum()),
    }


def compiled(group: Any, name: str) -> dict[str, float]:
    """One graph of torch.compile, on a PairGraph over ranks."""
    own = held(group, (5, 8))
    kind = "edges" if name == "graph_siglip" else "weights"
    whole, over = graph_of(kind, Own(own.data)), graph_of(kind, own, group)
    loss: Callable[..., Tensor] = getattr(F, name)
    if name == "graph_siglip":

        def loss(z: Tensor, graph: sf.PairGraph) -> Tensor:
            return F.graph_siglip(z, z.detach(), graph, 2.0, -1.0)

    x = own.data["x1"].clone().requires_grad_()
    mine = x.detach()[own.rows].clone().requires_grad_()
    step = torch.compile(lambda z: loss(1.5 * z, over), fullgraph=True, backend="aot_eager")
    want, got = loss(1.5 * x, whole), step(mine)
    want.backward()
    got.backward()
    return {
        "value": relative(got.detach(), want.detach()),
        "rows": float((mine.grad - 2 * x.grad[own.rows]).abs().sum()),
    }


def module(group: Any) -> float:
    """GraphLoss takes a graph over ranks, with or without the group."""
    own = held(group, (5, 4, 4))
    z, graph = own.data["x1"], graph_of("labels", own, group)
    want = sf.GraphLoss("vicreg")(z, graph_of("labels", Own(own.data)))
    got = sf.GraphLoss("vicreg")(z[own.rows], graph)
    again = sf.GraphLoss("vicreg", group=group)(z[own.rows], graph)
    return max(relative(got, want), float((got - again).abs()))


def neighbours(group: Any, split: tuple[int, ...], scale: float) -> int:
    """How many graphs of nearest neighbours differ from those of one process."""
    own, different = held(group, split), 0
    x = own.data["x1"] * scale
    x[4] = x[9]  # a copy
    kinds = (x, x.float()) if scale == 1 else (x,)
    for metric in ("euclidean", "cosine"):
        for weight in ("connectivity", "heat"):
            for mutual in (False, True):
                for rows in kinds:
                    options: Any = {"metric": metric, "weight": weight, "mutual": mutual}
                    want = sf.PairGraph.from_knn(rows, 4, backend="exact", **options)
                    got = sf.PairGraph.from_knn(rows[own.rows], 4, group=group, **options)
                    a, b = want.to_scipy()[own.rows], got.to_scipy()
                    different += int((a != b).nnz > 0 or not got.is_symmetric)
    return different


def spectra(group: Any, kind: str, split: tuple[int, ...]) -> dict[str, float]:
    """eigsh and a closed form of a graph over ranks, against one process."""
    own = held(group, split)
    whole, over = graph_of(kind, Own(own.data)), graph_of(kind, own, group)
    want, got = sf.eigsh(whole, 3), sf.eigsh(over, 3)
    best, mine = sf.spectral.simclr(whole, 2), sf.spectral.simclr(over, 2)
    z = torch.as_tensor(mine.embedding)
    return {
        "values": relative(torch.as_tensor(got.values), torch.as_tensor(want.values)),
        "loss": abs(float(mine.loss) - float(best.loss)) / abs(float(best.loss)),
        "rows": float(len(z) != split[own.rank]),
    }


def operators(group: Any, kind: str, split: tuple[int, ...]) -> dict[str, float]:
    """Adjacency and Laplacian of a graph over ranks: products, bounds and eigenpairs."""
    own = held(group, split)
    whole, over = graph_of(kind, Own(own.data)), graph_of(kind, own, group)
    x = torch.randn(N, 3, generator=torch.Generator().manual_seed(1), dtype=D)
    errors: dict[str, float] = {}
    for make in (sf.operators.adjacency, sf.operators.laplacian):
        for normalized in (False, True):
            one, ours = make(whole, normalized), make(over, normalized)
            name = f"{make.__name__} {normalized} "
            off = (ours @ x[own.rows]) - (one @ x)[own.rows]
            errors[name + "product"] = float(off.abs().max()) if len(off) else 0.0
            same = np.allclose(ours.bounds(), one.bounds(), rtol=1e-12)
            errors[name + "bounds"] = 0.0 if same or not one.bounds() else 1.0
            known = [sum(pairs.vectors.count for pairs in op.known()) for op in (one, ours)]
            errors[name + "known"] = float(known[0] != known[1])
            which = "SA" if make is sf.operators.laplacian else "LA"
            got, want = (sf.eigsh(op, 3, which=which).values for op in (ours, one))
            errors[name + "values"] = float(np.abs(np.subtract(got, want)).max())
    return errors


def _rows(k: int, columns: int = 6) -> Any:
    return scipy.sparse.csr_array(np.eye(columns)[:k])


def refused(group: Any, name: str) -> str:
    """The error of a call of two ranks, of which rank 1 is the odd one where one is."""
    odd = dist.get_rank(group) == 1
    make = sf.PairGraph
    z = torch.ones(3, 2, dtype=D)
    empty: list[int] = []
    views = {"group": group}

    def unlike() -> Any:
        graphs = [make.from_labels([0, k, 0], group=group) for k in (0, 1)]
        return F.dirichlet_energy(z, graphs[odd])

    calls: dict[str, Callable[[], Any]] = {
        "columns": lambda: make.from_edges([0], [6 if odd else 5], n=3, group=group),
        "rows": lambda: make.from_edges([3 if odd else 2], [0], n=3, group=group),
        "weights": lambda: make.from_edges([0], [0], [np.nan if odd else 1.0], n=3, group=group),
        "shape": lambda: make.from_sparse(_rows(2), group=group),
        "columns of A": lambda: make.from_sparse(_rows(2, 5 if odd else 6), group=group),
        "labels": lambda: make.from_labels([0.5] if odd else [0], group=group),
        "weight": lambda: make.from_labels(
            [0, 0], weight="uniform" if odd else "class_size", group=group
        ),
        "no rows": lambda: make.from_labels(empty, group=group),
        "views": lambda: make.from_views(2, 3 if odd else 2, group=group),
        "another graph": unlike,
        "rows of z": lambda: F.ls_simclr(
            torch.ones(2 if odd else 3, 2, dtype=D), make.from_labels([0] * 3, group=group)
        ),
        "penalty": lambda: F.graph_vicreg(
            z,
            make.from_labels([0] * 3, group=group),
            penalty="ls_var" if odd else "ls_std",
        ),
        "directed": lambda: F.ls_simclr(z, make.from_edges([0], [1], n=3, group=group)),
        "one process": lambda: F.ls_simclr(z, make.from_labels([0] * 3), **views),
        "order": lambda: make.from_labels([0] * 3, group=group).reorder(),
        "weights of targets": lambda: F.graph_siglip(
            z, z, make.from_edges([0], [1], [2.0 if odd else 0.5], n=3, group=group), 1.0, 0.0
        ),
        "images": lambda: F.graph_siglip(
            *[torch.ones(2 if odd else 3, 2, dtype=D)] * 2,
            make.from_labels([0] * 3, group=group),
            1.0,
            0.0,
        ),
        "no negative": lambda: F.graph_info_nce(
            z, make.from_labels([0] * 3, group=group), negatives="non_positive"
        ),
        "operator": lambda: sf.operators.laplacian(
            make.from_edges([0], [1], n=3, group=group), normalized=True
        ),
        "signed": lambda: sf.operators.adjacency(
            make.from_edges(
                [0], [4 - 3 * odd], [1.0 if odd else -2.0], n=3, symmetrize=True, group=group
            ),
            normalized=True,
        ),
        "neighbours": lambda: make.from_knn(z, 6, group=group),
        "number of neighbours": lambda: make.from_knn(z, 3 if odd else 2, group=group),
        "no neighbours": lambda: make.from_knn(z, 0 if odd else 2, group=group),
        "approximate": lambda: make.from_knn(z, 2, backend="faiss", group=group),
    }
    try:
        calls[name]()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""
